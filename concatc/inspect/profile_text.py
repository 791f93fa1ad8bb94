"""A profile for people, and as data for tools.

kernel            phase     line  launches       ms   share  GFLOP/s   GB/s    bound  roofline
k7_conv_bias      forward     12         1    1.234  40.1 %    191.2   12.1  compute      83 %
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from concatc.diagnostics import Loc
from concatc.inspect.profile import KernelRow, Profile, Rates
from concatc.ir.comments import bytes_text

HEADER = ("kernel", "phase", "line", "launches", "ms", "share", "GFLOP/s", "GB/s", "bound", "roofline")
LEFT = ("kernel", "phase", "line")
MOST_COLUMNS = 44  # of a kernel's name
NOISY = 1.5  # times the least, at which a machine is no longer quiet
CALLS = {"train": "train_step", "infer": "eval"}
TITLES = {"train": "training step", "infer": "inference"}


def text_of(profile: Profile, most: int) -> str:
    """What was measured, then a row for each of the kernels that take longest, then totals."""
    at = ", ".join(f"{name}={value}" for name, value in profile.dims.items())
    rows = profile.rows if most == 0 else profile.rows[:most]
    lines = [f"net {profile.net}({at}), {TITLES[profile.phase]}", *_machine(profile), *_times(profile), ""]
    table: list[Sequence[str]] = [HEADER, *(_row(row, profile.total) for row in rows)]
    rest = profile.rows[len(rows) :]
    if rest:
        kernels = f"{len(rest)} more kernel{'s' if len(rest) > 1 else ''}"
        theirs = [(row.kernel, row.phase) for row in rest]
        left = [k for k, launch in enumerate(profile.launched) if (launch.kernel, launch.phase) in theirs]
        table.append((kernels, "", "", *_cells(profile.rates(left), profile.total)))
    table += [(name, "", "", *_cells(rates, profile.total)) for name, rates in _sums(profile)]
    return "\n".join([*lines, *_aligned(table)])


def _sums(profile: Profile) -> list[tuple[str, Rates]]:
    parts = [(f"all {name}", rates) for name, rates in profile.phases.items()] if len(profile.phases) > 1 else []
    return [*parts, ("all", profile.total)]


def _machine(profile: Profile) -> list[str]:
    peaks = profile.peaks
    flops = ", ".join(f"{value:.0f} GFLOP/s {dtype}" for dtype, value in peaks.gflops.items())
    shown = (peaks.bandwidths[0], *(b for b in peaks.bandwidths if b.size_bytes == 1 << 20), peaks.bandwidths[-1])
    bytes_ = ", ".join(f"{b.read:.0f} GB/s of {bytes_text(b.size_bytes)}" for b in shown)
    return [f"one thread of {peaks.machine} does {flops} and reads {bytes_}"]


def _times(profile: Profile) -> list[str]:
    calls, call = profile.calls_ns, CALLS[profile.phase]
    least = float(calls.min())
    low, high = (float(ns) for ns in np.percentile(calls, [10, 90]))
    rounds = f"{len(calls)} round{'s' if len(calls) > 1 else ''}"
    shared = f"; {100 * profile.shared_part:.0f} % of that is what threads share" if profile.threads > 1 else ""
    lines = [
        f"{call} {_ms(profile.call_ns)} ms on {_threads(profile)}, median of {rounds}; least {_ms(least)} ms, "
        f"eight of ten {_ms(low)} to {_ms(high)} ms",
        f"kernels {_ms(profile.step_ns)} ms on one thread, with a clock read at each of "
        f"{len(profile.launched)} launches{shared}",
        f"planned memory {bytes_text(profile.memory_bytes)}, arena {bytes_text(profile.arena_bytes)} of it",
    ]
    if profile.cpu_time:
        lines.append("times are those of the processor in this thread: what else the machine does is left out")
    if high > NOISY * least:
        lines.append(f"note: calls differ by {high / least:.1f} times: other work on this machine disturbs these times")
    return lines


def _threads(profile: Profile) -> str:
    return f"{profile.threads} threads" if profile.threads > 1 else "one thread"


def _row(row: KernelRow, total: Rates) -> tuple[str, ...]:
    name = row.kernel if len(row.kernel) <= MOST_COLUMNS else f"{row.kernel[: MOST_COLUMNS - 2]}.."
    return (name, row.phase, _lines(row.locs), *_cells(row.rates, total))


def _lines(locs: Sequence[Loc]) -> str:
    """``net.cnet:9``, of launches of several lines the first and how many more there are."""
    lines = list(dict.fromkeys((PurePath(loc.file).name, loc.line) for loc in locs))
    if not lines:
        return ""
    file, line = lines[0]
    return f"{file}:{line}" + (f" and {len(lines) - 1} more" if len(lines) > 1 else "")


def _cells(rates: Rates, total: Rates) -> tuple[str, ...]:
    roofline = rates.roofline
    return (
        str(rates.launches),
        _ms(rates.elapsed_ns),
        f"{100 * rates.elapsed_ns / total.elapsed_ns:.1f} %",
        f"{rates.gflops:.1f}" if rates.flops else "-",
        f"{rates.gigabytes:.1f}" if rates.read_bytes + rates.written_bytes else "-",
        rates.bound or "-",
        "-" if roofline is None else f"{100 * roofline:.0f} %",
    )


def _ms(elapsed_ns: float) -> str:
    """Milliseconds with four digits or so: ``0.0042``, ``1.234``, ``97.3``."""
    ms = elapsed_ns / 1e6
    return f"{ms:.{4 if ms < 1 else 3 if ms < 10 else 1}f}"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in table) for k in range(len(HEADER))]
    return [
        "  ".join(
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for cell, width, name in zip(row, widths, HEADER, strict=True)
        ).rstrip()
        for row in table
    ]


def data_of(profile: Profile) -> dict[str, Any]:
    """Everything as plain data, for ``--json``: times in nanoseconds, bytes, flops of one step."""
    low, high = np.percentile(profile.calls_ns, [10, 90])
    return {
        "net": profile.net,
        "dims": dict(profile.dims),
        "phase": profile.phase,
        "rounds": len(profile.stamps),
        "cpu_time": profile.cpu_time,
        "threads": profile.threads,
        "shared_part": profile.shared_part,
        "call_ns": {
            "median": profile.call_ns,
            "least": float(profile.calls_ns.min()),
            "p10": float(low),
            "p90": float(high),
        },
        "step_ns": profile.step_ns,
        "memory_bytes": profile.memory_bytes,
        "arena_bytes": profile.arena_bytes,
        "peaks": {
            "machine": profile.peaks.machine,
            "gflops": dict(profile.peaks.gflops),
            "bandwidths": [
                {"bytes": b.size_bytes, "read_gb_s": b.read, "copy_gb_s": b.copy} for b in profile.peaks.bandwidths
            ],
        },
        "kernels": [
            {
                "kernel": row.kernel,
                "phase": row.phase,
                "ops": list(row.ops),
                "locs": [str(loc) for loc in row.locs],
                **_rates_data(row.rates),
            }
            for row in profile.rows
        ],
        "phases": {name: _rates_data(rates) for name, rates in profile.phases.items()},
        "total": _rates_data(profile.total),
    }


def _rates_data(rates: Rates) -> dict[str, Any]:
    return {
        "launches": rates.launches,
        "elapsed_ns": rates.elapsed_ns,
        "least_ns": rates.least_ns,
        "flops": rates.flops,
        "arithmetic": rates.arithmetic,
        "read_bytes": rates.read_bytes,
        "written_bytes": rates.written_bytes,
        "gflops": rates.gflops,
        "gb_s": rates.gigabytes,
        "bound": rates.bound,
        "roofline": rates.roofline,
    }
