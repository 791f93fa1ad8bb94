"""How phases follow from their batch sizes, kept beside the object code, since finding out is planning twice.

    digest of graphs at all samples, options, release   ->   slots, layout, numbers of the table, as JSON

What is read is confirmed: at the dims of the net it must give the slots and the table that the net has.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from concatc.loops.bases import Interface
from concatc.loops.polynomials import NotScalableError, Polynomials
from concatc.loops.scaled_layout import Layout
from concatc.loops.scaled_slots import ScaledSlots
from concatc.rescale import ScaledGraph, ScaledPhase
from concatc.targets.cpu.cache import Cache, digest
from concatc.targets.cpu.scaled_step import ScaledStep
from concatc.targets.cpu.step import StepNumbers, StepTable


@functools.cache
def release() -> str:
    """The digest of this package: another planner may find other numbers."""
    hasher = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        hasher.update(str(path.relative_to(here)).encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()


class ScaledStore:
    """What is known of one phase of one net.  ``what`` says which: all that planning depends on."""

    def __init__(self, cache: Cache, what: Iterable[object]) -> None:
        self.cache = cache
        self.key = digest("other batch sizes", release(), *map(repr, what))

    def save(self, phase: ScaledPhase | str) -> None:
        """Store how a phase follows, or why it does not."""
        data = (
            {"reason": phase}
            if isinstance(phase, str)
            else {part: _plain(getattr(phase, part)) for part in ("slots", "layout", "step", "starts")}
        )
        self.cache.store(self.key, json.dumps(data).encode())

    def load(self, graph: ScaledGraph, interface: Interface, table: StepTable) -> ScaledPhase | None:
        """The phase whose slots and table here are these, or None where it is not known.

        Raises :class:`NotScalableError` where it is known that there is none.
        """
        stored = self.cache.load(self.key)
        if stored is None:
            return None
        data = json.loads(stored)
        if "reason" in data:
            raise NotScalableError(data["reason"])
        step = _made(ScaledStep, {**data["step"], "table": StepNumbers.of(table)})
        phase = ScaledPhase(
            graph, _made(ScaledSlots, data["slots"]), _made(Layout, data["layout"]), step, _made_of(data["starts"])
        )
        return phase if phase.is_at_home(interface, table) else None


def _plain(value: Any) -> Any:
    """Data that JSON can hold."""
    if isinstance(value, np.ndarray):
        return {"array": value.ravel().tolist(), "shape": value.shape}
    if isinstance(value, Polynomials | Layout | ScaledSlots | ScaledStep):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name != "table"}
    return dict(value) if isinstance(value, Mapping) else value


def _made(cls: type[Any], data: Mapping[str, Any]) -> Any:
    return cls(**{name: _made_of(value) for name, value in data.items()})


def _made_of(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_made_of(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.array(value["array"], np.int64).reshape(value["shape"])
    return _made(Polynomials, value) if "moving" in value else value
