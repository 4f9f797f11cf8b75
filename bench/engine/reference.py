#!/usr/bin/env python3
"""PyTorch, transformers and PEFT behind the same verbs and files as Remora's example binary `engine` (see README.md).

    reference.py gradients|curve|logits|greedy|steps --model DIR [--in FILE --out FILE] ...
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import process

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}


def base(folder, attention="sdpa", dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)


def with_lora(model, rank, alpha):
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def matrices(model):
    """(`<layer>.<projection>.<A or B>`, parameter) of every LoRA matrix."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parts = name.split(".")
            yield f"{parts[parts.index('layers') + 1]}.{parts[-4]}.{parts[-3][-1]}", parameter


def adapted(folder, given, attention="sdpa"):
    """The model with the adapter that a file's `lora.*` and `alpha` describe."""
    rank = next(tensor.shape[0] for name, tensor in given.items() if name.startswith("lora.") and name.endswith(".A"))
    model = with_lora(base(folder, attention), rank, given["alpha"].item()).eval()
    with torch.no_grad():
        for name, parameter in matrices(model):
            parameter.copy_(given[f"lora.{name}"])
    return model


def sequences(batch):
    """(row, slice) of each sequence of a batch."""
    for row, segments in enumerate(batch["segments"]):
        for segment in range(1, int(segments.max()) + 1):
            where = (segments == segment).nonzero().flatten()
            yield row, slice(int(where[0]), int(where[-1]) + 1)


def logits_of(model, batch):
    """Logits, 0 at padding. Packed rows are computed sequence by sequence: the reference knows nothing of packing."""
    if int(batch["segments"].max()) <= 1:
        mask = (batch["segments"] > 0).long()
        return model(input_ids=batch["ids"], attention_mask=mask, use_cache=False).logits * mask[..., None]
    rows = [[] for _ in batch["ids"]]
    for row, span in sequences(batch):
        rows[row].append(model(input_ids=batch["ids"][row : row + 1, span], use_cache=False).logits[0])
    width = batch["ids"].shape[1]
    rows = [torch.cat(row) for row in rows]
    return torch.stack([torch.nn.functional.pad(row, (0, 0, 0, width - len(row))) for row in rows])


def weighted_loss(logits, batch):
    """sum(w * nll) / sum(w): token t is predicted from position t-1 of its own sequence (its first token has weight 0)."""
    nll = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["ids"][:, 1:].flatten(), reduction="none"
    )
    weights = batch["loss_weights"][:, 1:].flatten()
    return (weights * nll).sum() / weights.sum()


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {f"grad.{name}": parameter.grad.clone() for name, parameter in matrices(model)}


def curve(model, batches, steps, rate, decay):
    """Losses before each AdamW step; step k takes batch k modulo their number."""
    parameters = [parameter for _, parameter in matrices(model)]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, **ADAM)
    losses = []
    for step in range(steps):
        loss = weighted_loss(logits_of(model, batches[step % len(batches)]), batches[step % len(batches)])
        losses.append(loss.item())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return torch.tensor(losses)


def run_gradients(args, given):
    model = adapted(args.model, given)
    loss = weighted_loss(logits_of(model, given), given)
    return {"loss": loss.detach().reshape(1)} | gradients(model, loss), {"loss": loss.item()}


def run_curve(args, given):
    keys = ["ids", "segments", "positions", "loss_weights"]
    batches = [{key: given[key][k] for key in keys} for k in range(len(given["ids"]))]
    model = adapted(args.model, given)
    losses = curve(model, batches, args.steps, args.rate, args.decay)
    trained = {f"trained.{name}": parameter.detach().clone() for name, parameter in matrices(model)}
    return {"curve": losses} | trained, {"first": losses[0].item(), "last": losses[-1].item()}


def run_logits(args, given):
    model = base(args.model)
    if args.adapter:
        model = PeftModel.from_pretrained(model, args.adapter)
    with torch.no_grad():
        return {"logits": logits_of(model.eval(), given)}, {}


def run_greedy(args, given):
    """The likeliest token each time, end tokens not excepted; `margins` is by how much it was."""
    model = base(args.model).eval()
    made = {}
    report = {"prefill_seconds": [], "decode_seconds": [], "decode_cpu_seconds": []}
    for k in range(sum(name.startswith("prompt.") for name in given)):
        ids, cache, tokens, margins = given[f"prompt.{k}"][None], None, [], []
        start = first = time.perf_counter()
        used = process.cpu_seconds()
        with torch.no_grad():
            while len(tokens) < args.new:
                answer = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                top = answer.logits[0, -1].topk(2)
                tokens.append(int(top.indices[0]))
                margins.append(float(top.values[0] - top.values[1]))
                ids, cache = top.indices[:1][None], answer.past_key_values
                if len(tokens) == 1:
                    first, used = time.perf_counter(), process.cpu_seconds()
        report["prefill_seconds"].append(first - start)
        report["decode_seconds"].append(time.perf_counter() - first)
        report["decode_cpu_seconds"].append(process.cpu_seconds() - used)
        made |= {f"tokens.{k}": torch.tensor(tokens), f"margins.{k}": torch.tensor(margins)}
    return made, report | {"new_tokens": args.new}


def run_steps(args, _):
    """Training steps on random tokens, all positions in the loss, AdamW included; the first step is not counted.

    With bf16 the base is bf16 and PEFT keeps the adapter in float32, as Remora does."""
    rows, length = (int(part) for part in args.shape.split("x"))
    device = torch.device(args.device)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.precision]
    model = with_lora(base(args.model, dtype=dtype).to(device), args.rank, 2 * args.rank).train()
    optimiser = torch.optim.AdamW([parameter for _, parameter in matrices(model)], lr=1e-4, weight_decay=0.0, **ADAM)
    ids = torch.randint(0, model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0)).to(device)
    wall, cpu, losses = [], [], []
    for _ in range(args.steps + 1):
        start, used = time.perf_counter(), process.cpu_seconds()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())  # waits for a GPU
        wall.append(time.perf_counter() - start)
        cpu.append(process.cpu_seconds() - used)
    return None, {"cpu_seconds": cpu[1:], "wall_seconds": wall[1:], "losses": losses}


VERBS = {
    "gradients": run_gradients, "curve": run_curve, "logits": run_logits, "greedy": run_greedy, "steps": run_steps,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a Hugging Face directory")
    parser.add_argument("--in", dest="input", type=pathlib.Path)
    parser.add_argument("--out", dest="output", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--decay", type=float, default=0.01)
    parser.add_argument("--adapter", type=pathlib.Path)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--shape", default="1x256", help="rows x tokens")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tensors, report = VERBS[args.verb](args, load_file(args.input) if args.input else {})
    if args.output and tensors is not None:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, args.output)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
