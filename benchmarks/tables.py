"""The tables of `benchmarks.cpu`, made of what it wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.report import MIB, geometric_mean, markdown, spread

Record = Mapping[str, Any]
TIE = 0.97
BAR = 1e-4
PHASES = {"train": "training step", "infer": "inference"}


def tables(found: Mapping[str, Any]) -> str:
    """All of them, in Markdown."""
    rows = [r for r in found["rows"] if "concatc" in r]
    parts = [
        *steps(rows),
        accuracy(rows),
        cost(rows),
        *machine_share(rows),
        *precisions(rows),
        *failures(found["rows"]),
    ]
    return "\n\n".join([*parts, *failures(found["rows"])])


def steps(rows: list[Record]) -> Iterator[str]:
    """Times and ratios, a table for each phase and number of threads."""
    head = ["net", "concatc, ms", "best peer", "its ms", "ratio"]
    for phase, title in PHASES.items():
        for threads in sorted({r["threads"] for r in rows}):
            chosen = [r for r in rows if (r["phase"], r["threads"]) == (phase, threads)]
            ratios = [r["peers"][r["best"]]["ratio"] for r in chosen if r["best"]]
            if not ratios:
                continue
            lines = [_step_cells(r) for r in chosen]
            mean = geometric_mean(x["median"] for x in ratios)
            behind = sum(x["median"] < TIE for x in ratios)
            yield (
                f"**{title}, {threads} thread{'s'[: threads > 1]}**: geometric mean {mean:.2f}, "
                f"{behind} of {len(ratios)} rows behind the best peer\n\n{markdown(head, lines)}"
            )


def _step_cells(r: Record) -> list[str]:
    if not r["best"]:
        return [r["row"], ms(r["concatc"]["step_s"]), "-", "-", "-"]
    best = r["peers"][r["best"]]
    return [r["row"], ms(r["concatc"]["step_s"]), r["best"], ms(best["step_s"]), spread(best["ratio"])]


def accuracy(rows: list[Record]) -> str:
    """Deviations from float64, one thread."""
    head = ["net", "phase", "concatc", "most accurate peer", "its", "bar", ""]
    lines = []
    for r in (r for r in rows if r["threads"] == 1 and "deviation" in r["concatc"]):
        ours = r["concatc"]["deviation"]
        peers = {name: p["deviation"] for name, p in r["peers"].items() if "deviation" in p}
        best = min(peers, key=peers.__getitem__, default="-")
        bar = max(BAR, 2 * peers.get(best, 0.0))
        theirs = f"{peers[best]:.1e}" if peers else "-"
        verdict = "" if ours <= bar else "beyond"
        lines.append([r["row"], r["phase"], f"{ours:.1e}", best, theirs, f"{bar:.1e}", verdict])
    return "**deviation from float64** (loss and norms of gradients; outputs)\n\n" + markdown(head, lines)


def cost(rows: list[Record]) -> str:
    """Memory and time to the first step, of training with one thread."""
    head = ["net", "grown by, MiB", "least peer", "its MiB", "first step, s", "again, s", *FAMILIES]
    lines = []
    for r in (r for r in rows if (r["phase"], r["threads"]) == ("train", 1)):
        ours = r["concatc"]
        grown = {name: p["growth_bytes"] for name, p in r["peers"].items() if "growth_bytes" in p}
        least = min(grown, key=grown.__getitem__, default="-")
        lines.append(
            [
                r["row"],
                f"{ours['growth_bytes'] / MIB:.1f}" if "growth_bytes" in ours else "-",
                least,
                f"{grown[least] / MIB:.1f}" if grown else "-",
                f"{ours['first_s']:.1f}",
                f"{ours['first_warm_s']:.1f}",
                *(_first(r, family) for family in FAMILIES),
            ]
        )
    title = "**memory and first step of training**, one thread; first steps of peers at the right, in seconds"
    return f"{title}\n\n{markdown(head, lines)}"


FAMILIES = ("torch", "jax", "inductor")


def _first(r: Record, system: str) -> str:
    return f"{r['peers'][system]['first_s']:.1f}" if system in r["peers"] else "-"


def machine_share(rows: list[Record]) -> Iterator[str]:
    """How near the machine's limits it comes: of its peak, and two threads of one."""
    shares = [[r["row"], f"{r['share_of_peak']:.2f}"] for r in rows if "share_of_peak" in r]
    if shares:
        yield "**share of the FMA peak**, training, one thread\n\n" + markdown(["net", "share"], shares)
    scaling = [r for r in rows if "concatc, one thread" in r["ours"]]
    if scaling:
        lines = [[r["row"], r["phase"], spread(r["ours"]["concatc, one thread"]["ratio"])] for r in scaling]
        head = ["net", "phase", "one thread / several"]
        yield "**threads**: time with one thread over that with several\n\n" + markdown(head, lines)


def precisions(rows: list[Record]) -> Iterator[str]:
    """Other precisions of concatc in training."""
    lines = []
    for r in rows:
        best = r["peers"][r["best"]]["step_s"] if r["best"] else None
        for name, own in r["ours"].items():
            if name.startswith("concatc-"):
                ratio = f"{best / own['step_s']:.2f}" if best else "-"
                off = f"{own['deviation']:.1e}" if "deviation" in own else "-"
                lines.append([r["row"], name.removeprefix("concatc-"), ms(own["step_s"]), ratio, off])
    if lines:
        head = ["net", "precision", "concatc, ms", "best peer / concatc", "deviation"]
        yield "**other precisions**, training\n\n" + markdown(head, lines)


def failures(rows: list[Record]) -> Iterator[str]:
    """Who was not measured, and why."""
    lines = []
    for r in rows:
        for name, why in r["failed"].items():
            line = [r["row"], str(r["threads"]), name, why[:90].replace("|", "/")]
            lines += [line] if line not in lines else []
    if lines:
        yield "**not measured**\n\n" + markdown(["net", "threads", "system", "why"], lines)


def ms(seconds: float) -> str:
    """Milliseconds with three digits."""
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"
