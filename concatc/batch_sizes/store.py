"""How phases follow from their batch sizes, kept beside the object code, since finding out is planning twice.

    digest of graphs at all samples, options, release   ->   slots, layout, numbers of the table, as JSON

What is read is confirmed: at the dims of the net it must give the slots and the table that the net has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

from concatc.batch_sizes.data import data_of, from_data
from concatc.batch_sizes.graph import ScaledGraph
from concatc.batch_sizes.rescale import ScaledPhase
from concatc.loops.bases import Interface
from concatc.loops.polynomials import NotScalableError
from concatc.targets.cache import DATA, Cache, digest
from concatc.targets.cpu.step import StepNumbers
from concatc.version import source_digest


class ScaledStore:
    """What is known of one phase of one net.  ``what`` says which: all that planning depends on."""

    def __init__(self, cache: Cache, what: Iterable[object]) -> None:
        self.cache = cache
        self.key = digest("other batch sizes", source_digest(), *map(repr, what))

    def save(self, phase: ScaledPhase | str) -> None:
        """Store how a phase follows, or why it does not."""
        data = {"reason": phase} if isinstance(phase, str) else data_of(phase)
        self.cache.store(self.key, json.dumps(data).encode(), DATA)

    def load(
        self, graph: ScaledGraph, interface: Interface, table: StepNumbers, loss_weights: Mapping[str, float]
    ) -> ScaledPhase | None:
        """The phase whose slots, table and weights here are these, or None where it is not known.

        Raises :class:`NotScalableError` where it is known that there is none.
        """
        stored = self.cache.load(self.key, DATA)
        if stored is None:
            return None
        try:
            data = json.loads(stored)
            if "reason" not in data:
                phase = replace(from_data(data, lambda: graph.graph, table), graph=graph)
                return phase if phase.is_at_home(interface, table, loss_weights) else None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return None  # of another form: found out anew
        raise NotScalableError(data["reason"])
