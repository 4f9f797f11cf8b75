#!/usr/bin/env python3
"""A Llama GGUF as a Hugging Face directory in float32, so that every peer computes with the very same weights.

    model.py FILE.gguf DIR    does nothing when DIR is already there
"""

import json
import os
import pathlib
import shutil
import sys

import gguf
import numpy
import safetensors.numpy
import tokenizers

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL = 3  # token_type of tokens that stand for no text


def halves(rows, heads):
    """llama.cpp turns neighbouring rows of a query or key head together; Hugging Face row i with row i + half."""
    width = rows.shape[0] // heads
    return rows.reshape(heads, width // 2, 2, -1).transpose(0, 2, 1, 3).reshape(rows.shape)


def weights(reader, heads, kv_heads):
    tensors = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        part, _, _ = tensor.name.rpartition(".")
        if part in WHOLE:
            tensors[f"{WHOLE[part]}.weight"] = values
            continue
        _, layer, kind = part.split(".")
        if kind in ("attn_q", "attn_k"):
            values = halves(values, heads if kind == "attn_q" else kv_heads)
        tensors[f"model.layers.{layer}.{LAYER[kind]}.weight"] = numpy.ascontiguousarray(values)
    return tensors


def tokenizer(fields):
    """A byte-level BPE that splits numbers into digits, as SmolLM's does."""
    if fields["tokenizer.ggml.pre"] != "smollm":
        raise SystemExit(f"only the tokenizer of SmolLM is known here, not {fields['tokenizer.ggml.pre']}")
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens([
        tokenizers.AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"])
        if kind == CONTROL
    ])
    return made


def convert(path, folder):
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields["general.architecture"] != "llama":
        raise SystemExit(f"{path}: only llama is converted here, not {fields['general.architecture']}")
    hyper = {key.removeprefix("llama."): value for key, value in fields.items() if key.startswith("llama.")}
    heads, kv_heads = hyper["attention.head_count"], hyper["attention.head_count_kv"]
    tensors = weights(reader, heads, kv_heads)
    begin, end = fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hyper["embedding_length"],
        "intermediate_size": hyper["feed_forward_length"],
        "num_hidden_layers": hyper["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hyper["embedding_length"] // heads,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "max_position_embeddings": hyper["context_length"],
        "rms_norm_eps": float(f"{hyper['attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": hyper["rope.freq_base"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "torch_dtype": "float32",
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    names = fields["tokenizer.ggml.tokens"]
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[begin],
        "eos_token": names[end],
        "pad_token": names[end],
        "clean_up_tokenization_spaces": False,
        "chat_template": fields["tokenizer.chat_template"],
    }
    generation = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end}
    for name, value in [("config", config), ("tokenizer_config", about), ("generation_config", generation)]:
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")
    tokenizer(fields).save(str(folder / "tokenizer.json"))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def prepare(path, folder):
    """`folder`, holding the model of the GGUF file `path`."""
    folder = pathlib.Path(folder)
    if not folder.exists():
        scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
        scratch.mkdir(parents=True)
        try:
            convert(path, scratch)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    print(prepare(sys.argv[1], sys.argv[2]))
