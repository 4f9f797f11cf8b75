"""An upstream that streams: every POST is answered with 100 server-sent events, one chunk each.

stream_upstream.py PORT_FILE: listens on a free port and writes its number there. It waits 10 ms between two chunks; with
`x-bench-burst: 1` in the request only after the first, so that this one is alone on its way.
"""

import asyncio
import os
import sys

EVENTS = 100
PACE_MS = 10


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(number):
    return chunk(
        b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"bench","choices":'
        b'[{"index":0,"delta":{"content":" word%d"},"finish_reason":null}]}\n\n' % number
    )


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECES = [HEAD + event(0)]
PIECES += [event(number) for number in range(1, EVENTS - 2)]
PIECES += [
    chunk(
        b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"bench","choices":'
        b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    ),
    chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n",
]


def fields(head):
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in lines}


async def serve(reader, writer):
    try:
        while True:
            sent = fields(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(int(sent[b"content-length"]))
            burst = b"x-bench-burst" in sent
            for number, piece in enumerate(PIECES):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0 if burst and number > 0 else PACE_MS / 1000)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(port_file):
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    with open(port_file + ".new", "w") as file:
        file.write(str(server.sockets[0].getsockname()[1]))
    os.rename(port_file + ".new", port_file)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1]))
    except KeyboardInterrupt:
        pass
