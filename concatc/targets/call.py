"""What one native call from Python does: arrays checked and copied in, launches run, scalars handed back.

The runtime says it in these terms; a target that can do it natively makes a :class:`NativeCall` of it
(:meth:`concatc.targets.Executable.native_call`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from concatc.diagnostics import ConcatcError
from concatc.loops.plan import Window


class NativeCall(Protocol):
    """A call that is ready to be made.

    ``call`` takes arrays by name.  It gives the results by name; None where something is not plain (see `CallSpec`),
    and then nothing ran; or a status that :meth:`failure` explains.
    """

    @property
    def call(self) -> Callable[[dict[str, object]], dict[str, float] | int | None]:
        """The function."""
        ...

    def failure(self, status: int) -> ConcatcError:
        """The error of a launch that failed."""
        ...


@dataclass(frozen=True)
class Bounds:
    """Elements of a dense window that must be in ``0 .. extent - 1`` or be ``ignored``.

    ``ranges`` are flat positions (begin, end, step).
    """

    window: Window
    ranges: tuple[tuple[int, int, int], ...]
    extent: int
    ignored: int | None


@dataclass(frozen=True)
class CallSpec:
    """One call.

    An argument is *plain* where it is a C-contiguous NumPy array (no subclass) of the shape and element type of its
    window, in native byte order.  A call with other arguments, with more or fewer of them, or with elements out of
    ``bounds`` runs nothing.  Elements are compared where they were copied to, so nobody can change them in between; no
    other input is written before.

    ``phases`` are those whose launches run, in the order of the step.  ``results`` are windows of one float each.
    Arrays that lie in the base ``guarded`` are not plain.
    """

    phases: tuple[str, ...]
    inputs: Mapping[str, Window]
    bounds: tuple[Bounds, ...]
    results: Mapping[str, Window]
    guarded: str | None
