"""Processes that compile LLVM IR beside this one, since llvmlite compiles one module at a time in a process.

    with Workers(host, count=12) as workers:        up to a process a core, each started when there is work for it
        code = [workers.submit(ir) for ir in texts]     object code to be
        .. generate more, plan, ..                      this process goes on meanwhile
        objects = [made.result() for made in code]

What comes out depends on the IR alone.  A worker that cannot be started, dies or fails is done without: its module is
compiled here, which also makes the error where there is one.  Workers end with the block, and with this process.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import llvmlite

from concatc.diagnostics import UsageError
from concatc.targets.cpu import llvm_worker
from concatc.targets.cpu.llvm_worker import ANSWER, DONE, REQUEST
from concatc.targets.cpu.native import Host, object_code

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

VARIABLE = "CONCATC_WORKERS"
MOST = 16


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
    if not is_interpreter or getattr(sys, "frozen", False) or not Path(llvm_worker.__file__).is_file():
        return None
    # Isolated and without `site`: nothing of the user's is imported or run, and it starts faster.
    where = str(Path(llvmlite.__file__).parent.parent)
    return [program, "-I", "-S", llvm_worker.__file__, where, host.name, host.features]


class Workers:
    """Compiles LLVM IR for a host.  ``count`` is how many modules there will be."""

    def __init__(self, host: Host, count: int) -> None:
        self._host = host
        # One module alone is compiled here: a process would take as long to start.
        number = min(worker_count(), count) if count > 1 else 0
        self._command = worker_command(host) if number else None
        self._threads = _pool(number) if self._command is not None else None
        self._own = threading.local()
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._is_closed = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_closed = True
            processes = list(self._processes)
        if error is not None:
            # Nobody waits for what is being compiled.
            for process in processes:
                process.kill()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for process in processes:
            _end(process)

    def submit(self, text: str) -> Future[bytes]:
        """The object code of LLVM IR, to be."""
        if self._threads is not None:
            with contextlib.suppress(RuntimeError):  # the main thread ended meanwhile
                return self._threads.submit(self._compile, text)
        made: Future[bytes] = Future()
        try:
            made.set_result(object_code(text, self._host))
        except Exception as error:
            made.set_exception(error)
        return made

    def _compile(self, text: str) -> bytes:
        process = self._process()
        if process is not None:
            with contextlib.suppress(OSError, ValueError):
                made = _asked(process, text.encode())
                if made is not None:
                    return made
        with self._lock:
            if self._is_closed:
                raise InterruptedError("nobody waits for it")
        return object_code(text, self._host)

    def _process(self) -> subprocess.Popen[bytes] | None:
        """The worker of this thread, started when it is first needed; None where it does not run (any more)."""
        if not hasattr(self._own, "process"):
            self._own.process = self._started(self._command or ())
        process: subprocess.Popen[bytes] | None = self._own.process
        return process if process is not None and process.poll() is None else None

    def _started(self, command: Sequence[str]) -> subprocess.Popen[bytes] | None:
        with self._lock:
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


def _pool(number: int) -> ThreadPoolExecutor | None:
    """Threads that wait for workers; None where the main thread ended: then Python starts no pools."""
    try:
        from concurrent.futures import ThreadPoolExecutor  # this import alone fails then
    except RuntimeError:
        return None
    return ThreadPoolExecutor(number, "concatc-compile")


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
        process.stdin.close()  # it reads to the end of its pipe, and ends
    process.stdout.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
