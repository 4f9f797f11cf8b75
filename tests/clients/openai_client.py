#!/usr/bin/env python3
"""The official OpenAI client through the proxy, against the demo's scripted model.

    remora demo --json …                         # serves proxy and model until Ctrl-C
    openai_client.py --base-url http://127.0.0.1:4141/v1

Each check prints a line. Exit status: 0, or 1 where a check failed.
"""
import argparse
import asyncio
import json
import sys
import traceback

import openai

MODEL = "desk-model-1"
HELLO = [{"role": "user", "content": "Hello, who are you?"}]
ORDER = [{"role": "user", "content": "Hello, where is my order W12345? I am waiting for the oak chair."}]
TOOLS = [{
    "type": "function",
    "function": {
        "name": "look_up_order",
        "description": "Reads an order.",
        "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
    },
}]


def plain(client):
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.id.startswith("chatcmpl-"), answer
    assert answer.choices[0].finish_reason == "stop", answer
    assert "support desk" in answer.choices[0].message.content, answer
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer


def streamed(client):
    whole = client.chat.completions.create(model=MODEL, messages=HELLO).choices[0].message.content
    chunks = list(client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}))
    assert len(chunks) > 10, len(chunks)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole, text
    assert chunks[-1].usage.total_tokens > 0, chunks[-1]


def tools(client):
    def call_of(message):
        call = message.tool_calls[0]
        assert call.function.name == "look_up_order", message
        assert json.loads(call.function.arguments) == {"order_id": "W12345"}, message
        return call

    answer = client.chat.completions.create(model=MODEL, messages=ORDER, tools=TOOLS)
    call = call_of(answer.choices[0].message)
    history = ORDER + [
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"order_id": "W12345", "status": "shipped"})},
    ]
    last = client.chat.completions.create(model=MODEL, messages=history, tools=TOOLS)
    assert "shipped" in last.choices[0].message.content, last

    with client.chat.completions.stream(model=MODEL, messages=ORDER, tools=TOOLS) as stream:
        call_of(stream.get_final_completion().choices[0].message)


def errors(client):
    try:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error
    else:
        raise AssertionError("an unknown model was answered")
    try:
        client.chat.completions.create(model=MODEL, messages=[])
    except openai.BadRequestError as error:
        assert "messages" in str(error), error
    else:
        raise AssertionError("a request without messages was answered")


def models(client):
    assert [m.id for m in client.models.list()] == [MODEL]


def raw_headers(client):
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert raw.headers["content-type"] == "application/json", raw.headers
    assert raw.parse().choices[0].message.role == "assistant"


def cancelled(client):
    """A stream left in the middle; the connection pool must still be usable."""
    for _ in range(3):
        stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        for number, _chunk in enumerate(stream):
            if number == 3:
                break
        stream.close()
    plain(client)


async def concurrent(base_url):
    async with openai.AsyncOpenAI(base_url=base_url, api_key="demo-key", max_retries=0) as client:
        async def one(number):
            messages = [{"role": "user", "content": f"Hello number {number}"}]
            if number % 2:
                stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
                return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
            answer = await client.chat.completions.create(model=MODEL, messages=messages)
            return answer.choices[0].message.content

        texts = await asyncio.gather(*(one(n) for n in range(16)))
        assert len(set(texts)) == 1 and "support desk" in texts[0], texts

        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        async for _chunk in stream:
            break
        await stream.close()
        task = asyncio.create_task(one(1))
        await asyncio.sleep(0.03)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        assert "support desk" in await one(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True, help="of the proxy, with /v1")
    options = parser.parse_args()
    client = openai.OpenAI(base_url=options.base_url, api_key="demo-key", max_retries=0)
    checks = [(f.__name__, lambda f=f: f(client))
              for f in (plain, streamed, tools, errors, models, raw_headers, cancelled)]
    checks.append(("async", lambda: asyncio.run(concurrent(options.base_url))))
    failed = 0
    for name, check in checks:
        try:
            check()
            print(f"openai client {openai.__version__}: {name}: ok")
        except Exception:
            failed += 1
            print(f"openai client {openai.__version__}: {name}: FAILED")
            traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
