#!/usr/bin/env python3
"""Remora's engine against PyTorch + PEFT on one model: one row of the table of targets for each command.

    compare.py gradients|curve|peft|greedy|speed|memory|all --gguf FILE.gguf --cache DIR [--engine PATH] [--json FILE]

Each process runs alone, one after the other. Exits with 1 when a target is missed. README.md explains every measure.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

import cases
import model
import process


class Bench:
    """The two sides and where their files lie."""

    def __init__(self, args, scratch):
        self.args = args
        self.scratch = pathlib.Path(scratch)
        self.hf = model.prepare(args.gguf, args.cache / "hf")
        self.engine = process.engine(args.engine)
        self.tokenizer = cases.speaker(self.hf)
        self.config = transformers.AutoConfig.from_pretrained(self.hf)
        self.examples = list(cases.examples(self.tokenizer))

    def file(self, name):
        return self.scratch / f"{name}.safetensors"

    def torch(self, verb, *more):
        command = process.python("reference.py", verb, "--model", self.hf, "--threads", self.args.threads)
        return process.run([*command, *more], self.args.threads)

    def remora(self, verb, *more):
        command = [self.engine, verb, "--model", self.args.gguf, "--threads", self.args.threads]
        return process.run([*command, *more], self.args.threads)

    def both(self, verb, given, *more):
        """Runs a verb on both sides; returns what each wrote."""
        save_file({name: tensor.contiguous() for name, tensor in given.items()}, self.file("in"))
        for side in ("torch", "remora"):
            getattr(self, side)(verb, "--in", self.file("in"), "--out", self.file(side), *more)
        return load_file(self.file("torch")), load_file(self.file("remora"))


def furthest(mine, theirs):
    """Largest difference, in parts of the largest value."""
    return ((mine - theirs).abs().max() / theirs.abs().max()).item()


def gradients(bench):
    """Worst of all matrices, each relative to its own largest entry."""
    chats = bench.examples
    batches = {"padded": cases.padded(chats[:2]), "packed": cases.packed([chats[2:5], chats[5:7]])}
    rows = []
    for rank in (8, 16):
        lora = cases.adapter(bench.config, rank, seed=rank)
        for shape, batch in batches.items():
            theirs, mine = bench.both("gradients", batch | lora)
            missing = theirs.keys() - mine.keys()
            if missing:
                raise SystemExit(f"remora gave no {sorted(missing)[:3]} … ({len(missing)} missing)")
            errors = {key: furthest(mine[key], theirs[key]) for key in theirs if key.startswith("grad.")}
            worst = max(errors, key=errors.get)
            rows.append({
                "what": f"r {rank}, {shape}", "matrices": len(errors), "max": errors[worst], "where": worst,
                "median": statistics.median(errors.values()),
                "norm_max": max(((mine[k] - theirs[k]).norm() / theirs[k].norm()).item() for k in errors),
                "loss": [mine["loss"].item(), theirs["loss"].item()],
            })
            print(rows[-1], flush=True)
    value = max(row["max"] for row in rows)
    return {"value": value, "target": 1e-4, "met": value <= 1e-4, "unit": "max relative error", "rows": rows}


def curve(bench):
    """40 AdamW steps over ten batches of two chats, B = 0 at the start."""
    chats = bench.examples
    width = max(len(tokens) for tokens, _ in chats)
    batches = [cases.padded(chats[k : k + 2]) for k in range(0, 20, 2)]
    stacked = {
        key: torch.stack([torch.nn.functional.pad(b[key], (0, width - b[key].shape[1])) for b in batches])
        for key in cases.KEYS
    }
    lora = cases.adapter(bench.config, 8, seed=3, zero_b=True)
    theirs, mine = bench.both("curve", stacked | lora, "--steps", 40, "--rate", 5e-4, "--decay", 0.01)
    value = (mine["curve"] - theirs["curve"]).abs().max().item()
    return {
        "value": value, "target": 1e-3, "met": value <= 1e-3, "unit": "max difference of losses",
        "mine": mine["curve"].tolist(), "theirs": theirs["curve"].tolist(),
    }


def peft(bench):
    """Remora writes a PEFT directory; PEFT loads it; both compute logits with what lies there."""
    lora = cases.adapter(bench.config, 16, seed=5)
    save_file(lora, bench.file("adapter"))
    folder = bench.scratch / "adapter"
    bench.remora("export", "--in", bench.file("adapter"), "--out", folder)
    batch = cases.padded(bench.examples[:2])
    theirs, mine = bench.both("logits", batch, "--adapter", folder)
    real = batch["segments"] > 0
    mine, theirs = mine["logits"][real], theirs["logits"][real]
    value = furthest(mine, theirs)
    agree = (mine.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    return {
        "value": value, "target": 1e-5, "met": value <= 1e-5, "unit": "relative difference of logits",
        "same_argmax": agree, "files": sorted(path.name for path in folder.iterdir()),
    }


def greedy(bench):
    """20 prompts, 64 tokens each, with a cache on both sides."""
    theirs, mine = bench.both("greedy", cases.prompts(bench.tokenizer), "--new", 64)
    rows = []
    for k in range(20):
        a, b = mine[f"tokens.{k}"], theirs[f"tokens.{k}"]
        if not torch.equal(a, b):
            at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            # How much the likeliest token led there tells a tie from a mistake.
            rows.append({"prompt": k, "at": at, "margin": theirs[f"margins.{k}"][at].item()})
    least = min(theirs[f"margins.{k}"].min().item() for k in range(20))
    value = 20 - len(rows)
    return {
        "value": value, "target": 20, "met": value == 20, "unit": "of 20 identical", "different": rows,
        "smallest_margin": least,
    }


def speed(bench):
    """CPU seconds a step, one process of each per round, in turns."""
    bounds = {"1x256": 0.95, "1x512": 0.95, "1x1024": 1.0}
    rows = []
    for shape, bound in bounds.items():
        found = {"torch": [], "remora": []}
        wall = {"torch": [], "remora": []}
        steps = bench.args.steps if shape != "1x1024" else max(1, bench.args.steps - 1)
        for turn in range(bench.args.rounds):
            for side in ("torch", "remora") if turn % 2 == 0 else ("remora", "torch"):
                answer = getattr(bench, side)("steps", "--shape", shape, "--steps", steps, "--rank", 8)
                found[side] += answer["cpu_seconds"]
                wall[side] += answer["wall_seconds"]
        row = {"shape": shape, "target": bound, "cpu_seconds": found, "wall_seconds": wall, "load": process.load()}
        for name, pick in [("min", min), ("median", statistics.median)]:
            row[name] = {side: pick(values) for side, values in found.items()}
            row[f"{name}_ratio"] = row[name]["remora"] / row[name]["torch"]
            row[f"{name}_wall_ratio"] = pick(wall["remora"]) / pick(wall["torch"])
        row["met"] = row["median_ratio"] <= bound
        rows.append(row)
        print({key: row[key] for key in ("shape", "min", "median", "min_ratio", "median_ratio", "target", "load")}, flush=True)
    return {
        "value": [row["median_ratio"] for row in rows], "target": list(bounds.values()),
        "met": all(row["met"] for row in rows), "unit": "CPU seconds of torch + PEFT's, median", "rows": rows,
    }


def memory(bench):
    """Peak resident memory of a process that trains at 2x512."""
    peaks, anonymous = {}, {}
    for side in ("torch", "remora"):
        answer = getattr(bench, side)("steps", "--shape", "2x512", "--steps", 2, "--rank", 8)
        peaks[side] = answer["process"]["peak_rss_bytes"]
        anonymous[side] = answer["process"]["peak_anonymous_bytes"]
    value = peaks["remora"] / peaks["torch"]
    gib = {
        name: {side: round(peak / 2**30, 2) for side, peak in found.items()}
        for name, found in [("resident", peaks), ("anonymous", anonymous)]
    }
    print(gib, flush=True)
    return {
        "value": value, "target": 0.4, "met": value <= 0.4, "unit": "of torch + PEFT's peak", "gib": gib,
        "anonymous_ratio": anonymous["remora"] / anonymous["torch"],
    }


MEASURES = {
    "gradients": gradients, "curve": curve, "peft": peft, "greedy": greedy, "memory": memory, "speed": speed,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=[*MEASURES, "all"])
    parser.add_argument("--gguf", type=pathlib.Path, required=True)
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="where the converted model is kept")
    parser.add_argument("--engine", help="path of the example binary `engine`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps a process")
    parser.add_argument("--json", type=pathlib.Path, help="all numbers, into this file")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(args, scratch)
        for name in MEASURES if args.measure == "all" else [args.measure]:
            results[name] = MEASURES[name](bench)
            result = results[name]
            print(f"{name}: {result['value']} {result['unit']}, must reach {result['target']}: "
                  f"{'met' if result['met'] else 'MISSED'} ({process.load()})", flush=True)
            if args.json:
                args.json.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(0 if all(result["met"] for result in results.values()) else 1)


if __name__ == "__main__":
    main()
