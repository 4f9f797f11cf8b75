#!/usr/bin/env python3
"""What a night is worth on a real model: `remora demo --model`, the days before and after it, against the targets.

    demo.py corrected|shuffled|all [--remora PATH] [--model default|PATH] [--seeds 0 1 2]

`corrected`: one demo for each seed: points gained on the base at its best prompt, what day 2 gets right, seconds, and what
was forgotten.
`shuffled`: one demo whose corrections are dealt out at random: the gate must refuse what is learned from them.
A demo takes minutes; fetching the model (`remora provision --model default`) would count. Exits with 1 when a target is
missed.
"""

import argparse
import json
import pathlib
import sys

import process

# Points, percent of the messages; seconds, percent.
AT_LEAST = {"gain": 60, "day2": 80}
AT_MOST = {"seconds": 600, "perplexity_rise": 5}


def demo(args, seed, *more):
    command = [process.remora(args.remora), "demo", "--model", args.model, "--seed", seed, "--exit", "--json", *more]
    return process.run(command)


def share(day):
    return 100 * day["success"] / day["n"]


def figures(report):
    """What has a target. Both days are asked the same messages."""
    before, after, rise = report["day1"], report["day2"], report["forgotten"]["perplexity_rise"]
    return {
        "gain": 100 * (after["success"] - before["success"]) / after["n"],
        "day2": share(after),
        "seconds": report["seconds"],
        # None: no adapter was made.
        "perplexity_rise": None if rise is None else 100 * rise,
    }


def missed(found):
    """The names of those that miss their target; what was not measured does."""
    low = [name for name, bound in AT_LEAST.items() if found[name] < bound]
    high = [name for name, bound in AT_MOST.items() if found[name] is None or found[name] > bound]
    return low + high


def verdict(night):
    if night["kept"]:
        return "kept"
    return "refused" if night["version"] else "none made"


def shown(report):
    found, night = figures(report), report["night"]
    rise = "unknown" if found["perplexity_rise"] is None else f"{found['perplexity_rise']:+.1f} %"
    return (f"seed {report['seed']}{', shuffled' if report['shuffled'] else ''}: {report['corrections']} corrections, "
            f"adapter {verdict(night)}; day 1 {share(report['day1']):.0f} %, day 2 {found['day2']:.0f} %, "
            f"{found['gain']:+.0f} points; perplexity {rise}; {found['seconds']:.0f} s")


def corrected(args):
    rows = []
    for seed in args.seeds:
        report = demo(args, seed)
        lacks = missed(figures(report))
        rows.append({**figures(report), "met": not lacks, "missed": lacks, "load": process.load(), "report": report})
        print(f"{shown(report)}: {'met' if not lacks else 'MISSED ' + ', '.join(lacks)} ({process.load()})", flush=True)
    return rows


def shuffled(args):
    report = demo(args, args.seeds[0], "--shuffled")
    # Refused, and not: nothing was trained.
    met = verdict(report["night"]) == "refused"
    print(f"{shown(report)}: {'met' if met else 'MISSED, it had to be refused'} ({process.load()})", flush=True)
    return [{**figures(report), "met": met, "load": process.load(), "report": report}]


MEASURES = {"corrected": corrected, "shuffled": shuffled}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=[*MEASURES, "all"])
    parser.add_argument("--remora", type=pathlib.Path, help="default: target/release/remora")
    parser.add_argument("--model", default="default", help="default, a GGUF file or a directory")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="shuffled takes the first")
    args = parser.parse_args()
    names = MEASURES if args.measure == "all" else [args.measure]
    results = {name: MEASURES[name](args) for name in names}
    met = all(row["met"] for rows in results.values() for row in rows)
    print(json.dumps({"measure": args.measure, "met": met, "at_least": AT_LEAST, "at_most": AT_MOST, "rows": results}))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
