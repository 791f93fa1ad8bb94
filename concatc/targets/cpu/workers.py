"""Processes that make object code beside this one, since llvmlite compiles one module at a time in a process.

    with Workers(host) as workers:                  up to a process a core, each started when there is work for it
        code = [workers.submit(recipe) for ..]          object code to be
        .. plan, find out about other batch sizes, ..   this process goes on meanwhile
        objects = [made.result() for made in code]

What comes out depends on the recipe alone.  A worker that cannot be started, dies or fails is done without: ``result``
is None then, and who asked compiles it, which also makes the error where there is one.  What costs most is begun first.
Workers end with the block, and with this process.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from concatc.diagnostics import UsageError
from concatc.targets.cpu import unit_worker
from concatc.targets.cpu.native import Host
from concatc.targets.cpu.unit_worker import ANSWER, DONE, REQUEST

VARIABLE = "CONCATC_WORKERS"
MOST = 16
# What is started before it is known how much there is to do.
EARLY = 2
PACKAGES = ("concatc", "llvmlite", "numpy", "numba", "lark")


def worker_count() -> int:
    """``$CONCATC_WORKERS``, else the cores that this process may use, and none where that is one."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        if not chosen.isdecimal():
            raise UsageError(f"{VARIABLE} is the number of processes that compile, 0 or more, not {chosen!r}")
        return min(int(chosen), MOST)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST) if cores > 1 else 0


def worker_command(host: Host) -> list[str] | None:
    """What runs a worker; None where there is no interpreter to run it with (frozen programs, embedded ones)."""
    program = sys.executable
    is_interpreter = bool(program) and Path(program).name.lower().startswith(("python", "pypy"))
    if not is_interpreter or getattr(sys, "frozen", False) or not Path(unit_worker.__file__).is_file():
        return None
    # Isolated and without `site`: nothing of the user's is imported or run, and it starts faster.
    return [program, "-I", "-S", unit_worker.__file__, json.dumps(asdict(host)), *_directories()]


def _directories() -> list[str]:
    """Where the packages that a worker imports are; none of them is imported for that."""
    found = [spec.origin for name in PACKAGES if (spec := find_spec(name)) is not None]
    return list(dict.fromkeys(str(Path(origin).parent.parent) for origin in found if origin is not None))


@dataclass(order=True)
class _Job:
    rank: tuple[float, int]  # the least first
    recipe: Mapping[str, Any] = field(compare=False)
    made: Future[bytes | None] = field(compare=False, default_factory=Future)

    @property
    def is_for_numba(self) -> bool:
        return self.recipe["kind"] in ("numba", "import numba")

    def is_for(self, is_first: bool) -> bool:
        """Whether the first worker takes it, which has Numba and is needed for that, or one of the others."""
        return not self.is_for_numba if not is_first else self.recipe["kind"] != "aside"


class Workers:
    """Makes object code for a host."""

    def __init__(self, host: Host) -> None:
        number = worker_count()
        self._command = worker_command(host) if number else None
        self.most = number if self._command is not None else 0
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._count = 0
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._is_closed = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closed = True
            left, self._jobs = self._jobs, []
            processes = list(self._processes)
            self._changed.notify_all()
        for job in left:
            job.made.set_result(None)
        for process in processes:
            # What was asked for is made, or no longer wanted; it may be importing Numba still.
            process.kill()
        for thread in self._threads:
            thread.join()
        for process in processes:
            _end(process)

    def begin(self) -> None:
        """Start processes now, one of them with Numba: imports take a second, in which loops are made."""
        if self.most:
            self.submit({"kind": "import numba"})
            while self._start_thread() and len(self._threads) < min(EARLY, self.most):
                pass

    def aside(self, module: str, recipe: Mapping[str, Any]) -> Callable[[], bytes | None] | None:
        """See :class:`concatc.targets.Aside`: what takes seconds, and is begun before there are units."""
        if len(self._threads) < EARLY:
            return None
        return self.submit({**recipe, "kind": "aside", "module": module}, float("inf")).result

    @property
    def is_begun(self) -> bool:
        """Whether a process runs."""
        return bool(self._threads)

    def submit(self, recipe: Mapping[str, Any], cost: float = 0.0) -> Future[bytes | None]:
        """The object code of a recipe, to be; None where no worker makes it."""
        with self._changed:
            job = _Job((-cost, self._count), recipe)
            self._count += 1
            if self._is_closed or not (self._start_thread() or self._threads):
                job.made.set_result(None)
                return job.made
            heapq.heappush(self._jobs, job)
            self._changed.notify_all()
            return job.made

    def _start_thread(self) -> bool:
        """One more thread, which has a process, where there is work for it."""
        with self._changed:
            if len(self._threads) >= self.most or self._idle > len(self._jobs):
                return False
            thread = threading.Thread(target=self._work, args=(not self._threads,), name="concatc-compile", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the main thread ended meanwhile
                return False
            self._threads.append(thread)
            return True

    def _work(self, is_first: bool) -> None:
        process = self._started(self._command or ())
        while (job := self._next(is_first)) is not None:
            made = None
            if process is not None and process.poll() is None:
                with contextlib.suppress(OSError, ValueError):
                    made = _asked(process, json.dumps(job.recipe).encode())
            job.made.set_result(made)

    def _next(self, is_first: bool) -> _Job | None:
        """What costs most of what is left; what takes Numba is for the first worker, which has imported it."""
        with self._changed:
            self._idle += 1
            try:
                while not self._is_closed:
                    mine = [job for job in self._jobs if job.is_for(is_first)]
                    if mine:
                        job = min(mine)
                        self._jobs.remove(job)
                        return job
                    self._changed.wait()
                return None
            finally:
                self._idle -= 1

    def _started(self, command: Sequence[str]) -> subprocess.Popen[bytes] | None:
        with self._changed:
            if self._is_closed:
                return None
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except (OSError, ValueError, subprocess.SubprocessError):
                return None
            self._processes.append(process)
            return process


def _asked(process: subprocess.Popen[bytes], text: bytes) -> bytes | None:
    """What a worker makes of a text; None where it does not, or dies."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(REQUEST.pack(len(text)) + text)
    process.stdin.flush()
    head = process.stdout.read(ANSWER.size)
    if len(head) < ANSWER.size:
        return None
    status, count = ANSWER.unpack(head)
    made = process.stdout.read(count)
    return made if status == DONE and len(made) == count else None


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.stdout.close()
    process.wait()
