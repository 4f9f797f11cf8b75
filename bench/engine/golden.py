#!/usr/bin/env python3
"""Makes the golden values of the engine's tests: tiny random models, and what PyTorch and PEFT say of them.

Writes DIR/<family>/{config.json, model.safetensors, golden.safetensors} and DIR/heads/golden.safetensors
(default DIR: tests/data/engine). The tensors' names are explained in DIR/README.md. With --check nothing is written:
what is there is compared with what would be, by name, shape and value.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from safetensors.torch import load_file, save_file

import reference
from reference import gradients, logits_of, matrices, weighted_loss

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RANK, ALPHA = 8, 16
STEPS, RATE, DECAY = 40, 5e-4, 0.01

COMMON = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# The old spelling of rotary settings (rope_theta beside rope_scaling) is what most checkpoints have; Mistral is written in
# the new one (rope_parameters), so that readers of both are tested.
FAMILIES = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
    },
    # The original context is so short that within 24 positions one pair of dimensions keeps its frequency, one is
    # interpolated and two are divided by the factor.
    "llama3": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
    # A window shorter than the sequences.
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
        "sliding_window": 7,
        "tie_word_embeddings": False,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "rope_theta": 1000.0,
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
        "sliding_window": 7,
        "max_window_layers": 2,
        "tie_word_embeddings": True,
    },
    # Heads twice as wide as hidden / heads.
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 16,
        "rope_theta": 1000.0,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
    },
}


def shapes(config):
    """Every tensor of a checkpoint, as Hugging Face names it, with its shape."""
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    hd = config.get("head_dim") or d // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * hd, config["num_key_value_heads"] * hd
    found = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (v, d)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        found |= {
            at + "input_layernorm.weight": (d,),
            at + "post_attention_layernorm.weight": (d,),
            at + "self_attn.q_proj.weight": (q, d),
            at + "self_attn.k_proj.weight": (kv, d),
            at + "self_attn.v_proj.weight": (kv, d),
            at + "self_attn.o_proj.weight": (d, q),
            at + "mlp.gate_proj.weight": (f, d),
            at + "mlp.up_proj.weight": (f, d),
            at + "mlp.down_proj.weight": (d, f),
        }
        if config["model_type"] == "qwen2":
            found |= {at + f"self_attn.{p}_proj.bias": (n,) for p, n in [("q", q), ("k", kv), ("v", kv)]}
        if config["model_type"] == "qwen3":
            found |= {at + "self_attn.q_norm.weight": (hd,), at + "self_attn.k_norm.weight": (hd,)}
    return found


def random_weights(config, generator):
    """Larger than an initialisation for training would be: attention is to be sharp and logits far from uniform, or
    gradients would hardly depend on what they must depend on."""
    tensors = {}
    for name, shape in shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight"):
            tensors[name] = 1 + 0.2 * noise
        elif name.endswith("bias"):
            tensors[name] = 0.3 * noise
        elif "embed_tokens" in name or "lm_head" in name:
            tensors[name] = 0.4 * noise
        else:
            tensors[name] = 1.2 * noise / shape[-1] ** 0.5
    return tensors


def padded_batch(vocabulary, generator):
    """Two right-padded rows of 24 and 17 tokens with prompts of 6 and 4 tokens."""
    lengths, prompts, width = [24, 17], [6, 4], 24
    batch = empty(len(lengths), width)
    for row, (length, prompt) in enumerate(zip(lengths, prompts)):
        place(batch, row, 0, 1, length, prompt, vocabulary, generator)
    return batch


def packed_batch(vocabulary, generator):
    """Two rows of 26: three sequences that fill the first, two and four padding positions in the second."""
    batch = empty(2, 26)
    for row, lengths in enumerate([[11, 6, 9], [14, 8]]):
        start = 0
        for segment, length in enumerate(lengths, start=1):
            place(batch, row, start, segment, length, 3, vocabulary, generator)
            start += length
    return batch


def empty(rows, width):
    return {
        "ids": torch.zeros(rows, width, dtype=torch.int64),
        "segments": torch.zeros(rows, width, dtype=torch.int64),
        "positions": torch.zeros(rows, width, dtype=torch.int64),
        "loss_weights": torch.zeros(rows, width),
    }


def place(batch, row, start, segment, length, prompt, vocabulary, generator):
    span = slice(start, start + length)
    batch["ids"][row, span] = torch.randint(3, vocabulary, (length,), generator=generator)
    batch["segments"][row, span] = segment
    batch["positions"][row, span] = torch.arange(length)
    weights = torch.tensor([1.0, 0.5, 2.0])[torch.randint(0, 3, (length,), generator=generator)]
    weights[:prompt] = 0
    batch["loss_weights"][row, span] = weights


def family(name, seed, folder):
    """The files of one family, in `folder`; returns the golden tensors."""
    generator = torch.Generator().manual_seed(seed)
    config = COMMON | FAMILIES[name]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(random_weights(config, generator), folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary = config["vocab_size"]
    batch, packed = padded_batch(vocabulary, generator), packed_batch(vocabulary, generator)
    model = reference.with_lora(reference.base(folder, "eager"), RANK, ALPHA).eval()
    with torch.no_grad():
        for name_of, parameter in matrices(model):
            scale = 0.5 / parameter.shape[1] ** 0.5 if name_of.endswith("A") else 0.1
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    golden = dict(batch) | {f"packed.{key}": value for key, value in packed.items()}
    golden |= {f"lora.{key}": parameter.detach().clone() for key, parameter in matrices(model)}
    with torch.no_grad(), model.disable_adapter():
        golden["base.logits"] = logits_of(model, batch)
    for prefix, data in [("", batch), ("packed.", packed)]:
        logits = logits_of(model, data)
        loss = weighted_loss(logits, data)
        golden |= {prefix + "logits": logits.detach(), prefix + "loss": loss.detach().reshape(1)}
        golden |= {prefix + key: value for key, value in gradients(model, loss).items()}
    golden["curve"] = reference.curve(model, [batch], STEPS, RATE, DECAY)
    if name == "llama":
        golden |= {f"trained.{key}": parameter.detach().clone() for key, parameter in matrices(model)}
    return golden


def heads(seed):
    """Losses on final hidden rows, computed in double precision and stored in single."""
    generator = torch.Generator().manual_seed(seed)
    rows, width, vocabulary, kept = 7, 32, 96, 8
    draw = lambda *shape: torch.randn(*shape, generator=generator).double()
    student, teacher, embedding = draw(rows, width), draw(rows, width), 0.4 * draw(vocabulary, width)
    # As the stored values are read back in single precision, the reference must start from those.
    student, teacher, embedding = (t.float().double() for t in (student, teacher, embedding))
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 1.0, 0.25]).double()
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    student.requires_grad_(True)
    log_s, log_t = ((x @ embedding.T).log_softmax(-1) for x in (student, teacher))
    top = log_t.detach().topk(kept, -1)
    top_p = top.values.softmax(-1)

    def kl(log_p, log_q):
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def jsd(beta):
        mixed = torch.log(beta * log_t.exp() + (1 - beta) * log_s.exp())
        return beta * kl(log_t, mixed) + (1 - beta) * kl(log_s, mixed)

    losses = {
        "cross_entropy": -log_s.gather(-1, targets[:, None])[:, 0],
        "reverse_kl": kl(log_s, log_t),
        "forward_kl": kl(log_t, log_s),
        "jsd_0.5": jsd(0.5),
        "jsd_0.1": jsd(0.1),
        "top_kl": (top_p * (top_p.log() - log_s.gather(-1, top.indices))).sum(-1),
    }
    golden = {
        "student": student, "teacher": teacher, "embedding": embedding, "weights": weights, "targets": targets,
        "top_ids": top.indices, "top_probabilities": top_p,
    }
    for name, per_row in losses.items():
        loss = (weights * per_row).sum() / weights.sum()
        (gradient,) = torch.autograd.grad(loss, student, retain_graph=True)
        golden |= {f"{name}.rows": per_row, f"{name}.loss": loss.reshape(1), f"{name}.d_student": gradient}
    return {k: (v.detach().float() if v.is_floating_point() else v) for k, v in golden.items()}


def same(path, tensors):
    """Prints the greatest difference between a file and what it would be now."""
    there = load_file(path)
    if there.keys() != tensors.keys():
        print(f"{path}: other tensors: {sorted(there.keys() ^ tensors.keys())}")
        return False
    worst = 0.0
    for name, tensor in tensors.items():
        if there[name].shape != tensor.shape:
            print(f"{path}: {name} has shape {list(there[name].shape)}, not {list(tensor.shape)}")
            return False
        scale = tensor.abs().max().item() or 1.0
        worst = max(worst, (there[name] - tensor).abs().max().item() / scale)
    print(f"{path}: within {worst:.1e}")
    return worst < 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "tests/data/engine", metavar="DIR")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    fine = True
    for seed, name in enumerate(list(FAMILIES) + ["heads"]):
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch) if args.check else args.out / name
            folder.mkdir(parents=True, exist_ok=True)
            golden = heads(seed) if name == "heads" else family(name, seed, folder)
        path = args.out / name / "golden.safetensors"
        if args.check:
            fine &= same(path, golden)
        else:
            save_file({key: value.contiguous() for key, value in golden.items()}, path)
            print(f"{path}: {path.stat().st_size} bytes, {len(golden)} tensors")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
