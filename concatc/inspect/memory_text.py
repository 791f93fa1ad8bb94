"""The memory of a plan for people, and as data for tools.

training: 181 KiB, inputs 64.3 KiB, parameters 37 KiB, gradients 37 KiB, outputs 1 KiB, arena 41.7 KiB
  moved in a step: copies 0 B, second stores 0 B, layout conversions 0 B, input staging 64.3 KiB
  arena: 1.00 times the largest live set, 41.7 KiB at launch 7 of 15; scratch at most 128 B
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from concatc.diagnostics import Loc
from concatc.inspect.memory import ArenaBlock, PlanReport
from concatc.ir.comments import bytes_text
from concatc.loops.plan import Remark

BASES = {"params": "parameters", "grads": "gradients"}
COLUMNS = {
    "copy": "copies",
    "second store": "second stores",
    "layout conversion": "layout conversions",
    "input staging": "input staging",
}
PICTURE_COLUMNS = 48
PICTURE_ROWS = 16
MOST_AT_PEAK = 4


def overview(title: str, report: PlanReport) -> list[str]:
    """Bytes of the bases, bytes moved, the arena against its bound, the order of kernels, the budget, joined rows."""
    bases = ", ".join(f"{BASES.get(name, name)} {bytes_text(n)}" for name, n in report.bases.items() if n)
    return [f"{title}: {bytes_text(report.need_bytes)}, {bases}", *(f"  {line}" for line in _details(report))]


def comments(report: PlanReport) -> str:
    """What `overview` says, as comments at the head of a plan's text."""
    return "".join(f"// {line}\n" for line in overview("a step needs", report))


def picture(report: PlanReport) -> list[str]:
    """The arena by lifetime: a row for each of the largest blocks, by offset; a column is several launches."""
    blocks = report.blocks()
    shown = sorted(sorted(blocks, key=lambda b: -b.bytes)[:PICTURE_ROWS], key=lambda b: (b.offset_bytes, b.first))
    if not shown:
        return []
    columns = min(PICTURE_COLUMNS, report.launches)
    peak = report.peak_launch * columns // report.launches
    last = str(report.launches - 1)
    scale = "0".ljust(columns - len(last)) + last if columns > len(last) + 1 else "0".ljust(columns)
    lines = [
        f"{'offset':>9}  {'bytes':>9}  {'launches':>10}  {scale}",
        *(_row(block, columns, report.launches) for block in shown),
        " " * (34 + peak) + "^ the largest live set",
    ]
    rest = len(blocks) - len(shown)
    if rest:
        most = max(b.bytes for b in blocks if b not in shown)
        lines.append(f"{rest} more {'block' if rest == 1 else 'blocks'} of at most {bytes_text(most)}")
    return lines


def remark_lines(remarks: tuple[Remark, ...]) -> list[str]:
    """A line for each remark: place, what and why, bytes, column."""
    return [f"{f'{r.loc}: ' if r.loc else ''}{r.message}: {bytes_text(r.bytes)} ({COLUMNS[r.kind]})" for r in remarks]


def data_of(report: PlanReport) -> dict[str, Any]:
    """Everything as plain data, for ``--json``."""
    peak = [
        {"name": s.title, "bytes": s.bytes, "first": s.first, "last": s.last, "loc": str(s.loc) if s.loc else None}
        for s in report.at_peak()
    ]
    return {
        "need_bytes": report.need_bytes,
        "bases": dict(report.bases),
        "moved_bytes": {COLUMNS[kind]: n for kind, n in report.moved_bytes.items()},
        "filled_bytes": report.fill_bytes,
        "remarks": [
            {"message": r.message, "bytes": r.bytes, "column": COLUMNS[r.kind], "loc": str(r.loc) if r.loc else None}
            for r in report.remarks
        ],
        "arena": {
            "bytes": report.arena_bytes,
            "scratch_bytes": report.scratch_bytes,
            "live_set_bytes": report.live_set_bytes,
            "live_value_bytes": report.live_bytes[report.peak_launch] if report.live_bytes else 0,
            "peak_launch": report.peak_launch,
            "launches": report.launches,
            "at_peak": peak,
            "blocks": [
                {"name": b.title, "offset": b.offset_bytes, "bytes": b.bytes, "first": b.first, "last": b.last}
                for b in report.blocks()
            ],
        },
        "order": report.notes.get("cnet.order"),
        "order_bytes": report.notes.get("cnet.order_bytes"),
        "budget": report.notes.get("cnet.budget"),
        "joined": report.notes.get("cnet.joined", ()),
    }


def _details(report: PlanReport) -> list[str]:
    moved = ", ".join(f"{COLUMNS[kind]} {bytes_text(n)}" for kind, n in report.moved_bytes.items())
    lines = [f"moved in a step: {moved}"]
    if report.live_set_bytes:
        lines.append(_arena(report))
        lines.append(f"at the peak: {_at_peak(report)}")
    orders = report.notes.get("cnet.order_bytes")
    if isinstance(orders, dict) and len(set(orders.values())) > 1:
        estimates = ", ".join(f"{name} {bytes_text(n)}" for name, n in orders.items())
        lines.append(f"order of kernels: {report.notes.get('cnet.order')}; estimates: {estimates}")
    budget = report.notes.get("cnet.budget")
    if isinstance(budget, dict):
        lines.append(_budget(budget))
    joined = report.notes.get("cnet.joined")
    if isinstance(joined, tuple):
        lines += [str(line) for line in joined]
    return lines


def _arena(report: PlanReport) -> str:
    ratio = report.arena_bytes / report.live_set_bytes
    values = report.live_bytes[report.peak_launch]
    besides = [f"values {bytes_text(values)} of it"] if values < report.live_set_bytes else []
    besides += [f"scratch at most {bytes_text(report.scratch_bytes)}"] if report.scratch_bytes else []
    besides += [f"zero fills {bytes_text(report.fill_bytes)}"] if report.fill_bytes else []
    return (
        f"arena: {ratio:.2f} times the largest live set, {bytes_text(report.live_set_bytes)} "
        f"at launch {report.peak_launch} of {report.launches}" + "".join(f"; {text}" for text in besides)
    )


def _line(loc: Loc | None) -> str:
    return f" ({PurePath(loc.file).name}:{loc.line})" if loc else ""


def _at_peak(report: PlanReport) -> str:
    alive = report.at_peak()
    told = [f"{s.title} {bytes_text(s.bytes)}" + _line(s.loc) for s in alive[:MOST_AT_PEAK]]
    rest = alive[MOST_AT_PEAK:]
    if rest:
        told.append(f"{len(rest)} more {bytes_text(sum(s.bytes for s in rest))}")
    return ", ".join(told)


def _budget(budget: dict[str, Any]) -> str:
    if "need_bytes" not in budget and "recompute" not in budget and budget["default_bytes"] <= budget["limit_bytes"]:
        default = bytes_text(budget["default_bytes"])
        return f"budget: {bytes_text(budget['limit_bytes'])}; the plan as it is needs {default}"
    head = f"budget: {bytes_text(budget['limit_bytes'])}; without it {bytes_text(budget['default_bytes'])}"
    if "need_bytes" in budget:
        head += f", with it {bytes_text(budget['need_bytes'])}"
        head += "" if "order" in budget else "; convolutions as written"
    if "recompute" not in budget:
        return head
    parts = f", contractions in {budget['parts']} parts" if budget["parts"] else ""
    return f"{head}; recompute {budget['recompute']}{parts}, order {budget['order']}"


def _row(block: ArenaBlock, columns: int, launches: int) -> str:
    first, last = (at * columns // launches for at in (block.first, block.last))
    bar = "." * first + "#" * (last - first + 1) + "." * (columns - last - 1)
    span = f"{block.first}..{block.last}"
    return f"{bytes_text(block.offset_bytes):>9}  {bytes_text(block.bytes):>9}  {span:>10}  {bar}  {block.title}"
