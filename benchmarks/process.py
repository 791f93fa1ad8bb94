"""A system in a process of its own, told by lines and answering by lines (`benchmarks/worker.py`)."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.nets import ROOT

# The C library told to keep what it has and to ask for huge pages: fresh pages cost ten times what warm ones do.
KEEPS = "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647"
ALLOCATORS = {
    "as it is": {},
    "keeps": {"GLIBC_TUNABLES": f"{KEEPS}:glibc.malloc.top_pad=67108864"},
    "gives back": {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"},
}


def environment(caches: Path, allocator: str, threads: int) -> dict[str, str]:
    """The same number of threads for everybody, and caches that last from one process to the next."""
    count = str(threads)
    xla = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={count}"
    return {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "CONCATC_NUM_THREADS": count,
        "CONCATC_CACHE_DIR": str(caches / "concatc"),
        "XLA_FLAGS": xla,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(caches / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "PYTENSOR_FLAGS": f"base_compiledir={caches / 'pytensor'}",
        **ALLOCATORS[allocator],
    }


class Failed(Exception):
    """A process that ended, or did not answer in time; the text says why."""


class Process:
    """A process that answers lines of JSON.  ``first`` is what it said when it was ready.

    It stands still while it is not asked: threads that wait for work by spinning, as ONNX Runtime's do, would have a
    core that is another system's while that is timed.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], ready_s: float, answer_s: float, cwd: Path = ROOT
    ) -> None:
        self._answer_s = answer_s
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # compilers that it starts end with it
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.first = self._answer(ready_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def ask(self, told: Any) -> dict[str, Any]:
        """The answer to one line.  Raises Failed where there is none."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(f"{json.dumps(told)}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        return self._answer(self._answer_s)

    def close(self) -> None:
        """End the process and what it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _answer(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise Failed(f"no answer after {seconds:g} s") from None
        if not line:
            raise Failed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        self._signal(signal.SIGSTOP)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        """To the process and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _last_words(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return lines[-1] if lines else f"exit {self._process.returncode}"


def worker(python: str, job: Mapping[str, Any], env: Mapping[str, str], ready_s: float, answer_s: float) -> Process:
    """A process of `benchmarks.worker`."""
    return Process([python or sys.executable, "-m", "benchmarks.worker", json.dumps(job)], env, ready_s, answer_s)
