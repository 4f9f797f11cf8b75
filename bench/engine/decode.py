#!/usr/bin/env python3
"""Decoding speed of one request: Remora against onnxruntime-genai (float32) and llama.cpp (4 bits).

    decode.py compare f32|q4 --gguf FILE.gguf --cache DIR [--engine PATH] [--rounds 3]
    decode.py genai|llamacpp ...    one peer in this process, as `compare` calls it; JSON on the last line
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy
from safetensors.numpy import load_file, save_file

import model
import process

TEXT = (
    "Lighthouses were built where ships could not see the rocks in time. A keeper lit the lamp at dusk, trimmed the wick "
    "through the night and wrote down every vessel that passed. In fog the light was of no use, so a bell or a horn was "
    "sounded by hand until the weather cleared. The work was lonely, and letters came with the supply boat once a month."
)


def prompts(folder, length, count):
    """`count` prompts of `length` tokens that begin at different places of one text."""
    import tokenizers

    ids = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    doubled = ids * (1 + (length + count) // len(ids))
    return {f"prompt.{k}": numpy.array(doubled[k : k + length], dtype=numpy.int64) for k in range(count)}


def timed(answer_one, given, new):
    """Runs `answer_one(ids, new) -> (tokens, prefill_s, decode_s, cpu_s)` on each prompt."""
    found = {"prefill_seconds": [], "decode_seconds": [], "decode_cpu_seconds": []}
    tokens = {}
    for k in range(len(given)):
        made, prefill, decode, cpu = answer_one(given[f"prompt.{k}"], new)
        tokens[f"tokens.{k}"] = numpy.array(made, dtype=numpy.int64)
        found["prefill_seconds"].append(prefill)
        found["decode_seconds"].append(decode)
        found["decode_cpu_seconds"].append(cpu)
    return found, tokens


def genai(folder, given, new, threads, asleep):
    import onnxruntime_genai as og

    config = og.Config(str(folder))
    options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
    if asleep:
        options["session.intra_op.allow_spinning"] = "0"
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    loaded = og.Model(config)

    def one(ids, new):
        parameters = og.GeneratorParams(loaded)
        total = len(ids) + new
        parameters.set_search_options(max_length=total, min_length=total, do_sample=False)
        generator = og.Generator(loaded, parameters)
        start = time.perf_counter()
        generator.append_tokens(ids.astype(numpy.int32))
        generator.generate_next_token()
        first, used = time.perf_counter(), process.cpu_seconds()
        for _ in range(new - 1):
            generator.generate_next_token()
        end = time.perf_counter()
        made = generator.get_sequence(0)[len(ids) :]
        return made, first - start, end - first, process.cpu_seconds() - used

    return timed(one, given, new)


def llamacpp(path, given, new, threads, asleep):
    assert not asleep, "its threads know no other way to wait"
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_parallel = 1
    parameters.n_ctx = 512
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)

    def one(ids, new):
        asked = {
            "prompt": ids.tolist(), "n_predict": new, "ignore_eos": True, "cache_prompt": False,
            "temperature": 0.0, "top_k": 1, "verbose": True, "return_tokens": True,
        }
        used = process.cpu_seconds()
        answer = server.handle_completions(asked)
        cpu = process.cpu_seconds() - used
        answer = json.loads(answer) if isinstance(answer, str) else answer
        if "timings" not in answer:
            raise SystemExit(f"llama.cpp: {answer}")
        times = answer["timings"]
        # The clock of generation starts once the first token is there, which prefill gave.
        return answer["__verbose"]["tokens"], times["prompt_ms"] / 1e3, times["predicted_ms"] / 1e3, cpu

    return timed(one, given, new)


def peer(args):
    given = load_file(args.input)
    speak = {"genai": genai, "llamacpp": llamacpp}[args.what]
    found, tokens = speak(args.model, given, args.new, args.threads, args.asleep)
    save_file(tokens, args.output)
    print()
    print(json.dumps(found | {"new_tokens": args.new}))


def genai_folder(hf, cache):
    folder = cache / "genai-f32"
    if not folder.exists():
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        scratch = cache / "genai-f32.partial"
        made = subprocess.run(
            [*builder, "-i", hf, "-o", scratch, "-p", "fp32", "-e", "cpu", "-c", cache / "genai-cache"],
            capture_output=True, text=True,
        )
        if made.returncode != 0:
            raise SystemExit("onnxruntime-genai's model builder failed:\n" + made.stderr[-2000:])
        scratch.rename(folder)
    return folder


def rate(answer, new):
    """Tokens a second after the first, without the first prompt, which warms up."""
    return [(new - 1) / seconds for seconds in answer["decode_seconds"][1:]]


def compare(args):
    hf = model.prepare(args.gguf, args.cache / "hf")
    engine = process.engine(args.engine) if args.engine != "none" else None
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        save_file(prompts(hf, args.prompt, args.prompts + 1), scratch / "in.safetensors")
        files = lambda who: ["--in", scratch / "in.safetensors", "--out", scratch / f"{who}.safetensors"]
        size = ["--new", args.new, "--threads", args.threads]
        if args.precision == "f32":
            other, where = "genai", genai_folder(hf, args.cache)
        else:
            other, where = "llamacpp", args.gguf
        # Peers look for work while they wait, which Remora does where it is told to. Both ways are compared.
        commands = {other: process.python("decode.py", other, "--model", where, *files(other), *size)}
        if other == "genai":
            commands["genai-asleep"] = [
                *process.python("decode.py", other, "--model", where, *files("genai-asleep"), *size), "--asleep",
            ]
        if engine:
            for who, more in {"remora": ["--spin"], "remora-asleep": []}.items():
                commands[who] = [
                    engine, "greedy", "--model", args.gguf, "--weights", args.precision, *files(who), *size, *more,
                ]
        rates = {who: [] for who in commands}
        rows = []
        for turn in range(args.rounds):
            for who in sorted(commands, reverse=bool(turn % 2)):
                answer = process.run(commands[who], args.threads)
                rates[who] += rate(answer, args.new)
                rows.append({"round": turn, "who": who, **answer, "load": process.load()})
                cpu = statistics.median(answer["decode_cpu_seconds"][1:]) / args.new
                print(
                    f"{args.precision} {who:13} decode {statistics.median(rates[who]):7.1f} tok/s, {cpu * 1e3:6.1f} CPU ms/token, "
                    f"prefill of {args.prompt} {min(answer['prefill_seconds'][1:]):.3f} s, "
                    f"peak {answer['process']['peak_rss_bytes'] / 2**20:.0f} MiB ({process.load()})",
                    flush=True,
                )
        made = {who: load_file(scratch / f"{who}.safetensors") for who in commands}
    result = {"measure": f"decode {args.precision}", "peer": other, "rows": rows}
    for who, found in rates.items():
        result[who] = {"median": statistics.median(found), "best": max(found)}
    if engine:
        same = [int((made["remora-asleep"][k] == made[other][k]).sum()) for k in sorted(made["remora"])]
        # The median of all, as a guest on the machine slows either; the best as a check that this was not luck.
        ratio = lambda ours, theirs: {key: result[ours][key] / result[theirs][key] for key in ("median", "best")}
        result["ratio"] = ratio("remora", other)
        result["ratio_as_shipped"] = ratio("remora-asleep", other)
        if other == "genai":
            result["ratio_asleep"] = ratio("remora-asleep", "genai-asleep")
        result["target"] = 1.0 if args.precision == "f32" else 0.6
        result["met"] = result["ratio"]["median"] >= result["target"]
        result["equal_tokens"] = same
        print(f"remora / {other}: median {result['ratio']['median']:.2f}, best {result['ratio']['best']:.2f}; "
              f"must reach {result['target']}; as shipped {result['ratio_as_shipped']}, both asleep {result.get('ratio_asleep')}; "
              f"equal tokens of {args.new}: {same}")
    print(json.dumps(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    both = commands.add_parser("compare")
    both.add_argument("precision", choices=["f32", "q4"])
    both.add_argument("--gguf", type=pathlib.Path, required=True)
    both.add_argument("--cache", type=pathlib.Path, required=True)
    both.add_argument("--engine", help="path of the example binary; `none` measures the peer alone")
    both.add_argument("--rounds", type=int, default=3)
    both.add_argument("--prompt", type=int, default=64, help="tokens")
    both.add_argument("--prompts", type=int, default=2, help="timed ones a process; one more warms up")
    both.set_defaults(run=compare)
    for name in ("genai", "llamacpp"):
        one = commands.add_parser(name)
        one.add_argument("--model", type=pathlib.Path, required=True)
        one.add_argument("--in", dest="input", type=pathlib.Path, required=True)
        one.add_argument("--out", dest="output", type=pathlib.Path, required=True)
        one.add_argument("--asleep", action="store_true", help="threads sleep when there is nothing to do")
        one.set_defaults(run=peer)
    for command in commands.choices.values():
        command.add_argument("--new", type=int, default=128)
        command.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
