"""The tables of scaling.md: what a step of configs/1b.toml moves between GPUs, and how long that takes on paper.

usage: python3 docs/scaling.py          print the tables
       python3 docs/scaling.py --check  exit with 1 where scaling.md says something else
       python3 docs/scaling.py --write  put them into scaling.md
       python3 docs/scaling.py --recipe print what is assumed of the recipe, as JSON (a test compares it with the plan)
"""

import json
import sys
from pathlib import Path

# configs/1b.toml at 64 tokens a text: `inverse-stella train --recipe configs/1b.toml --dry-run --on-paper --json`
PARAMETERS = 1_108_168_704
FLOPS_PER_TOKEN = 7_216_791_552.0  # forward and backward
BATCH_TOKENS, ACCUMULATE = 131_072, 8

PEAK, MFU = 989e12, 0.5  # dense bf16 of an H100 SXM by NVIDIA's data sheet; the target, not a measurement
EFFICIENCY = 0.8  # assumed share of a link's rate that collectives reach
NODE = 8  # GPUs in a node
LATENCY = 10e-6  # assumed for one hop of a ring, launch and wire
BUCKET = 25 << 20  # bytes sent at once
# bytes a second, each way
NVLINK = 450e9  # a GPU; the data sheet's 900 GB/s are both ways together
ETHERNET = 100e9 / 8  # a machine: one card of 100 Gb/s
DGX = 8 * 400e9 / 8  # a machine: eight cards of 400 Gb/s, one a GPU

GPUS = (8, 64, 512)


def seconds_of_compute(tokens):
    """A step of so many tokens on one GPU."""
    return tokens * FLOPS_PER_TOKEN / (PEAK * MFU)


def share(n):
    """(n - 1) / n: what one pass around a ring of n sends of its bytes, a reduce-scatter or an all-gather."""
    return (n - 1) / n


def passes(mode):
    """(bytes a parameter, ring passes) of everything that a step exchanges."""
    return {
        # an all-reduce is a reduce-scatter and an all-gather
        "f32": [(4, 2)],
        "bf16": [(2, 2)],
        # gradients all-reduced, the updated f32 masters of each shard gathered
        "ZeRO-1": [(4, 2), (4, 1)],
        # gradients reduce-scattered, the updated weights gathered as bf16: what is enough for ZeRO-1
        "ZeRO-1, scattered": [(4, 1), (2, 1)],
        "ZeRO-1, scattered, bf16": [(2, 1), (2, 1)],
    }[mode]


def volume(mode, n):
    """Bytes that one GPU sends (and receives) in a step, in one ring over n."""
    return sum(size * PARAMETERS * count * share(n) for size, count in passes(mode))


def seconds(mode, n, network):
    """What a step's exchange takes, if nothing hides it."""
    hops = sum(count * -(-size * PARAMETERS // BUCKET) for size, count in passes(mode))
    if network == "NVLink":
        return volume(mode, n) / (NVLINK * EFFICIENCY) + hops * (n - 1) * LATENCY
    if network == "eight machines":
        return volume(mode, n) / (ETHERNET * EFFICIENCY) + hops * (n - 1) * LATENCY
    # in the node first, then a ring over the nodes for each eighth; the eight share the machine's cards
    rate, nodes = {"Ethernet": ETHERNET, "DGX": DGX}[network], n // NODE
    inside = volume(mode, NODE) / (NVLINK * EFFICIENCY) + hops * (NODE - 1) * LATENCY
    if nodes == 1:
        return inside
    across = sum(size * PARAMETERS * count * share(nodes) for size, count in passes(mode))
    return inside + across / (rate * EFFICIENCY) + hops * (nodes - 1) * LATENCY


def hidden(tokens):
    """Seconds of a step behind which the exchange of gradients can hide: the backward pass, two thirds of the work, of the
    last part, for the parts before it add to the same gradients."""
    parts = max(1, round(tokens / (BATCH_TOKENS / ACCUMULATE)))
    return seconds_of_compute(tokens) * 2 / 3 / parts


def efficiency(mode, n, network, tokens):
    """Share of the time of a step in which a GPU computes."""
    compute = seconds_of_compute(tokens)
    exposed = max(0.0, seconds(mode, n, network) - hidden(tokens))
    return compute / (compute + exposed)


def ms(value):
    return f"{value * 1e3:,.0f}"


def exchange_table():
    yield "| GPUs | what is exchanged | GB a GPU sends a step | NVLink, ms | 100 Gb/s Ethernet, ms | 8 x 400 Gb/s, ms |"
    yield "|---|---|---|---|---|---|"
    for n in GPUS:
        for mode in ("f32", "bf16", "ZeRO-1", "ZeRO-1, scattered", "ZeRO-1, scattered, bf16"):
            ethernet = seconds(mode, n, "eight machines" if n == NODE else "Ethernet")
            dgx = "" if n == NODE else ms(seconds(mode, n, "DGX"))
            yield (
                f"| {n} | {mode} | {volume(mode, n) / 1e9:.2f} | {ms(seconds(mode, n, 'NVLink'))} | {ms(ethernet)} | {dgx} |"
            )


def step_table():
    yield "| tokens of a step | GPUs | a GPU's tokens | it computes, ms | hides, ms | f32, Ethernet | bf16, Ethernet | f32, 8 x 400 | bf16, 8 x 400 |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for fixed in (False, True):
        for n in GPUS:
            tokens = BATCH_TOKENS * NODE // n if fixed else BATCH_TOKENS
            cells = []
            for network in ("Ethernet", "DGX"):
                for mode in ("f32", "bf16"):
                    cells.append(f"{efficiency(mode, n, network, tokens):.0%}")
            yield (
                f"| {tokens * n:,} | {n} | {tokens:,} | {ms(seconds_of_compute(tokens))} | {ms(hidden(tokens))} | "
                + " | ".join(cells)
                + " |"
            )


def memory_table():
    yield "| GPUs | moments, all on each GPU | with ZeRO-1 |"
    yield "|---|---|---|"
    for n in GPUS:
        yield f"| {n} | {8 * PARAMETERS / 1e9:.2f} GB | {8 * PARAMETERS / n / 1e9:.2f} GB |"


TABLES = {"exchange": exchange_table, "step": step_table, "memory": memory_table}


def filled(page):
    """The page with every table between its marks made anew."""
    for name, table in TABLES.items():
        start, end = f"<!-- {name}: docs/scaling.py -->\n", "<!-- end -->"
        head, found, rest = page.partition(start)
        if not found:
            sys.exit(f"scaling.md has no place for the table {name}")
        page = head + start + "\n".join(table()) + "\n" + end + rest.partition(end)[2]
    return page


def main():
    flag, page = (sys.argv[1:] or [""])[0], Path(__file__).with_name("scaling.md")
    if flag == "--recipe":
        values = dict(parameters=PARAMETERS, flops_per_token=FLOPS_PER_TOKEN, batch_tokens=BATCH_TOKENS, accumulate=ACCUMULATE)
        print(json.dumps(values))
    elif flag in ("--check", "--write"):
        text = page.read_text(encoding="utf-8")
        if flag == "--write":
            page.write_text(filled(text), encoding="utf-8")
        elif filled(text) != text:
            sys.exit("docs/scaling.md: the tables are not those of docs/scaling.py; run python3 docs/scaling.py --write")
    else:
        for name, table in TABLES.items():
            print(f"{name}:", *table(), "", sep="\n")


main()
