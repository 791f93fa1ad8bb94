"""The weights of losses at other batch sizes, where they are made of dims (see `loss_weights.py`).

cnet.weight = [64, 96] at x = 64, y = 32     ->     x over x + y
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from concatc.loops.polynomials import NotScalableError, Polynomials, polynomials
from concatc.loss_weights import WEIGHT, Terms, is_quotient, weight_of

if TYPE_CHECKING:
    from concatc.ir.core import FuncOp

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class ScaledWeights:
    """The losses whose weights are made of dims, and for each the two integers whose quotient its weight is."""

    names: tuple[str, ...]
    terms: Polynomials

    @staticmethod
    def of(here: Sizes, net: FuncOp, samples: Sequence[tuple[Sizes, Mapping[str, Terms]]]) -> ScaledWeights:
        """Of samples there are the weights that are :func:`made_of_dims`.  Raises :class:`NotScalableError`."""
        found = made_of_dims(net)
        if any(list(sample) != list(found) for _, sample in samples):
            raise NotScalableError("other weights of losses at other sizes")
        numbers = [(dims, _flat(sample)) for dims, sample in samples]
        return ScaledWeights(tuple(found), polynomials(here, numbers, _flat(found), must="equal"))

    def at(self, sizes: Sequence[int]) -> dict[str, float]:
        """Their weights; raises :class:`NotScalableError` where one has no value."""
        terms = iter(self.terms.at(sizes).tolist())
        quotients = {name: (next(terms), next(terms)) for name in self.names}
        if not all(map(is_quotient, quotients.values())):
            raise NotScalableError("a weight of a loss that has no value at this size")
        return {name: weight_of({WEIGHT: quotient}) for name, quotient in quotients.items()}

    def are_at(self, here: Sequence[int], weights: Mapping[str, float]) -> bool:
        """Whether the weights at these sizes are among those of a net."""
        return self.at(here).items() <= weights.items()


def made_of_dims(net: FuncOp) -> dict[str, Terms]:
    """The two integers whose quotient the weight of a loss is, by loss, where it is made of dims."""
    losses = {str(attrs["cnet.name"]): attrs for attrs in net.result_attrs if attrs.get("cnet.kind") == "loss"}
    return {name: cast(Terms, attrs[WEIGHT]) for name, attrs in losses.items() if is_quotient(attrs.get(WEIGHT))}


def _flat(weights: Mapping[str, Terms]) -> list[int]:
    return [term for terms in weights.values() for term in terms]
