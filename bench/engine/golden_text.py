#!/usr/bin/env python3
"""Makes the golden values of the tests of tokenizers and chat templates, as transformers have them.

Writes DIR/text/{smollm2,vocabularies,templates}.json and DIR/text/directory/ (default DIR: tests/data/engine).
--model names the default model's GGUF file, whose lists of tokens and merges a tokenizer of transformers is made from.
"""

import argparse
import json
import pathlib

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

TEXTS = [
    "Hello, world!",
    " two  spaces,   three\tand a tab",
    "Numbers: 1, 42, 2024, 1234567 and ½ or ٣٤",
    "I'll say it's what they've got; DON'T you'd",
    "lines\n\n\nand more\r\n  indented\n",
    "naïve café — cafe\u0301 😀👍🏽 日本語のテキスト",
    'fn main() { println!("{}", x[0] += 1); } // ok?',
    "",
]

CORPUS = TEXTS * 3 + ["the cat sat on the mat and the hat; that was that, they said. " * 4, "1 22 333 4444 55555 " * 4]

CHATS = [
    [{"role": "user", "content": "What is 2 + 2?"}],
    [
        {"role": "system", "content": "  You are terse.\n"},
        {"role": "user", "content": "Sky's colour?"},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Sure? <b>\"quoted\"</b> & é 😀"},
    ],
    [{"role": "assistant", "content": "I begin"}, {"role": "user", "content": "no, I do"}],
]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Finds a <word> & says it's \"there\"",
            "parameters": {"type": "object", "properties": {"word": {"type": "string"}, "n": {"type": "integer", "default": 3}}},
        },
    }
]

# Written for these tests in the manner of the families' own: each uses what those use of Jinja.
TEMPLATES = {
    "qwen2": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "Tools:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1, seen=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if not ns.seen and message.role == "user" and message.content is string %}
        {%- set ns.seen = true %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content.strip() }}
        {%- if loop.index0 == ns.last %}{{- ' (last)' }}{%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}
{% for message in loop_messages %}
  {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
  {% endif %}
  {% if message['role'] == 'user' %}
    {% if loop.first and system is defined %}
{{ '[INST] ' + system.split('.')[0] + '\\n\\n' + message['content'] + ' [/INST]' }}
    {% else %}
{{ '[INST] ' ~ message.get('content', '') ~ ' [/INST]' }}
    {% endif %}
  {% elif message['role'] == 'assistant' %}
{{ ' ' + message['content'].rstrip() + eos_token }}
  {% endif %}
{% endfor %}
""",
    "printing": """{{ none }} {{ true }} {{ messages | length > 2 }} {{ messages[0] }} {{ [1, 2.5, 'a', "it's"] }} {{ undefined_name }}|{{ (messages | first).role.upper() }}{% for k, v in messages[0].items() %} {{ k }}={{ v | length }}{% endfor %}{% for m in messages if m.role == 'user' %}{{ loop.index }}{% if loop.last %}{% break %}{% endif %}{% endfor %}
{% macro shout(s) %}{{ s | upper }}!{% endmacro %}{{ shout('a') }} {{ '%s-%d' | format('x', 3) }} {{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ 'a,b'.split(',')[1] }} {{ 'x' in 'xyz' }} {{ 7 // 2 }} {{ 'abc'.startswith('ab') }} {{ 'a b c'.replace(' ', '_') }} {{ messages[-1].content[:4] }}
""",
}


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=use_regex)


def words(digits):
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated", invert=False), byte_level(False)])


# As the families' tokenizer.json have them.
SPLITTERS = {
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "gpt-2": lambda: byte_level(True),
    "llama-bpe": lambda: words(r"\p{N}{1,3}"),
    "qwen2": lambda: words(r"\p{N}"),
}


def empty(splitter, model):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = SPLITTERS[splitter]()
    tokenizer.decoder = decoders.ByteLevel()
    if splitter == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def cases(tokenizer, texts):
    def case(text):
        ids = tokenizer.encode(text, add_special_tokens=False)
        return {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)}

    return [case(text) for text in texts]


def chats(tokenizer, template, special):
    out = []
    for messages in CHATS:
        for tools in [None, TOOLS]:
            case = {"messages": messages, "tools": tools}
            try:
                case["prompt"] = tokenizer.apply_chat_template(
                    messages, tools=tools, chat_template=template, tokenize=False, add_generation_prompt=True, **special
                )
            except Exception as e:
                case["error"] = str(e)
            out.append(case)
    return out


def smollm2(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = empty("smollm", models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, kinds) if kind == 3]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
    template = fields["tokenizer.chat_template"].contents()
    prompt = tokenizer.apply_chat_template(CHATS[1], chat_template=template, tokenize=False, add_generation_prompt=True)
    return {
        "cases": cases(tokenizer, TEXTS + [prompt, "<|im_start|><|im_end|> <|endoftext|>x<|im_"]),
        "chats": chats(tokenizer, template, {}),
    }


def trained(splitter):
    tokenizer = empty(splitter, models.BPE(ignore_merges=splitter == "llama-bpe"))
    special = ["<|begin|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
    return {
        "model": "gpt2",
        "splitter": splitter,
        "tokens": tokens,
        "kinds": [3 if t in special else 1 for t in tokens],
        "scores": [],
        "merges": [" ".join(merge) for merge in model["merges"]],
        "cases": cases(fast, TEXTS + ["<|begin|>the cat<|end|>"]),
    }


def sentence_piece():
    """A small vocabulary of SentencePiece's kind, encoded here by joining the neighbours of the best score."""
    text = "▁" + "▁".join(" ".join(CORPUS).split(" "))
    characters = sorted({c for c in text if ord(c) < 128} | {"▁", "é"})
    text = [c for c in text if c in characters]
    pieces, current = [], text
    while len(pieces) < 60:
        pairs = {}
        for a, b in zip(current, current[1:]):
            if not b.startswith("▁"):
                pairs[a + b] = pairs.get(a + b, 0) + 1
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        pieces.append(best)
        joined, i = [], 0
        while i < len(current):
            if i + 1 < len(current) and current[i] + current[i + 1] == best:
                joined.append(best)
                i += 2
            else:
                joined.append(current[i])
                i += 1
        current = joined
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + pieces + characters
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(pieces) + len(characters))
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces) + len(characters))]
    index = {t: i for i, t in enumerate(tokens)}

    def encode(text):
        parts = list("▁" + text.replace(" ", "▁")) if text else []
        while True:
            ways = [(scores[index[a + b]], -i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in index]
            if not ways:
                break
            at = -max(ways)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids = []
        for part in parts:
            ids += [index[part]] if part in index else [index[f"<0x{byte:02X}>"] for byte in part.encode()]
        return ids

    return {
        "model": "llama",
        "splitter": "default",
        "tokens": tokens,
        "kinds": kinds,
        "scores": scores,
        "merges": [],
        "cases": [{"text": text, "ids": encode(text), "decoded": text} for text in TEXTS],
    }


def directory(folder):
    """A tokenizer as Hugging Face keeps one, with a word that is added and one that is special."""
    tokenizer = empty("llama-bpe", models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<|begin|>", "<|eot_id|>", "<|end_of_text|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end_of_text|>", clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATES["llama3"])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [fast.convert_tokens_to_ids("<|eot_id|>")]}))
    texts = TEXTS + ["<|begin|>so <think>é</think><|eot_id|>"]
    return {"cases": cases(fast, texts), "stops": sorted(map(fast.convert_tokens_to_ids, ["<|eot_id|>", "<|end_of_text|>"]))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "tests/data/engine", metavar="DIR")
    parser.add_argument("--model", required=True, metavar="GGUF")
    args = parser.parse_args()
    folder = args.out / "text"
    (folder / "directory").mkdir(parents=True, exist_ok=True)

    def write(name, value):
        path = folder / name
        path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
        print(f"{path}: {path.stat().st_size} bytes")

    special = {"bos_token": "<s>", "eos_token": "</s>"}
    plain = PreTrainedTokenizerFast(tokenizer_object=empty("gpt-2", models.BPE()))
    write("smollm2.json", smollm2(args.model))
    write("vocabularies.json", [trained(splitter) for splitter in SPLITTERS] + [sentence_piece()])
    write("templates.json", [
        {"name": name, "template": template, "chats": chats(plain, template, special)}
        for name, template in TEMPLATES.items()
    ])
    write("directory.json", directory(folder / "directory"))


if __name__ == "__main__":
    main()
