#!/usr/bin/env python3
"""Makes the golden values of the tests that read GGUF: blocks of every encoding as gguf-py decodes them, and a tiny model.

Writes DIR/gguf/{encodings.safetensors, llama.gguf} (default DIR: tests/data/engine). The model is DIR/llama, converted as
llama.cpp converts: the rows of queries and keys sorted for a rotation of neighbours.
"""

import argparse
import pathlib

import gguf
import numpy
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file, save_file

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# Where the half-precision scales stand in a block; all other bytes can be anything.
SCALES = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
}


def encodings():
    random = numpy.random.default_rng(5)
    out = {}
    for kind, scales in SCALES.items():
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (max(2, 256 // elements // 4), size), dtype=numpy.uint8)
        for at in scales:
            half = random.uniform(-0.01, 0.05, len(blocks)).astype(numpy.float16)
            blocks[:, at : at + 2] = half.view(numpy.uint8).reshape(-1, 2)
        out[f"{kind.name}.stored"] = blocks
        out[f"{kind.name}.decoded"] = gguf.quants.dequantize(blocks, kind).astype(numpy.float32)
    return out


def sorted_rows(matrix, heads):
    """Row i of a head's first half to 2i, of its second half to 2i + 1."""
    halves = matrix.reshape(heads, 2, -1, *matrix.shape[1:])
    return numpy.ascontiguousarray(halves.swapaxes(1, 2)).reshape(matrix.shape)


NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

# Encodings of the first layer; the second is in f32.
FIRST = {"attn_q": Type.Q8_0, "attn_k": Type.Q4_1, "ffn_gate": Type.F16, "ffn_up": Type.BF16, "ffn_down": Type.Q4_0}


def model(weights, path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    table = [chr(c) for c in range(33, 127)]
    writer.add_token_list(["<|end|>", "ab"] + table)
    writer.add_token_types([3] + [1] * (len(table) + 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    for name, matrix in weights.items():
        parts = name.removesuffix(".weight").split(".", 3)
        if parts[1] == "layers":
            short = NAMES[parts[3]]
            heads = {"attn_q": 4, "attn_k": 2}.get(short)
            matrix = sorted_rows(matrix, heads) if heads else matrix
            kind = FIRST.get(short, Type.F32) if parts[2] == "0" else Type.F32
            name = f"blk.{parts[2]}.{short}.weight"
        else:
            kind = Type.F32
            name = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}[".".join(parts)] + ".weight"
        if kind == Type.F16:
            writer.add_tensor(name, matrix.astype(numpy.float16))
        elif kind == Type.F32:
            writer.add_tensor(name, matrix)
        else:
            writer.add_tensor(name, gguf.quants.quantize(matrix, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "tests/data/engine", metavar="DIR")
    args = parser.parse_args()
    folder = args.out / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(encodings(), folder / "encodings.safetensors")
    model(load_file(args.out / "llama" / "model.safetensors"), folder / "llama.gguf")
    for path in sorted(folder.iterdir()):
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
