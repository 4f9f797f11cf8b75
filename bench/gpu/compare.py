#!/usr/bin/env python3
"""Training steps of Remora's engine and of PyTorch + PEFT in bf16 on one GPU, in turns; and where the nodes ran.

Called by run.sh, which installs what is needed. Exits with 1 when a bar is missed.
"""

import argparse
import collections
import json
import os
import pathlib
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "engine"))

import process
import shapes

# Part of PyTorch's tokens a second that must be reached, by tokens a step.
BARS = {1024: 0.7, 4096: 0.5}
# Sessions for what the host does (reading files, say) may stay on the CPU; these operators must not be in any.
COPIES = ("MemcpyToHost", "MemcpyFromHost")


class Sides:
    def __init__(self, args):
        self.args = args
        self.engine = process.engine(args.engine)

    def remora(self, *more):
        # Only for this child: PyTorch brings other versions of the same libraries.
        old = {name: os.environ.get(name) for name in ("ORT_DYLIB_PATH", "LD_LIBRARY_PATH")}
        if self.args.ort_library:
            os.environ["ORT_DYLIB_PATH"] = self.args.ort_library
            paths = [self.args.cuda_libraries, old["LD_LIBRARY_PATH"]]
            os.environ["LD_LIBRARY_PATH"] = ":".join(path for path in paths if path)
        try:
            return process.run([self.engine, *more], threads=4)
        finally:
            for name, value in old.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})

    def torch(self, *more):
        return process.run(process.python("reference.py", *more), threads=4)


def speed(sides, args, folder, shape, tokens):
    found = {"torch": [], "remora": []}
    losses = {}
    for turn in range(args.rounds):
        for side in ("torch", "remora") if turn % 2 == 0 else ("remora", "torch"):
            answer = getattr(sides, side)(
                "steps", "--model", folder, "--device", args.device, "--precision", "bf16", "--shape", f"1x{tokens}",
                "--steps", args.steps, "--rank", 16,
            )
            found[side] += [tokens / seconds for seconds in answer["wall_seconds"]]
            losses[side] = answer["losses"][0]
    rates = {side: statistics.median(values) for side, values in found.items()}
    ratio = rates["remora"] / rates["torch"]
    bar = BARS.get(tokens, 0.5)
    print(f"{shape} 1x{tokens}: remora {rates['remora']:.0f} tok/s, torch + PEFT {rates['torch']:.0f} tok/s, ratio {ratio:.2f}, "
          f"must reach {bar}; first losses {losses}", flush=True)
    return {"shape": shape, "tokens": tokens, "tokens_per_second": rates, "ratio": ratio, "bar": bar, "met": ratio >= bar,
            "losses": losses}


def precision(sides, args, folder, shape, tokens):
    """The first loss in bf16 and in f32, the same adapter and tokens."""
    losses = {}
    for kind in ("bf16", "f32"):
        answer = sides.remora(
            "steps", "--model", folder, "--device", args.device, "--precision", kind, "--shape", f"1x{tokens}",
            "--steps", 1, "--rank", 16,
        )
        losses[kind] = answer["losses"][0]
    off = abs(losses["bf16"] - losses["f32"])
    print(f"{shape} 1x{tokens}: loss bf16 {losses['bf16']:.5f}, f32 {losses['f32']:.5f}, apart {off:.5f}, at most 0.01", flush=True)
    return {"shape": shape, "losses": losses, "apart": off, "met": off <= 1e-2}


def events(text):
    """A profile is a JSON list that a process which ended early leaves open."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(text.rstrip().rstrip(",") + "]")


def placement(sides, args, folder, shape, tokens):
    """Profiles one run: providers of all nodes, copies between host and device."""
    with tempfile.TemporaryDirectory() as scratch:
        sides.remora(
            "steps", "--model", folder, "--device", args.device, "--precision", "bf16", "--shape", f"1x{tokens}",
            "--steps", 1, "--rank", 16, "--profile", scratch,
        )
        profiles = sorted(pathlib.Path(scratch).rglob("*.json"))
        providers, elsewhere, copies = collections.Counter(), collections.Counter(), collections.Counter()
        for profile in profiles:
            for event in events(profile.read_text()):
                details = event.get("args", {})
                if event.get("cat") != "Node" or not event.get("name", "").endswith("_kernel_time"):
                    continue
                provider, operator = details.get("provider", "?"), details.get("op_name", "?")
                providers[provider] += 1
                if provider != "CUDAExecutionProvider":
                    elsewhere[operator] += 1
                if operator in COPIES:
                    copies[operator] += 1
    good = bool(profiles) and bool(providers) and not elsewhere and not copies
    print(f"{shape} placement: {len(profiles)} profiles, nodes run by provider {dict(providers)}, not on CUDA {dict(elsewhere)}, "
          f"copies {dict(copies)}: {'met' if good else 'MISSED'}", flush=True)
    return {"shape": shape, "profiles": len(profiles), "providers": providers, "elsewhere": elsewhere, "copies": copies,
            "met": good}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, default=pathlib.Path("target/gpu-bench/models"), metavar="DIR")
    parser.add_argument("--shapes", nargs="+", choices=shapes.SHAPES, default=["1b", "7b"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="timed steps a process")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--engine")
    parser.add_argument("--ort-library", help="libonnxruntime.so of onnxruntime-gpu")
    parser.add_argument("--cuda-libraries", default="", help="folders of CUDA 13 and cuDNN, separated by colons")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    sides, results = Sides(args), []
    for shape in args.shapes:
        folder = shapes.make(shape, args.models / shape)
        results.append({"measure": "placement", **placement(sides, args, folder, shape, args.tokens[0])})
        if shape != "7b":
            results.append({"measure": "precision", **precision(sides, args, folder, shape, args.tokens[0])})
        for tokens in args.tokens:
            results.append({"measure": "speed", **speed(sides, args, folder, shape, tokens)})
            if args.json:
                args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))
    sys.exit(0 if all(result["met"] for result in results) else 1)


if __name__ == "__main__":
    main()
