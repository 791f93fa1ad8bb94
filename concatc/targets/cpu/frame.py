"""The frame of a kernel's code: the function that is built, and the loops and values that are open in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from concatc.ir.core import Value
from concatc.targets.cpu.lanes import I64
from concatc.targets.cpu.native import Host
from concatc.targets.cpu.nest import NestAxis


@dataclass
class Frame:
    """What the stages of a kernel share: the function, its arguments, the loops and the values that are open.

    ``dummy`` points to a zero, which is read in the place of what a guard forbids to read.
    """

    module: Any
    b: Any
    host: Host
    arguments: Mapping[Value, Any]
    dummy: Any
    scopes: list[dict[tuple[Value, tuple[int, ...]], Any]] = field(default_factory=lambda: [{}])
    base: dict[NestAxis, Any] = field(default_factory=dict)

    def loop(
        self,
        axis: NestAxis,
        lower: Any,
        upper: Any,
        step: Any,
        carried: list[Any],
        body: Callable[[list[Any]], list[Any]],
    ) -> list[Any]:
        """``for base in lower .. upper by step``, with carried values; ``body`` returns their next values."""
        b = self.b
        before = b.block
        head, done = b.append_basic_block("loop"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed("<", lower, upper), head, done)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(lower, before)
        phis = []
        for value in carried:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        self.base[axis] = index
        self.scopes.append({})
        following = body(phis)
        self.scopes.pop()
        after = b.block
        increased = b.add(index, I64(step) if isinstance(step, int) else step, flags=("nsw",))
        index.add_incoming(increased, after)
        for phi, value in zip(phis, following, strict=True):
            phi.add_incoming(value, after)
        b.cbranch(b.icmp_signed("<", increased, upper), head, done)
        b.position_at_end(done)
        results = []
        for value, new in zip(carried, following, strict=True):
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phi.add_incoming(new, after)
            results.append(phi)
        return results
