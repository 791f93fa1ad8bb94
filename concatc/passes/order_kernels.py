"""``order-kernels``: run the kernels of each half in the order that keeps the fewest bytes alive.

    %p = "cnet.kernel"(%x)                 %p = "cnet.kernel"(%x)
    %q = "cnet.kernel"(%y)           ->    %r = "cnet.kernel"(%p)         // %p dies before %q is born
    %r = "cnet.kernel"(%p)                 %q = "cnet.kernel"(%y)
    %s = "cnet.accumulate"(%q, %r)         %s = "cnet.accumulate"(%r, %q)

Several orders are tried, the source's own among them: ``least_growth`` runs what frees the most, ``as_needed`` what the
first result of the source's order waits for (gradients of side branches are made when they are added), ``newest_first``
what reads the newest value.  The one of the lowest peak is taken, at equal peaks the earlier
in the list, and the function says what each would need: ``cnet.order = "source", cnet.order_bytes = {source = 64}``.
Views stand as early as they can.  Invariant: the operands of ``accumulate`` stand in the order in which they are made
(this pass alone may permute them), and kernels are numbered in their order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.op import is_op
from concatc.passes.fusion import is_view
from concatc.passes.graph import is_backward, require_tensors


@dataclass(frozen=True)
class OrderKernels:
    """Choose an order of kernels: ``order``, one of :data:`CANDIDATES`, or the one of the lowest peak."""

    order: str | None = None

    name = "order-kernels"

    def run(self, module: Module) -> None:
        """Reorder the net's function in place.  Raises :class:`UsageError` where there is no such order."""
        require_tensors(module.main, self.name, kernels=True)
        if self.order is not None and self.order not in CANDIDATES:
            names = ", ".join(CANDIDATES)
            hint = did_you_mean(self.order, CANDIDATES) or f"there are {names}"
            raise UsageError(Diagnostic(f"{self.name} has no order `{self.order}`", help=hint))
        orders = orders_of(module.main)
        best = min(orders, key=lambda name: orders[name].peak_bytes)
        take_order(module.main, orders, self.order if self.order is not None else best)


@dataclass(frozen=True)
class Order:
    """The positions of a function's operations in another order, and an estimate of the bytes that it would need."""

    positions: tuple[int, ...]
    peak_bytes: int


def orders_of(func: FuncOp) -> dict[str, Order]:
    """The orders of all candidates; ``func`` stays as it is."""
    storage = Storage(func)
    index = {op: k for k, op in enumerate(storage.ops)}
    orders = {}
    for name, cost in CANDIDATES.items():
        ops = storage.schedule(cost)
        orders[name] = Order(tuple(index[op] for op in ops), storage.peak_bytes(ops))
    return orders


def take_order(func: FuncOp, orders: Mapping[str, Order], name: str) -> None:
    """Reorder ``func``, and say what was taken of what."""
    func.attributes["cnet.order"] = name
    func.attributes["cnet.order_bytes"] = {name: order.peak_bytes for name, order in orders.items()}
    func.body.ops = [*(func.ops[k] for k in orders[name].positions), func.ret]
    sort_sums(func.ops)
    number_kernels(func)


def sort_sums(ops: Sequence[Operation]) -> None:
    """Let each accumulate add first what is made first."""
    made: dict[Value, int] = {}
    kernels = 0
    for op in ops:
        if is_op(op, "accumulate"):
            op.set_operands(sorted(op.operands, key=lambda v: made.get(v, 0)))
        when = max((made.get(v, 0) for v in op.operands), default=0)
        if not is_view(op):
            kernels += 1
            when = kernels
        made.update(dict.fromkeys(op.results, when))


def number_kernels(func: FuncOp) -> None:
    """``k7_relu`` that runs first is ``k0_relu``."""
    kernels = [op for op in func.ops if op.name == "cnet.kernel"]
    for number, kernel in enumerate(kernels):
        title = re.sub(r"^k\d+_", "", str(kernel.attributes.get("sym_name", "kernel")))
        kernel.attributes["sym_name"] = f"k{number}_{title}"


class Storage:
    """Which values share storage, as far as views tell, and how many bytes each storage takes.

    An estimate: values joined by views count as one buffer, as large as the largest of them, from its first write to
    its last read.  Arguments and results of the function live elsewhere and count nothing.
    """

    def __init__(self, func: FuncOp) -> None:
        self.ops = func.ops[:-1]
        self._above: dict[Value, Value] = {}
        for op in self.ops:
            if is_view(op):
                for value in (*op.operands, *op.results):
                    self._above[self._root(value)] = self._root(op.operands[0])
        self.root = {v: self._root(v) for op in self.ops for v in (*op.operands, *op.results)}
        self.bytes: dict[Value, int] = {}
        for value, root in self.root.items():
            self.bytes[root] = max(self.bytes.get(root, 0), value.tensor.size_bytes)
        for outside in (*func.args, *func.ret.operands):
            if outside in self.root:
                self.bytes[self.root[outside]] = 0
        self.kernels_of: dict[Value, int] = {}  # how many kernels touch each storage
        for op in self.ops:
            for root in () if is_view(op) else self.touched(op):
                self.kernels_of[root] = self.kernels_of.get(root, 0) + 1

    def _root(self, value: Value) -> Value:
        root = value
        while root in self._above and self._above[root] is not root:
            root = self._above[root]
        while value is not root:
            self._above[value], value = root, self._above.get(value, root)
        return root

    def touched(self, op: Operation) -> list[Value]:
        """The storages that an operation reads or writes, each once."""
        return list(dict.fromkeys(self.root[v] for v in (*op.operands, *op.results)))

    def schedule(self, cost: Cost) -> list[Operation]:
        """List scheduling: of all kernels that may run, the one of the lowest cost; the forward half first."""
        return _Schedule(self, cost).run()

    def peak_bytes(self, order: Sequence[Operation]) -> int:
        """The most bytes that are alive while any kernel runs."""
        left = dict(self.kernels_of)
        alive = peak = 0
        for op in order:
            if is_view(op):
                continue
            roots = self.touched(op)
            alive += sum(self.bytes[r] for r in roots if left[r] == self.kernels_of[r])
            peak = max(peak, alive)
            for root in roots:
                left[root] -= 1
                alive -= self.bytes[root] if left[root] == 0 else 0
        return peak


class _Schedule:
    def __init__(self, storage: Storage, cost: Cost) -> None:
        self.storage = storage
        self.cost = cost
        self.index = {op: k for k, op in enumerate(storage.ops)}
        self.left = dict(storage.kernels_of)
        self.last_touch: dict[Value, int] = {}
        # Of all that is computed for its own sake, the place of the first that needs an operation.
        self.need: dict[Operation, int] = {}
        for op in reversed(storage.ops):
            readers = (r for y in op.results for r in y.readers if r in self.need)
            self.need[op] = min((self.need[r] for r in readers), default=self.index[op])
        self.waits = {op: len({v.op for v in op.operands if v.op in self.index}) for op in storage.ops}
        self.done: list[Operation] = []
        self.ready: list[Operation] = []

    def run(self) -> list[Operation]:
        for backward in (False, True):
            half = [op for op in self.storage.ops if is_backward(op) == backward]
            self._admit((op for op in half if self.waits[op] == 0), backward)
            while self.ready:
                op = min(self.ready, key=lambda op: (*self.cost(self, op), self.index[op]))
                self.ready.remove(op)
                self._admit(self._finish(op), backward)
        return self.done

    def _admit(self, ops: Iterable[Operation], backward: bool) -> None:
        """Let kernels wait for their turn; views are done at once."""
        pending = list(ops)
        while pending:
            op = pending.pop(0)
            if is_backward(op) != backward:
                continue
            if is_view(op):
                pending.extend(self._finish(op))
                continue
            self.ready.append(op)

    def _finish(self, op: Operation) -> list[Operation]:
        """Do ``op``; return the operations that may run now."""
        self.done.append(op)
        if not is_view(op):
            for root in self.storage.touched(op):
                self.left[root] -= 1
                self.last_touch[root] = len(self.done)
        freed = []
        for reader in dict.fromkeys(reader for result in op.results for reader in result.readers):
            if reader in self.waits:
                self.waits[reader] -= 1
                if self.waits[reader] == 0:
                    freed.append(reader)
        return sorted(freed, key=self.index.__getitem__)

    def growth_bytes(self, op: Operation) -> int:
        """How many more bytes are alive after ``op``."""
        size, storage = 0, self.storage
        for root in storage.touched(op):
            size += storage.bytes[root] * (self.left[root] == storage.kernels_of[root])
            size -= storage.bytes[root] * (self.left[root] == 1)
        return size

    def age(self, op: Operation) -> int:
        """How long ago the newest of the storages that ``op`` reads was touched."""
        return -max((self.last_touch.get(self.storage.root[v], 0) for v in op.operands), default=0)


Cost = Callable[[_Schedule, Operation], tuple[int, ...]]

CANDIDATES: dict[str, Cost] = {
    "source": lambda schedule, op: (),
    "least_growth": lambda schedule, op: (schedule.growth_bytes(op),),
    "as_needed": lambda schedule, op: (schedule.need[op], schedule.growth_bytes(op)),
    "newest_first": lambda schedule, op: (schedule.age(op), schedule.growth_bytes(op)),
}
