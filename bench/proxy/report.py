"""The table: medians over the rounds, and ratios to nginx taken round by round."""

from statistics import median

# Cell, measure, heading, unit's digits, and whether what the upstream itself takes is subtracted.
ROWS = [
    ("one", "p50_us", "1 connection, 1 KiB: added p50, µs", 0, True),
    ("one", "p99_us", "1 connection, 1 KiB: added p99, µs", 0, True),
    ("1k", "requests_per_s", "64 connections, 1 KiB each way: requests/s", 0, False),
    ("1k", "cpu_s_per_1000", "   CPU s per 1,000 requests", 4, False),
    ("1k", "cpu_settled_s_per_1000", "   … until all is in the record", 4, False),
    ("1k", "cpu_rest_s_per_1000", "   … until at rest", 4, False),
    ("32k", "requests_per_s", "64 connections, 32 KiB each way: requests/s", 0, False),
    ("32k", "cpu_s_per_1000", "   CPU s per 1,000 requests", 4, False),
    ("32k", "cpu_settled_s_per_1000", "   … until all is in the record", 4, False),
    ("32k", "cpu_rest_s_per_1000", "   … until at rest", 4, False),
    ("first", "p50_us", "stream, first event: added p50, µs", 0, True),
    ("first", "p99_us", "stream, first event: added p99, µs", 0, True),
    ("streams", "streams_per_s", "64 streams of 100 chunks: streams/s (*)", 0, False),
    ("streams", "cpu_s_per_1000", "   CPU s per 1,000 streams", 2, False),
    ("streams", "cpu_settled_s_per_1000", "   … until all is in the record", 2, False),
    ("streams", "cpu_rest_s_per_1000", "   … until at rest", 2, False),
    ("sustained", "requests_per_s", "sustained, 64 connections, 1 KiB: requests/s", 0, False),
    ("sustained", "p99_us", "   p99, µs", 0, False),
    ("sustained", "cpu_s_per_1000", "   CPU s per 1,000 requests", 4, False),
    ("sustained", "cpu_settled_s_per_1000", "   … until all is in the record", 4, False),
    ("sustained", "cpu_rest_s_per_1000", "   … until at rest", 4, False),
    ("memory", "rss_mib", "resident memory at the end, MiB", 0, False),
]
# Work put off, which only a recording Remora has.
LATER = ("cpu_settled_s_per_1000", "cpu_rest_s_per_1000")


def value(sample, direct, measure, subtract):
    """One round's number, or none."""
    found = sample.get(measure)
    if found is None or (subtract and direct is None):
        return None
    return found - direct[measure] if subtract else found


def summary(samples, targets):
    """{cell/measure: {target: {median, ratio}}} of samples [{round, cell, target, …}]."""
    by = {(s["cell"], s["target"], s["round"]): s for s in samples}
    rounds = sorted({s["round"] for s in samples})
    result = {}
    for cell, measure, _, _, subtract in ROWS:
        row = {}
        for target in targets:
            if target == "direct" and (subtract or measure.startswith(("cpu", "rss"))):
                continue
            values, ratios = [], []
            for number in rounds:
                sample, direct = by.get((cell, target, number)), by.get((cell, "direct", number))
                if sample is None or (own := value(sample, direct, measure, subtract)) is None:
                    continue
                values.append(own)
                # nginx puts nothing off: compared with all that it does.
                against = "cpu_s_per_1000" if measure in LATER else measure
                peer = by.get((cell, "nginx", number))
                base = value(peer, direct, against, subtract) if peer else None
                if base is not None and base > 0 and own > 0:
                    ratios.append(own / base)
            if values:
                row[target] = {"median": median(values), "ratio": median(ratios) if ratios else None}
        if row:
            result[f"{cell}/{measure}"] = row
    return result


def table(result, targets):
    lines = [["", *targets]]
    for cell, measure, heading, digits, _ in ROWS:
        row = result.get(f"{cell}/{measure}")
        if not row:
            continue
        cells = []
        for target in targets:
            found = row.get(target)
            if not found:
                cells.append("-")
                continue
            ratio = f" ({found['ratio']:.2f})" if found["ratio"] is not None else ""
            cells.append(f"{found['median']:,.{digits}f}{ratio}")
        lines.append([heading, *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = []
    for line in lines:
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))
        texts.append("  ".join([line[0].ljust(widths[0]), *rest]).rstrip())
    texts.insert(1, "-" * max(len(text) for text in texts))
    return "\n".join(texts)
