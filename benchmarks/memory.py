"""Memory of a training step, concatc beside PyTorch eager, Inductor and JAX: one command, one table.

    python -m benchmarks.memory [--nets densenet40,unet] [--systems concatc,torch] [--json memory.json]

`benchmarks.resident` says what is measured.  Every system runs in a process of its own on one thread, PyTorch with
images in NCHW and in channels-last, JAX in NCHW and in NHWC; each system with the C library's allocator as it is and
with one that gives large blocks back at once, and the least counts.  A peer whose loss is not concatc's is no peer.
The planned bytes beside are those of concatc's plan, as are the bytes that it copies.  A row within a budget is concatc
with ``max_memory``, beside the same peers.  Figures in the JSON file from a run on the same machine are kept for the
systems that are not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.nets import MEMORY_WORKLOADS, ROOT, Workload
from benchmarks.problem import compiled
from benchmarks.process import environment
from benchmarks.report import MIB, machine, markdown, write_json

FAMILIES = {
    "torch": ("torch", "torch-channels-last"),
    "inductor": ("inductor", "inductor-channels-last"),
    "jax": ("jax", "jax-nhwc"),
}
SYSTEMS = ("concatc", *(system for family in FAMILIES.values() for system in family))
# The C library keeps blocks that were given up; told not to, PyTorch grows half as much on a chain of concats.
ALLOCATORS = ("as it is", "gives back")
# The most that concatc may take of what the best peer takes.
BARS = {"densenet40": 1 / 6, "densenet_bc100": 1 / 4, "googlenet": 0.7, "unet": 0.7}
SAME_LOSS = 1e-3  # of its size; deep nets in float32 differ by some 1e-4
TIMEOUT_S = 3600


def resident(system: str, work: Workload, caches: Path, allocator: str) -> dict[str, Any]:
    """What `benchmarks.resident` prints; ``{"failed": why}`` where it does not end well."""
    command = [sys.executable, "-m", "benchmarks.resident", system, work.name]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(caches, allocator, threads=1),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {TIMEOUT_S} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def planned(work: Workload) -> dict[str, Any]:
    """Bytes of the plan's bases, and of what it copies in a step, by column."""
    plan = compiled(work).phase("train").plan
    copied: dict[str, int] = {"copy": 0, "second store": 0}
    for remark in plan.remarks:
        copied[remark.kind] = copied.get(remark.kind, 0) + remark.bytes
    return {"bases": {base.name: base.size_bytes for base in plan.bases.values()}, "copied": copied}


def measure(work: Workload, systems: list[str], caches: Path, known: dict[str, Any]) -> dict[str, Any]:
    """One row; ``known`` is the row of an earlier run."""
    row: dict[str, Any] = {**known, "net": work.name, "dims": work.dims, "systems": dict(known.get("systems", {}))}
    if "concatc" in systems:
        row["planned"] = planned(work)
    for system in systems if not work.peers else ["concatc"]:
        row["systems"][system] = {a: resident(system, work, caches, a) for a in ALLOCATORS}
        print(work.name, system, json.dumps(row["systems"][system]), file=sys.stderr, flush=True)
    return row


def with_peers(row: dict[str, Any], of: dict[str, Any]) -> dict[str, Any]:
    """The row with the figures of another row's peers."""
    return {**row, "systems": {**of.get("systems", {}), **row["systems"]}}


def least(row: dict[str, Any], systems: tuple[str, ...]) -> int | None:
    """The least growth of these systems that compute the loss that concatc computes."""
    ours = row["systems"].get("concatc", {}).get("as it is", {}).get("loss")
    runs = [run for system in systems for run in row["systems"].get(system, {}).values() if "failed" not in run]
    if ours is not None:
        runs = [run for run in runs if abs(run["loss"] - ours) <= SAME_LOSS * abs(ours)]
    return min((run["growth_bytes"] for run in runs), default=None)


HEAD = ["net", "arena", "planned", "grown by", *FAMILIES, "of the best peer", "bar", "copied, B", "stored twice, B"]


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table, in MiB; copies in bytes."""
    ours = least(row, ("concatc",))
    peers = [least(row, family) for family in FAMILIES.values()]
    best = min((p for p in peers if p is not None), default=None)
    bar = BARS.get(row["net"].split(" within ")[0])
    plan = row.get("planned", {"bases": {}, "copied": {}})
    return [
        row["net"],
        mib(plan["bases"].get("arena")),
        mib(sum(plan["bases"].values())),
        *map(mib, [ours, *peers]),
        f"{ours / best:.3f}" if ours and best else "-",
        f"{bar:.3f}" if bar else "-",
        str(plan["copied"].get("copy", 0)),
        str(plan["copied"].get("second store", 0)),
    ]


def mib(n: int | None) -> str:
    """Bytes in MiB; a dash for what was not measured."""
    return "-" if n is None else f"{n / MIB:.1f}"


def main() -> None:
    """Measure the rows asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(w.name for w in MEMORY_WORKLOADS), help="names, by commas")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="names, by commas: %(default)s")
    parser.add_argument("--json", type=Path, help="write everything measured there, keeping what it holds of others")
    parser.add_argument("--caches", type=Path, help="where peers keep compiled code from run to run")
    options = parser.parse_args()
    caches = options.caches or Path(tempfile.mkdtemp(prefix="concatc-benchmarks-"))
    rows = known_rows(options.json)
    for work in MEMORY_WORKLOADS:
        if work.name in options.nets.split(","):
            rows[work.name] = measure(work, options.systems.split(","), caches, rows.get(work.name, {}))
            write_json(options.json, ordered(rows))
    shown = [with_peers(rows[work.name], rows.get(work.peers, {})) for work in MEMORY_WORKLOADS if work.name in rows]
    print(markdown(HEAD, [cells(row) for row in shown]))


def known_rows(path: Path | None) -> dict[str, Any]:
    """The rows of an earlier run by net, none where it was on another machine or with other versions."""
    if path is None or not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {row["net"]: row for row in found["rows"]} if found["machine"] == machine() else {}


def ordered(rows: dict[str, Any]) -> dict[str, Any]:
    """What is written: rows as `MEMORY_WORKLOADS` has them."""
    return {"machine": machine(), "rows": [rows[work.name] for work in MEMORY_WORKLOADS if work.name in rows]}


if __name__ == "__main__":
    main()
