"""What a target is: it turns a lowered net into something that runs on bases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from concatc.ir.core import Module
from concatc.loops.bases import Interface
from concatc.loops.plan import Plan


class Lowered(Protocol):
    """One phase of a net (training or inference) at every level; a level is made when it is first asked for.

    In the inference phase ``joint`` has no backward and ``plan`` has no launches of the phase ``backward``.
    """

    @property
    def joint(self) -> Module:
        """Level 02."""
        ...

    @property
    def kernels(self) -> Module:
        """Level 04."""
        ...

    @property
    def plan(self) -> Plan:
        """Level 05."""
        ...

    @property
    def loops(self) -> Module:
        """Level 06: one function a kernel of the plan, of the same name."""
        ...

    @property
    def interface(self) -> Interface:
        """Where the net's arguments and results live; parameters and states where all phases have them."""
        ...

    @property
    def update(self) -> Plan | None:
        """The optimizer's launches, of phase ``update``, alone; ``plan`` and ``loops`` hold them as well."""
        ...


class Executable(Protocol):
    """A compiled net.  ``bases[name]`` is a contiguous ``uint8`` array aligned to 64 bytes (see ``loops/plan.py``)."""

    def run(self, bases: Mapping[str, np.ndarray], phase: str) -> None:
        """Run the launches of a phase: ``forward``, ``backward``, ``update``, or ``step`` (all of them, in order).

        Reads and writes the bases only.  ``backward`` follows a ``forward`` on the same bases.
        """
        ...

    def text(self, what: str) -> str:
        """The generated code as text: ``kernels`` (what a user reads first), ``llvm`` or ``asm``.

        Raises :class:`concatc.diagnostics.UsageError` where the target makes no such thing.
        """
        ...


class Target(Protocol):
    """A code generator plus runtime."""

    @property
    def name(self) -> str:
        """``reference``, ``cpu``."""
        ...

    @property
    def runs_plan(self) -> bool:
        """Whether it runs the plan and needs an arena; the reference runs the joint graph and needs none."""
        ...

    def build(self, lowered: Lowered) -> Executable:
        """Generate, compile and load the code of a net."""
        ...
