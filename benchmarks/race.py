"""Who is the fastest on one workload with a number of threads: trials, then rounds in which all take turns.

Every system has a process of its own and runs when it is told, so one runs at a time.  Each peer is tried beside
concatc first; those far behind the best one found so far are ended there, with the ratio of their trial in the report.
Those that are near the best, as they are, are tried again with an allocator that keeps memory and takes huge pages.
What is left takes turns with concatc, a round each.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.process import Failed, environment, worker
from benchmarks.report import deviation, ratios
from benchmarks.systems import SYSTEMS

TRIALS = 2
TRIAL_S = 0.1
STAYS = 1.25  # times the best peer's time: what is slower in trials takes no turns
MAY_GAIN = 1.6  # what an allocator may be worth at most
SAME = {"train": 3e-2, "infer": 1e-3}  # beyond this a system computes something else


class Runner(Protocol):
    """A process of a system."""

    first: dict[str, Any]

    def ask(self, told: Any) -> dict[str, Any]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Entry:
    """A system with an allocator."""

    system: str
    allocator: str = "as it is"

    @property
    def name(self) -> str:
        """As it is reported."""
        return self.system if self.allocator == "as it is" else f"{self.system}, {self.allocator}"


@dataclass(frozen=True)
class Setting:
    """What all processes of a race are told alike."""

    row: str
    threads: int
    phases: tuple[str, ...]
    data: Path
    caches: Path
    results: Path  # a folder
    reference: Mapping[str, Mapping[str, np.ndarray]]  # by phase
    pythons: Mapping[str, str]  # interpreters by package
    ready_s: float
    answer_s: float
    growth: bool

    def start(self, entry: Entry) -> tuple[Runner, dict[str, Any]]:
        """The process, and what is known of it: versions, time to the first step, deviation, growth by phase."""
        system = SYSTEMS[entry.system]
        phases = [phase for phase in self.phases if phase in system.phases]
        results = self.results / f"{entry.name.replace(', ', '-')}-{self.threads}"
        job = {
            "system": entry.system,
            "row": self.row,
            "phases": phases,
            "threads": self.threads,
            "data": str(self.data),
            "results": str(results),
            "growth": self.growth and entry.allocator == "as it is",
        }
        python = self.pythons.get(system.package, "")
        env = environment(self.caches, entry.allocator, self.threads)
        process = worker(python, job, env, self.ready_s, self.answer_s)
        said = process.first
        for phase in phases if self.reference else ():
            with np.load(results.with_suffix(f".{phase}.npz"), allow_pickle=False) as values:
                off = deviation(dict(values), self.reference[phase])
            said["phases"][phase]["deviation"] = off
            if off > SAME[phase]:
                process.close()
                raise Failed(f"computes something else in {phase}: off by {off:.1e}")
        return process, said


@dataclass
class Field:
    """Who takes part in a race, and what was found of each, by phase."""

    ours: Runner
    phases: tuple[str, ...]
    start: Callable[[Entry], tuple[Runner, dict[str, Any]]]
    clock: str = "wall"
    running: dict[str, Runner] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    trials: dict[str, dict[str, float]] = field(default_factory=dict)  # phase -> name -> times concatc's
    failed: dict[str, str] = field(default_factory=dict)

    def enter(self, entry: Entry) -> None:
        """Start a system and try it beside concatc; who is far behind goes."""
        note(f"    {entry.name}")
        try:
            runner, said = self.start(entry)
        except Failed as error:
            self.failed[entry.name] = str(error)
            note(f"    {entry.name}: {error}")
            return
        self.running[entry.name], self.entries[entry.name], self.said[entry.name] = runner, entry, said
        for phase in said["phases"]:
            try:
                tried = interleaved({"concatc": self.ours, entry.name: runner}, phase, TRIALS, TRIAL_S)
            except Failed as error:
                self.drop(entry.name, str(error))
                return
            times = seconds_of(tried, self.clock)
            self.trials.setdefault(phase, {})[entry.name] = ratios(times[entry.name], times["concatc"])["least"]
        self.thin()

    def thin(self) -> None:
        """End who is far behind the best in every phase."""
        for name in [n for n in self.running if not any(self.near(n, phase, STAYS) for phase in self.phases)]:
            self.running.pop(name).close()

    def drop(self, name: str, why: str) -> None:
        """A system failed."""
        self.failed[name] = why
        self.running.pop(name).close()
        for found in self.trials.values():
            found.pop(name, None)

    def near(self, name: str, phase: str, times: float) -> bool:
        """Whether its trial took at most so many times the best one's time."""
        found = self.trials.get(phase, {})
        return name in found and found[name] <= times * min(found.values())

    def close(self) -> None:
        """End all but concatc."""
        for runner in self.running.values():
            runner.close()


Rounds = dict[str, list[dict[str, Any]]]  # by name, what was answered


def interleaved(runners: Mapping[str, Runner], phase: str, rounds: int, seconds: float) -> Rounds:
    """Rounds of everybody in turn; each round begins with another one."""
    found: Rounds = {name: [] for name in runners}
    order = list(runners)
    for k in range(rounds):
        for name in order[k % len(order) :] + order[: k % len(order)]:
            found[name].append(runners[name].ask({"phase": phase, "seconds": seconds}))
    return found


def seconds_of(rounds: Rounds, clock: str) -> dict[str, list[float]]:
    """Seconds a step, round by round: on the wall, or those that processors spent on it."""
    return {
        name: [a["step_s"] * (a["processors"] if clock == "processor" else 1) for a in answers]
        for name, answers in rounds.items()
    }


def final(field: Field, beside: Mapping[str, Runner], phase: str, rounds: int, seconds: float) -> dict[str, Any]:
    """The rounds of one phase.  ``beside`` takes turns, too, and is no peer.  A system that fails is left out."""
    while True:
        runners = {name: runner for name, runner in field.running.items() if field.near(name, phase, STAYS)}
        try:
            turns = interleaved({"concatc": field.ours, **beside, **runners}, phase, rounds, seconds)
        except Failed:
            broken = [name for name, runner in runners.items() if not answers(runner, phase)]
            if not broken:
                raise
            for name in broken:
                field.drop(name, "failed in its rounds")
            continue
        times = seconds_of(turns, field.clock)
        found = {name: ratios(theirs, times["concatc"]) for name, theirs in times.items() if name != "concatc"}
        peers = list(runners)
        best = min(peers, key=lambda name: found[name]["median"]) if peers else None
        busy = {name: statistics.median(answer["processors"] for answer in taken) for name, taken in turns.items()}
        return {"times_s": times, "ratios": found, "processors": busy, "best": best}


def answers(runner: Runner, phase: str) -> bool:
    """Whether a process still works."""
    try:
        runner.ask({"phase": phase, "seconds": 0.0})
    except Failed:
        return False
    return True


def note(text: str) -> None:
    """Say how far it is."""
    print(text, file=sys.stderr, flush=True)
