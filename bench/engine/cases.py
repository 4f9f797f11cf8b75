"""What both sides are given: chat texts as batches, adapters, prompts."""

import torch
import transformers

from reference import PROJECTIONS

KEYS = ["ids", "segments", "positions", "loss_weights"]

CHATS = [
    ("Why is the sky blue?", "Air scatters short waves of light more than long ones, so blue reaches the eye from everywhere."),
    ("Name three rivers in Europe.", "The Danube, the Rhine and the Volga."),
    ("How do I keep bread fresh?", "Wrap it in cloth, keep it at room temperature and eat it within three days; freeze the rest."),
    ("What is 17 times 6?", "17 times 6 is 102."),
    ("Give me a title for a story about a lost key.", "The Door That Waited"),
    ("Translate 'good morning' into Italian.", "Buongiorno."),
    ("Which planet has the most moons?", "Saturn has the most known moons, more than one hundred and forty."),
    ("Explain a hash table in one sentence.", "It finds a value by turning its key into a place in an array."),
    ("Is a tomato a fruit?", "Yes, botanically it is a berry; in the kitchen it counts as a vegetable."),
    ("What should I pack for a rainy hike?", "A jacket that keeps water out, dry socks, a map in a bag, food and a small lamp."),
    ("Who painted the ceiling of the Sistine Chapel?", "Michelangelo painted it between 1508 and 1512."),
    ("How long do I boil an egg?", "Six minutes for a soft yolk, ten for a hard one."),
    ("Write a short note to thank a neighbour.", "Thank you for watering the plants; they look better than when we left."),
    ("What does a compiler do?", "It turns a program that people write into one that a machine runs."),
    ("Which is heavier, iron or lead?", "Lead: about eleven grams a cubic centimetre against eight for iron."),
    ("Suggest a name for a grey cat.", "Pebble."),
    ("Why do leaves change colour?", "In autumn the green pigment breaks down and the yellow beneath it shows."),
    ("When was the printing press invented?", "Johannes Gutenberg built his around 1440 in Mainz."),
    ("How can I sleep better?", "Go to bed at the same time each night, dim the lights early and keep the room cool."),
    ("What is the capital of Australia?", "Canberra, which was chosen because Sydney and Melbourne could not agree."),
]


def speaker(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def prompt(tokenizer, question):
    asked = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]


def prompts(tokenizer, count=20):
    """`prompt.0` …, as `greedy` reads them."""
    return {f"prompt.{k}": torch.tensor(prompt(tokenizer, CHATS[k % len(CHATS)][0])) for k in range(count)}


def examples(tokenizer):
    """(tokens, weights) of each chat: 1 on the answer, the last of them 2, the first 0.5, so that weights matter."""
    for question, answer in CHATS:
        before = prompt(tokenizer, question)
        after = tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
        weights = [0.0] * len(before) + [1.0] * len(after)
        weights[len(before)], weights[-1] = 0.5, 2.0
        yield before + after, weights


def empty(rows, width):
    zeros = torch.zeros(rows, width, dtype=torch.int64)
    return {"ids": zeros, "segments": zeros.clone(), "positions": zeros.clone(), "loss_weights": torch.zeros(rows, width)}


def place(batch, row, start, segment, tokens, weights):
    span = slice(start, start + len(tokens))
    batch["ids"][row, span] = torch.tensor(tokens)
    batch["segments"][row, span] = segment
    batch["positions"][row, span] = torch.arange(len(tokens))
    batch["loss_weights"][row, span] = torch.tensor(weights)


def padded(chosen):
    """A row for each example, right-padded."""
    batch = empty(len(chosen), max(len(tokens) for tokens, _ in chosen))
    for row, (tokens, weights) in enumerate(chosen):
        place(batch, row, 0, 1, tokens, weights)
    return batch


def packed(rows):
    """Rows that hold several examples each."""
    batch = empty(len(rows), max(sum(len(tokens) for tokens, _ in row) for row in rows))
    for index, row in enumerate(rows):
        start = 0
        for segment, (tokens, weights) in enumerate(row, start=1):
            place(batch, index, start, segment, tokens, weights)
            start += len(tokens)
    return batch


def adapter(config, rank, seed, zero_b=False):
    """`lora.*` and `alpha`; B is random unless a training is to begin with it."""
    generator = torch.Generator().manual_seed(seed)
    hidden, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    query, key = config.num_attention_heads * head, config.num_key_value_heads * head
    sizes = [(hidden, query), (hidden, key), (hidden, key), (query, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]
    made = {"alpha": torch.tensor([2.0 * rank])}
    for layer in range(config.num_hidden_layers):
        for projection, (wide, out) in zip(PROJECTIONS, sizes):
            a = torch.randn(rank, wide, generator=generator) / wide**0.5
            b = 0.02 * torch.randn(out, rank, generator=generator)
            made[f"lora.{layer}.{projection}.A"] = a
            made[f"lora.{layer}.{projection}.B"] = torch.zeros_like(b) if zero_b else b
    return made
