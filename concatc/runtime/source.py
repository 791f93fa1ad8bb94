"""What a compiled module asks of the compilation behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from concatc.diagnostics import Diagnostic
from concatc.ir.core import Module
from concatc.loops.bases import Interface
from concatc.loops.plan import Plan
from concatc.runtime.index_check import IndexCheck
from concatc.runtime.signature import Signature
from concatc.targets import Executable, Lowered, Target

Phase = Literal["train", "infer"]
# The value of a dim, or of another parameter of a net (`reduction = "sum"`).
Dim = int | float | str | bool
PHASES: tuple[Phase, Phase] = ("train", "infer")


class Update(Protocol):
    """The update of parameters by an optimizer; ``key`` says what its code depends on."""

    key: tuple[object, ...]

    def plan(self) -> Plan:
        """Its launches."""
        ...


class RunnablePhase(Protocol):
    """What running one phase needs to know besides its code.  The runtime reads no level of it."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        ...

    @property
    def interface(self) -> Interface:
        """Where that lies."""
        ...

    @property
    def index_checks(self) -> Sequence[IndexCheck]:
        """What labels and indices must be."""
        ...

    @property
    def arena_bytes(self) -> int:
        """The size of the plan's arena, update or not."""
        ...


class LoweredPhase(Lowered, RunnablePhase, Protocol):
    """One phase at every level."""

    @property
    def graph(self) -> Module:
        """Level 00."""
        ...

    def dump(self, level: str, *, blob: str | None = None) -> str:
        """The text of a level, by name (``split``) or number (``01``), or of one blob's path in it.

        Raises UsageError for another level, and for a blob that the level does not have.
        """
        ...


class Source(Protocol):
    """A net at one choice of dims."""

    @property
    def name(self) -> str:
        """The net's name."""
        ...

    @property
    def dims(self) -> Mapping[str, Dim]:
        """The value of every dim of the net."""
        ...

    @property
    def target(self) -> Target:
        """What runs it."""
        ...

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that can be run: inference where the net has outputs in it."""
        ...

    @property
    def no_inference(self) -> Diagnostic | None:
        """Why a net that may have outputs cannot be run in inference; None where nothing hinders it."""
        ...

    def phase(self, phase: Phase) -> LoweredPhase:
        """The net in one phase; levels are made when they are asked for."""
        ...

    def executable(self, phase: Phase, update: Update | None) -> Executable:
        """The code of a phase, with an optimizer's update where one is given; made once for each kind of update."""
        ...

    def interface(self, phase: Phase, update: Update | None) -> Interface:
        """Where that code has arguments and results.

        An update may have its phase planned anew, to keep a memory budget; then inputs that are parts of concats move.
        """
        ...

    def at(self, dims: Mapping[str, Dim], phase: Phase) -> Source | None:
        """The same net at other dims on the same code, as far as that phase; None where it must be compiled."""
        ...

    def with_dims(self, dims: Mapping[str, Dim]) -> Source:
        """The same net compiled for other dims."""
        ...
