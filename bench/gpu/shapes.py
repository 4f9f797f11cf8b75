#!/usr/bin/env python3
"""Randomly initialised Llamas in bf16, sharded by layer: speed depends on shapes, not on what a model knows.

    shapes.py 1b|7b DIR [--layers N]    does nothing when DIR is already there
"""

import argparse
import json
import os
import pathlib
import shutil

import tokenizers
import torch
from safetensors.torch import save_file

SHAPES = {
    # As Llama 3.2 1B.
    "1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "rope_theta": 500000.0, "tie_word_embeddings": True,
    },
    # As Llama 2 7B.
    "7b": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "head_dim": 128, "vocab_size": 32000, "rope_theta": 10000.0, "tie_word_embeddings": False,
    },
    # To try the script itself.
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512, "rope_theta": 10000.0, "tie_word_embeddings": True,
    },
}


def shards(config):
    """(file, {tensor: shape}) in order."""
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q, kv = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    outer = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        outer["lm_head.weight"] = (v, d)
    count = config["num_hidden_layers"] + 1
    yield f"model-00001-of-{count:05}.safetensors", outer
    for layer in range(count - 1):
        at = f"model.layers.{layer}."
        yield f"model-{layer + 2:05}-of-{count:05}.safetensors", {
            at + "input_layernorm.weight": (d,), at + "post_attention_layernorm.weight": (d,),
            at + "self_attn.q_proj.weight": (q, d), at + "self_attn.k_proj.weight": (kv, d),
            at + "self_attn.v_proj.weight": (kv, d), at + "self_attn.o_proj.weight": (d, q),
            at + "mlp.gate_proj.weight": (f, d), at + "mlp.up_proj.weight": (f, d), at + "mlp.down_proj.weight": (d, f),
        }


def make(shape, folder, layers=None):
    """`folder`, holding a model of the shape."""
    if folder.exists():
        return folder
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192, "attention_bias": False, "mlp_bias": False, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2,
    } | SHAPES[shape]
    config["num_hidden_layers"] = layers or config["num_hidden_layers"]
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
    scratch.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    where, total = {}, 0
    for file, tensors in shards(config):
        made = {}
        for name, size in tensors.items():
            noise = torch.randn(size, generator=generator, dtype=torch.float32)
            value = 1 + 0.02 * noise if len(size) == 1 else noise / size[-1] ** 0.5
            made[name] = value.to(torch.bfloat16)
            where[name] = file
            total += made[name].nbytes
        save_file(made, scratch / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (scratch / "model.safetensors.index.json").write_text(json.dumps(index))
    (scratch / "config.json").write_text(json.dumps(config, indent=2))
    # Nothing is tokenized here, but a checkpoint without a tokenizer is no checkpoint.
    words = tokenizers.Tokenizer(tokenizers.models.BPE(
        vocab={text: i for i, text in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}, merges=[],
    ))
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    words.save(str(scratch / "tokenizer.json"))
    (scratch / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    scratch.rename(folder)
    shutil.rmtree(scratch, ignore_errors=True)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--layers", type=int)
    given = parser.parse_args()
    print(make(given.shape, given.folder, given.layers))
