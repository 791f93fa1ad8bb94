"""Stages of a compilation, told to whoever listens: how long each takes, and what takes long now.

    with stage("LLVM"):                        times = Times()
        ..                                     with listening(times):
                                                   compile_net(..)

Where nobody listens a stage costs nothing and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Is told of stages in the thread that compiles."""

    def begin(self, name: str, note: str) -> None:
        """A stage begins; ``note`` says what a user waits for ("compiling 120 kernels"), where that may take long."""
        ...

    def end(self) -> None:
        """The stage that began last is over."""
        ...


_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell ``listener`` of the stages of what is compiled in here."""
    token = _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


@contextmanager
def stage(name: str, note: str = "") -> Iterator[None]:
    """A stage; stages may lie in each other."""
    listeners = _LISTENERS.get()
    for listener in listeners:
        listener.begin(name, note)
    try:
        yield
    finally:
        for listener in listeners:
            listener.end()


class Times:
    """How long each stage took, less the stages inside it: ``elapsed_ns``, by name, in order of appearance."""

    def __init__(self) -> None:
        self.elapsed_ns: dict[str, int] = {}
        self._open: list[str] = []
        self._since = 0

    def begin(self, name: str, note: str) -> None:
        """Count for ``name`` from now on."""
        self._count()
        self.elapsed_ns.setdefault(name, 0)
        self._open.append(name)

    def end(self) -> None:
        """Count for the stage around it from now on."""
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = time.perf_counter_ns()
        if self._open:
            self.elapsed_ns[self._open[-1]] += now - self._since
        self._since = now
