"""Batch sizes at which nobody has to look at a net's graph: what it takes and gives follows from its slots.

    n from 2 to 67108859    input image [n, 3, 32, 32], label [n] of 0..9; every op takes these sizes
    n = 1                   batch_norm in training needs at least 2 rows: the graph says so

Graphs say three things that run a net: whether their ops take these sizes, the types of arguments and results, and what
labels and indices must be.  Types stand in the slots, too, and what indices must be is the same in every row.  Where
that is so at small sizes and the ops take small ones and very large ones, it holds for all between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from concatc.batch_sizes.graph import ScaledGraph
from concatc.diagnostics import ConcatcError
from concatc.ir.types import TensorType
from concatc.loops.bases import Interface
from concatc.loops.memory import Array
from concatc.loops.plan import interface_key
from concatc.loops.polynomials import NotScalableError
from concatc.runtime.index_check import IndexCheck
from concatc.runtime.signature import Input, Signature, State


class AtHome(Protocol):
    """What is known of a phase at its own dims."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        ...

    @property
    def index_checks(self) -> Sequence[IndexCheck]:
        """What labels and indices must be."""
        ...


@dataclass(frozen=True)
class KnownSizes:
    """From ``least`` to ``most`` of each dim, in order."""

    least: tuple[int, ...]
    most: tuple[int, ...]

    def holds(self, sizes: Sequence[int]) -> bool:
        """Whether these sizes are among them."""
        return all(low <= n <= high for low, n, high in zip(self.least, sizes, self.most, strict=True))


def known_sizes(
    graph: ScaledGraph, home: AtHome, followed_at: Callable[[Sequence[int]], Signature], most: Sequence[int]
) -> KnownSizes | None:
    """The sizes up to ``most``, which every op takes; None where the graph must be asked at each.

    ``followed_at`` gives what the net takes and gives at a size as it follows from the slots there.

    Small ones are tried: the least that hold, and one more, so that none holds for being even.  Of several dims equal
    sizes are enough: extents have no products of dims (`polynomials.py`), and the samples that the graph was scaled
    with have each dim large beside the others as they are (`scaling.py`), so an extent that shrinks with one of them
    would have become negative there.
    """
    here = list(graph.here.values())
    n = 1
    while n <= min(here):
        if all(_follows(graph, home, followed_at, [n + more] * len(here)) for more in (0, 1)):
            return KnownSizes((n,) * len(here), tuple(most))
        n *= 2
    return None


def _follows(
    graph: ScaledGraph, home: AtHome, followed_at: Callable[[Sequence[int]], Signature], sizes: Sequence[int]
) -> bool:
    """Whether the graph says what follows from the slots."""
    from concatc.runtime.bounds import index_checks
    from concatc.runtime.signature import signature_of

    try:
        net = graph.at(sizes).main
        signature = followed_at(sizes)
        stated = index_checks(net)
    except (ConcatcError, NotScalableError):
        return False
    followed = index_checks_at(home.index_checks, home.signature, signature)
    back = index_checks_at(followed, signature, home.signature)
    return (
        signature == signature_of(net)
        and list(map(_key, followed)) == list(map(_key, stated))
        and list(map(_key, back)) == list(map(_key, home.index_checks))
    )


def signature_at(signature: Signature, interface: Interface, loss_weights: Mapping[str, float]) -> Signature:
    """What a net takes and gives where its slots are these, and so the weights of losses that are made of dims."""

    def type_of(kind: str, name: str) -> TensorType:
        slot = interface.slots[interface_key(kind, name)]
        return TensorType(slot.shape, slot.dtype)

    return replace(
        signature,
        inputs={name: replace(spec, type=type_of("input", name)) for name, spec in signature.inputs.items()},
        params={name: replace(spec, type=type_of("param", name)) for name, spec in signature.params.items()},
        states={name: replace(spec, type=type_of("state", name)) for name, spec in signature.states.items()},
        loss_weights={**signature.loss_weights, **loss_weights},
        outputs={name: type_of("output", name) for name in signature.outputs},
        kept={name: type_of("kept", name) for name in signature.kept},
    )


def index_checks_at(checks: Sequence[IndexCheck], here: Signature, there: Signature) -> tuple[IndexCheck, ...]:
    """What labels and indices must be where arguments have other rows: the same in every row."""
    return tuple(_checks_at(checks, here, there))


def _checks_at(checks: Sequence[IndexCheck], here: Signature, there: Signature) -> Iterator[IndexCheck]:
    for check in checks:
        old, new = (_arguments(signature, check.kind)[check.name].type.shape for signature in (here, there))
        moves = check.positions is not None and old != new
        yield replace(check, positions=_in_rows(check.positions, old, new)) if moves else check


def _in_rows(positions: Array | None, old: tuple[int, ...], new: tuple[int, ...]) -> Array:
    assert positions is not None
    in_first = positions[positions < TensorType(old[1:], "i32").numel]
    return (np.arange(new[0])[:, None] * TensorType(new[1:], "i32").numel + in_first).reshape(-1)


def _arguments(signature: Signature, kind: str) -> Mapping[str, Input | State]:
    return signature.inputs if kind == "input" else signature.states


def _key(check: IndexCheck) -> tuple[Any, ...]:
    positions = None if check.positions is None else check.positions.tolist()
    return check.kind, check.name, positions, check.extent, check.ignored, check.op, check.loc
