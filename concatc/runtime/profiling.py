"""Measures the steps of an instance: calls as a user makes them, and calls with a clock at every launch, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from concatc.diagnostics import ConcatcError, UsageError
from concatc.inspect.profile import Profile, launched_of
from concatc.ir.types import FLOATS, NUMPY_DTYPES
from concatc.loops.memory import Array, check_free
from concatc.loops.plan import Plan
from concatc.runtime.index_check import IndexCheck
from concatc.runtime.instance import Instance
from concatc.runtime.signature import Signature
from concatc.runtime.source import Update

MOST_ROUNDS = 100_000
# Without a number of rounds: what fits in this time, but a few at least, and no more than medians need.
ROUNDS_NS, FEW_ROUNDS, MANY_ROUNDS = 2_000_000_000, 5, 500


def made_up_inputs(signature: Signature, checks: Iterable[IndexCheck], seed: int = 0) -> dict[str, Array]:
    """Arrays of the shapes of the inputs: floats are normal, indices in range, other integers 0 or 1."""
    rng = np.random.default_rng(seed)
    extents: dict[str, int] = {}
    for check in checks:
        if check.kind == "input":
            extents[check.name] = min(check.extent, extents.get(check.name, check.extent))
    check_free({name: spec.type.size_bytes for name, spec in signature.inputs.items()}, "made-up inputs")
    made: dict[str, Array] = {}
    for name, spec in signature.inputs.items():
        dtype = NUMPY_DTYPES[spec.type.dtype]
        if spec.type.dtype in FLOATS:
            made[name] = np.asarray(rng.standard_normal(spec.type.shape, dtype))
        else:
            made[name] = np.asarray(rng.integers(0, extents.get(name, 2), spec.type.shape, dtype))
    return made


def check_rounds(rounds: int | None) -> None:
    """Raise :class:`UsageError` for what is no number of rounds; None leaves it open."""
    if rounds is None:
        return
    if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= MOST_ROUNDS:
        raise UsageError(f"rounds is a whole number from 1 to {MOST_ROUNDS}, not {rounds!r}")


def profile_calls(
    instance: Instance,
    call: Callable[[], object],
    rounds: int | None,
    update: Update | None,
    measure_peaks: bool,
    cpu_time: bool,
) -> Profile:
    """Profile ``call``, which runs a step of ``instance``; it has run before, so that all code is there."""
    source, began = instance.source, time.perf_counter_ns()
    peaks = source.target.peaks(measure_peaks)
    clock = time.CLOCK_THREAD_CPUTIME_ID if cpu_time else time.CLOCK_MONOTONIC
    calls_ns: list[int] = []
    stamps: list[list[int]] = []
    wanted = rounds
    while wanted is None or len(stamps) < wanted:
        start, began_call = time.perf_counter_ns(), time.clock_gettime_ns(clock)
        call()
        calls_ns.append(time.clock_gettime_ns(clock) - began_call)
        with instance.timed(clock) as taken:
            call()
        stamps.append(_joined([part for _, part in taken]))
        if wanted is None:
            round_ns = max(time.perf_counter_ns() - start, 1)
            wanted = min(max(ROUNDS_NS // round_ns, FEW_ROUNDS), MANY_ROUNDS)
    executable = instance.executable
    assert executable is not None
    ran = [phase for phase, _ in taken]
    known = list(zip(executable.launches, executable.shared(instance.threads), strict=True))
    found = [(launch, part) for phase in ran for launch, part in known if phase in ("step", launch[1])]
    bases = instance.size_bytes | {name: base.size_bytes for name, base in instance.interface.bases.items()}
    if update is not None:
        bases |= {name: base.size_bytes for name, base in update.plan().bases.items()}
    return Profile(
        net=source.name,
        dims=dict(source.dims),
        phase=instance.phase,
        launched=launched_of([launch for launch, _ in found], _plan(instance, update)),
        stamps=np.array(stamps, np.int64),
        calls_ns=np.array(calls_ns, np.int64),
        peaks=peaks,
        memory_bytes=sum(bases.values()),
        arena_bytes=bases.get("arena", 0),
        measured_ns=time.perf_counter_ns() - began,
        cpu_time=cpu_time,
        threads=instance.threads,
        shared=tuple(part for _, part in found),
    )


def _joined(taken: list[Array]) -> list[int]:
    """The stamps of the parts of a step, one behind the other; what lies between parts counts for none."""
    stamps = [int(stamp) for stamp in taken[0]]
    for part in taken[1:]:
        shift = int(part[0]) - stamps[-1]
        stamps += [int(stamp) - shift for stamp in part[1:]]
    return stamps


def _plan(instance: Instance, update: Update | None) -> Plan | None:
    """The plan whose launches run; None where it is not known: written modules have those of their own dims."""
    try:
        plan = instance.lowered.plan
    except ConcatcError:
        return None
    if update is None:
        return plan
    behind = update.plan()
    return replace(plan, kernels={**plan.kernels, **behind.kernels}, launches=[*plan.launches, *behind.launches])
