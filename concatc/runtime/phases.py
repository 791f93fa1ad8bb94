"""What sources of a phase share: levels by name, and what is asked of its data or of its graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

from concatc.ir.core import Module
from concatc.loops.bases import Interface
from concatc.runtime.index_check import IndexCheck
from concatc.runtime.runnable import Runnable
from concatc.runtime.signature import Signature, signature_of


class ByLevel(ABC):
    """A phase that has levels by their names."""

    @abstractmethod
    def level(self, name: str) -> Module:
        """The module of a level."""

    @property
    def joint(self) -> Module:
        """Level 02."""
        return self.level("joint")

    @property
    def kernels(self) -> Module:
        """Level 04."""
        return self.level("kernels")


class OfRunnable:
    """A phase of which data say how it is run; nothing is compiled or read for that."""

    def __init__(self, runnable: Runnable) -> None:
        self._runnable = runnable

    @property
    def signature(self) -> Signature:
        """What the net takes and gives."""
        return self._runnable.signature

    @property
    def interface(self) -> Interface:
        """Where arguments and results live."""
        return self._runnable.interface

    @property
    def index_checks(self) -> tuple[IndexCheck, ...]:
        """What labels and indices must be."""
        return self._runnable.index_checks

    @property
    def arena_bytes(self) -> int:
        """The size of the arena."""
        return self._runnable.arena_bytes


class OfGraph(ABC):
    """A phase whose graph says what it takes and gives."""

    @property
    @abstractmethod
    def graph(self) -> Module:
        """Level 00."""

    @cached_property
    def signature(self) -> Signature:
        """What the net takes and gives."""
        return signature_of(self.graph.main)

    @cached_property
    def index_checks(self) -> list[IndexCheck]:
        """What labels and indices must be."""
        from concatc.runtime.bounds import index_checks  # it knows ops, which what is read off data does not need

        return index_checks(self.graph.main)
