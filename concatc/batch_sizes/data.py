"""How a phase follows from its batch sizes, as plain data: the cache holds it, and written modules.

    ScaledPhase   <->   {"graph": {"here": {"n": 64}, "numbers": ..}, "slots": .., "layout": .., "step": .., ..}

The graph itself and the table of launches are not in it: they stand beside it, as level 00 and as `step.jsonl`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from concatc.batch_sizes.graph import ScaledGraph
from concatc.batch_sizes.known_sizes import KnownSizes
from concatc.batch_sizes.rescale import ScaledPhase
from concatc.batch_sizes.weights import ScaledWeights
from concatc.loops.polynomials import Polynomials
from concatc.loops.scaled_layout import Layout
from concatc.loops.scaled_slots import ScaledSlots
from concatc.targets.cpu.scaled_step import ScaledStep
from concatc.targets.cpu.step import StepNumbers

if TYPE_CHECKING:
    from concatc.ir.core import Module

MOST_BLOCKS = 1 << 24
PARTS = ("slots", "layout", "step", "weights", "starts")


def data_of(phase: ScaledPhase) -> dict[str, Any]:
    """A phase as data that JSON takes."""
    parts = {part: _plain(getattr(phase, part)) for part in PARTS}
    known = None if phase.known is None else [phase.known.least, phase.known.most]
    graph = {"here": dict(phase.here), "numbers": _plain(phase.graph.numbers)}
    return {"graph": graph, **parts, "known": known, "by_rows": phase.by_rows}


def from_data(data: Mapping[str, Any], graph: Callable[[], Module], table: StepNumbers) -> ScaledPhase:
    """The phase that :func:`data_of` gave, of that table here and that graph, which is made when it is needed.

    Data of another form ends in an ArithmeticError, AttributeError, LookupError, TypeError or ValueError; whether it is
    of this table and graph is for the caller to ask (`ScaledPhase.is_at_home`, `ScaledGraph.is_at_home`).
    """
    here = data["graph"]["here"]
    layout = data["layout"]
    blocks = [*layout["order"], *(b for b, _ in layout["gaps"]), *(b for _, _, b in layout["slots"])]
    if not all(type(block) is int and -1 <= block < MOST_BLOCKS for block in blocks):
        raise ValueError("blocks that no plan has")
    slots: ScaledSlots = _made(ScaledSlots, data["slots"])
    if not slots.is_whole:
        raise ValueError("slots of other ranks than there are extents")
    return ScaledPhase(
        ScaledGraph(here, _made_of(data["graph"]["numbers"]), graph),
        slots,
        _made(Layout, data["layout"]),
        _made(ScaledStep, {**data["step"], "table": table}),
        _made(ScaledWeights, data["weights"]),
        _made_of(data["starts"]),
        _known(data["known"], here.values()),
        data["by_rows"] is True,
    )


def _known(data: Any, here: Iterable[int]) -> KnownSizes | None:
    if data is None:
        return None
    least, most = data
    if not all(
        type(low) is int and type(high) is int and 1 <= low <= n <= high
        for low, n, high in zip(least, here, most, strict=True)
    ):
        raise ValueError("sizes that no net has")
    return KnownSizes(tuple(least), tuple(most))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"array": value.ravel().tolist(), "shape": value.shape}
    if isinstance(value, Polynomials | Layout | ScaledSlots | ScaledStep | ScaledWeights):
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
