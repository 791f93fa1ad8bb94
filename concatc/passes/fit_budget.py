"""Meeting a memory budget: plans with more recomputation, or another order of kernels, until one is small enough.

    budget 24 MiB     the plan as it is: 27.1 MiB     another order: 26.6 MiB     recompute more: 23.2 MiB, taken

Candidates stand in one list: the plan as it is, the same recomputation in other orders, then more and more
recomputation (by the arithmetic that is done again), each in its best order.  The first that fits is taken.  So a plan
of the least recomputation that fits is found, less memory never means less recomputation, and a smaller budget never
gives a larger plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from concatc.ir.clone import clone_module
from concatc.ir.core import Attr, Module
from concatc.loops.plan import Plan
from concatc.passes.choose_recompute import MOST_COST, ChooseRecompute, recomputed_work
from concatc.passes.fuse import Fuse
from concatc.passes.order_kernels import orders_of, take_order

# More and more recomputation: cheap pointwise operations, all of `auto`, all of `max`, more contractions, all of them
# within parts.
LADDER = (
    ChooseRecompute("none"),
    ChooseRecompute("auto", most_cost=4),
    ChooseRecompute("auto", most_cost=MOST_COST // 2),
    ChooseRecompute("auto"),
    ChooseRecompute("max"),
    *(ChooseRecompute("max", most_percent=percent) for percent in (10, 20)),
    *(ChooseRecompute("max", parts=parts) for parts in (2, 3, 4, 6, 8, 12, 16)),
)

# Orders are planned whose estimate is at most this many times the best one: estimates know nothing of work in place.
MOST_ESTIMATE = 1.1


@dataclass(frozen=True)
class Candidate:
    """A way to compile, the arithmetic that it does again (in additions), and what its plan needs."""

    recompute: ChooseRecompute | None  # None: nothing is chosen, as in inference
    order: str
    work: int
    plan: Plan

    @property
    def need_bytes(self) -> int:
        """All bases of the plan together."""
        return planned_bytes(self.plan)


@dataclass(frozen=True)
class Search:
    """What was found: the first candidate that fits, and the smallest of all that were tried."""

    chosen: Candidate | None
    least: Candidate


def planned_bytes(plan: Plan) -> int:
    """What a plan needs: parameters, gradients, states, inputs, outputs and the arena."""
    return sum(base.size_bytes for base in plan.bases.values())


def fit_budget(
    graph: Module, recompute: ChooseRecompute | None, limit_bytes: int, plan_of: Callable[[Module], Plan]
) -> Search:
    """Find a candidate of at most ``limit_bytes``.

    ``graph`` is at level 03, before `choose-recompute`; ``recompute`` is how the plan as it is was made; ``plan_of``
    plans ordered kernels.  ``graph`` stays as it is.
    """
    least = None
    for candidate in _candidates(graph, recompute, plan_of):
        if candidate.need_bytes <= limit_bytes:
            return Search(candidate, candidate)
        if least is None or candidate.need_bytes < least.need_bytes:
            least = candidate
    assert least is not None
    return Search(None, least)


def budget_attribute(
    limit_bytes: int, default_bytes: int, need_bytes: int, chosen: Candidate | None
) -> dict[str, Attr]:
    """What the kernels say of a budget, as ``cnet.budget``: the limit, the need of the plan as it is, and where that is
    too much the need of what was taken.  Without ``chosen``, that is sums as written in the place of algorithms.
    """
    found: dict[str, Attr] = {"limit_bytes": limit_bytes, "default_bytes": default_bytes}
    if need_bytes < default_bytes:
        found["need_bytes"] = need_bytes
    if chosen is None:
        return found
    found["order"] = chosen.order
    if chosen.recompute is not None:
        found |= {"recompute": chosen.recompute.mode, "most_cost": chosen.recompute.most_cost}
        found |= {"most_percent": chosen.recompute.most_percent, "parts": chosen.recompute.parts}
        found["recomputed_work"] = chosen.work
    return found


def _candidates(
    graph: Module, recompute: ChooseRecompute | None, plan_of: Callable[[Module], Plan]
) -> Iterator[Candidate]:
    """All candidates in order; each is made when it is asked for."""
    if recompute is None:
        yield from _ordered(graph, None, 0, plan_of)
        return
    first = _recomputed(graph, recompute)
    work = recomputed_work(first.main)
    yield from _ordered(first, recompute, work, plan_of)
    known = [_signature(first)]
    more: list[tuple[int, ChooseRecompute, Module]] = []
    for step in LADDER:
        module = _recomputed(graph, step)
        # What recomputes less than is asked for is no candidate, nor what recomputes the same.
        if (found := recomputed_work(module.main)) > work and (signature := _signature(module)) not in known:
            known.append(signature)
            more.append((found, step, module))
    for found, step, module in sorted(more, key=lambda entry: entry[0]):
        yield from _ordered(module, step, found, plan_of)


def _ordered(
    graph: Module, recompute: ChooseRecompute | None, work: int, plan_of: Callable[[Module], Plan]
) -> Iterator[Candidate]:
    """The plans of the orders of kernels whose estimates are near the best one, that one first."""
    fused = clone_module(graph)
    Fuse().run(fused)
    orders = orders_of(fused.main)
    least = min(order.peak_bytes for order in orders.values())
    known: list[tuple[int, ...]] = []
    for name in sorted(orders, key=lambda name: orders[name].peak_bytes):
        order = orders[name]
        if order.positions in known or order.peak_bytes > MOST_ESTIMATE * least:
            continue
        known.append(order.positions)
        kernels = clone_module(fused)
        take_order(kernels.main, orders, name)
        yield Candidate(recompute, name, work, plan_of(kernels))


def _recomputed(graph: Module, step: ChooseRecompute) -> Module:
    module = clone_module(graph)
    step.run(module)
    return module


def _signature(module: Module) -> list[tuple[Attr | None, Attr | None]]:
    """What is recomputed, for which operations."""
    return [(op.attributes.get("recomputes"), op.attributes.get("transposes")) for op in module.main.ops]
