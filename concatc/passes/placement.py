"""Where each value of a kernel graph lies: which values are windows of which others, and which sums are made in place.

    %c = concat(%a, %b)             %a, %b are parts of %c             (chains of concats become one block)
    %p, %q = slice(%x)              %p, %q are parts of %x             (and so for split, reshape, flatten, transpose)
    %g = accumulate(%u, %v)         %u is stored in %g, %v is added to it by the kernel that makes it
    return %g                       %g lies in its slot of outputs or grads
    %d = concat(%a, %x)             the caller puts input %x into %d (or where a reshape of it is a view)

Every value gets at most one parent: a value (or slot) and the steps that lead from its place to this one's.  One that
gets none starts a block, and `root_layouts` says in which order it lies there.
Operations are visited from the last to the first, so that what reads a value has said where it wants it before the
value is met; the first of conflicting wishes that can hold is granted, and `plan-memory` copies for the others.  What
must never happen is decided here, by time: a sum is made in place only if nothing reads the old bytes afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from concatc.ir.core import FuncOp, Operation, Value
from concatc.loops.bases import Interface, argument_key, result_keys
from concatc.op import is_op
from concatc.passes.elementwise import maps_elementwise
from concatc.passes.fusion import is_view
from concatc.passes.graph import is_backward
from concatc.passes.root_layouts import Layout, root_layouts
from concatc.passes.storage import Part, Place, Root, Step, Wish, concat_parts, is_segmented, new_root, views_of

# Later than everything in a step.
END = 1 << 60


@dataclass
class Sum:
    """How an accumulate is made: which contributions their own kernels add, and when the others can be added.

    Times count half steps: kernel ``k`` of the order runs at ``2 k``, what is put behind it at ``2 k + 1``.  All bytes
    of a contribution are added at ``times``, the first of them at ``changes``: its parts may have kernels of their own.
    """

    op: Operation
    operands: list[Value]
    direct: list[bool] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)


class Placement:
    """The places of all values of ``net``.

    ``banned`` sums are not made in place (a reshape stood in their way); inputs in ``apart`` lie in their slots.
    """

    def __init__(
        self,
        net: FuncOp,
        interface: Interface,
        banned: dict[Operation, None],
        apart: Mapping[str, None],
    ) -> None:
        self.net = net
        self.interface = interface
        self.banned = banned
        self.apart = apart
        self.staged: dict[str, Value] = {}  # inputs that lie elsewhere than in their slots
        self.ops = net.ops[:-1]
        self.index = {op: k for k, op in enumerate(self.ops)}
        self.parent: dict[Value, Wish] = {}
        self.wishes: dict[Value, list[Wish]] = {}
        self.sums: dict[Operation, Sum] = {}
        self.added: dict[Value, Operation] = {}  # results of kernels that are added, and the accumulate they go to
        self.places: dict[Value, Place] = {}
        self.unplaced: dict[Value, None] = {}  # strides could not express where they should lie
        self.mutated: dict[Value, None] = {}  # first operands that an accumulate adds to in place
        self.taken: dict[str, Value] = {}  # slots that a value lies in
        self.arguments = {argument_key(arg): arg for arg in net.args}
        self.backward_start = next((k for k, op in enumerate(self.ops) if is_backward(op)), len(self.ops))
        self._decide()
        free = {arg: key for key, arg in self.arguments.items() if self._may_be_staged(arg)}
        self.layouts = root_layouts(self.parent, free)
        self.staged.update((free[value], value) for value in self.layouts if value in free)
        self._resolve_all()

    def __getitem__(self, value: Value) -> Place:
        return self.places[value]

    def failed_sums(self) -> list[Operation]:
        """Sums whose direct contributions could not be placed in them."""
        return list(dict.fromkeys(self.added[v] for v in self.unplaced if v in self.added))

    # -- decisions, from the last operation to the first ---------------------------------------------------------------
    def _decide(self) -> None:
        for key, value in zip(result_keys(self.net), self.net.ret.operands, strict=True):
            self._wish(value, Wish(key, ()), first=True)
        for op in reversed(self.ops):
            views = views_of(op)
            for view in views:
                self.parent[view.result] = Wish(view.operand, view.steps)
                if view.inverse is not None:
                    for wish in self.wishes.get(view.result, []):
                        self._wish(view.operand, Wish(wish.anchor, (*wish.steps, *view.inverse)))
            if views:
                continue
            for result in op.results:
                self._grant(op, result)
            if is_op(op, "concat") and not is_segmented(op):
                for x, part in zip(op.operands, concat_parts(op), strict=True):
                    self._wish(x, Wish(op.result, (part,)))
            if is_op(op, "accumulate"):
                self._decide_sum(op)
        for key, arg in self.arguments.items():
            if key.startswith("input:") and key not in self.apart and arg.tensor.numel:
                self._grant_staging(key, arg)

    def _grant_staging(self, key: str, arg: Value) -> None:
        """Let an input lie in a concat, or in the slot of an output or a kept blob that is one."""
        for wish in self.wishes.get(arg, []):
            top: Value | str = wish.anchor
            while isinstance(top, Value) and top in self.parent:
                top = self.parent[top].anchor
            if isinstance(top, Value):
                may_lie_there = top.op is not None
            else:
                may_lie_there = top.startswith(("output:", "kept:")) and (
                    top is not wish.anchor or top not in self.taken
                )
            if may_lie_there:
                if isinstance(wish.anchor, str):
                    self.taken[wish.anchor] = arg
                self.parent[arg] = wish
                self.staged[key] = arg
                return

    def _wish(self, value: Value, wish: Wish, first: bool = False) -> None:
        known = self.wishes.setdefault(value, [])
        known.insert(0 if first else len(known), wish)

    def _grant(self, op: Operation, value: Value) -> None:
        if value in self.parent:
            return
        for wish in self.wishes.get(value, []):
            if isinstance(wish.anchor, str):
                if wish.anchor in self.taken or not self._slot_is_free(op, value, wish):
                    continue
                self.taken[wish.anchor] = value
            elif self._leads_to(wish.anchor, value):
                continue
            self.parent[value] = wish
            return

    def _leads_to(self, start: Value, goal: Value) -> bool:
        """Whether the place of ``start`` would be derived from that of ``goal``."""
        value: Value | str = start
        while isinstance(value, Value):
            if value is goal:
                return True
            if value not in self.parent:
                return False
            value = self.parent[value].anchor
        return False

    def _slot_is_free(self, op: Operation, value: Value, wish: Wish) -> bool:
        """A slot is free unless it is a state's: then nothing may read the old state once the new one is written."""
        assert isinstance(wish.anchor, str)
        if not wish.anchor.startswith("state:"):
            return True
        old = self.arguments.get(wish.anchor)
        if old is None:
            return True
        if is_view(op) or wish.steps:
            return False
        write = 2 * self.index[op]
        for time, reader in self._reads(old, None, None):
            if time > write or (time == write and reader is not op):
                return False
        same = [k for k, x in enumerate(op.operands) if self.source(x)[0] is old]
        return all(not self.source(op.operands[k])[1] and maps_elementwise(op, k, value.index) for k in same)

    # -- sums ----------------------------------------------------------------------------------------------------------
    def _decide_sum(self, op: Operation) -> None:
        result, operands = op.result, list(op.operands)
        made = Sum(op, operands)
        self.sums[op] = made
        start = 2 * self.backward_start if is_backward(op) else 0
        time = max(start, self._ready(operands[0]))
        made.direct.append(False)
        made.times.append(time)
        made.changes.append(time)
        for x in operands[1:]:
            leaves = [] if op in self.banned else self._leaves(x, (), result)
            writes = [2 * self.index[leaf.op] for leaf, _ in leaves if leaf.op is not None]
            # A kernel that adds must run after all earlier contributions are there.
            direct = bool(leaves) and min(writes) > time
            time = max(writes) if direct else max(time, self._ready(x))
            made.changes.append(min(writes) if direct else time)
            made.direct.append(direct)
            made.times.append(time)
            if direct:
                for value, wish in self._chain(x, result):
                    self.parent[value] = wish
                self.added.update((leaf, op) for leaf, _ in leaves)
        self._place_first(made)

    def _place_first(self, made: Sum) -> None:
        """Let the first contribution lie where the sum lies, if nobody reads it once the second is added."""
        first, result = made.operands[0], made.op.result
        if len(made.operands) > 1 and not self._may_change(made):
            return
        top = self._top(first)
        if top is not None and top.op is not None:
            self._wish(first, Wish(result, ()))
            self.mutated[first] = None
            return
        if result in self.parent and isinstance(self.parent[result].anchor, str):
            return
        if top is None and not self._leads_to(first, result):
            self.parent[result] = Wish(first, ())
            self.mutated[first] = None

    def _may_change(self, made: Sum) -> bool:
        first = made.operands[0]
        source, steps, path = self.source(first)
        if source.op is None:
            return False
        region = _region(source, steps)
        change = made.changes[1]
        # If the whole source comes to lie in the sum, it lies in no concat: those copy it.
        copied = self._top(first) is not None
        reads = [*self._reads(source, region, path, made.op, copied), *self._reads_inside(source)]
        # What is put behind the same kernel for another operation is put there first.
        return all(time < change or (time == change and change % 2 and op is not made.op) for time, op in reads)

    def _reads_inside(self, value: Value) -> Iterator[tuple[int, Operation | None]]:
        """When something else reads what a concat holds: its operands may lie in it (then other concats copy them)."""
        if value.op is None or not is_op(value.op, "concat"):
            return
        for x in value.op.operands:
            source = self._top(x)
            if source is not None and (source.op is not None or self._may_be_staged(source)):
                yield from self._reads(source, None, None, value.op, copied=True)
                yield from self._reads_inside(source)

    def _may_be_staged(self, argument: Value) -> bool:
        key = argument_key(argument)
        return key.startswith("input:") and key not in self.apart

    def _leaves(self, value: Value, steps: tuple[Step, ...], result: Value) -> list[tuple[Value, tuple[Step, ...]]]:
        """The kernel results that a value is made of, if nothing else reads them; empty where there are none."""
        op = value.op
        if op is None or sum(not is_segmented(use.op) for use in value.uses) != 1:
            return []
        if not is_view(op):
            return [(value, steps)]
        if is_op(op, "concat"):
            found = [
                self._leaves(x, (*steps, part), result) for x, part in zip(op.operands, concat_parts(op), strict=True)
            ]
            return [leaf for leaves in found for leaf in leaves] if all(found) else []
        views = views_of(op)
        if len(views) != 1 or views[0].inverse is None:
            return []
        return self._leaves(op.operands[0], (*steps, *views[0].inverse), result)

    def _chain(self, value: Value, result: Value) -> Iterator[tuple[Value, Wish]]:
        """Parents for a contribution that its kernels add: each value on the way lies in the sum."""
        pending: list[tuple[Value, tuple[Step, ...]]] = [(value, ())]
        while pending:
            value, steps = pending.pop()
            op = value.op
            assert op is not None
            if is_op(op, "concat"):
                yield value, Wish(result, steps)
                pending += [(x, (*steps, part)) for x, part in zip(op.operands, concat_parts(op), strict=True)]
                continue
            if is_view(op):
                (view,) = views_of(op)
                assert view.inverse is not None
                pending.append((op.operands[0], (*steps, *view.inverse)))
                continue
            yield value, Wish(result, steps)

    # -- time ----------------------------------------------------------------------------------------------------------
    def _ready(self, value: Value) -> int:
        """When all bytes of a value are there, copies included."""
        if value.op is None:
            return 0
        if views_of(value.op) and not is_op(value.op, "reshape", "flatten"):
            return self._ready(value.op.operands[0])
        return 2 * self.index[value.op] + 1

    def _top(self, value: Value) -> Value | None:
        """The value that ``value`` is all of, under other names or shapes; None where it is a part of one."""
        while value.op is not None:
            views = [v for v in views_of(value.op) if v.result is value]
            if not views:
                return value
            if views[0].inverse is None:
                return None
            value = views[0].operand
        return value

    def source(self, value: Value) -> tuple[Value, list[Step], list[Value]]:
        """The value that ``value`` is a view of, the steps that lead down to it, and all values on the way."""
        steps: list[Step] = []
        path = [value]
        while value.op is not None:
            views = [v for v in views_of(value.op) if v.result is value]
            if not views:
                break
            steps[:0] = views[0].steps
            value = views[0].operand
            path.append(value)
        return value, steps, path

    def _reads(
        self,
        value: Value,
        region: _Region | None,
        path: Sequence[Value] | None,
        without: Operation | None = None,
        copied: bool = False,
    ) -> Iterator[tuple[int, Operation | None]]:
        """When the bytes of a value are read, and by which kernel, through whatever views of it.

        Only reads that meet ``region`` (of the source of ``path``) count, and not those by ``without``: of the value at
        the end of ``path`` where there is a path, else all.  ``copied`` says that concats copy the value.
        """
        pending: list[tuple[Value, _Region | None]] = [(value, _whole(value))]
        while pending:
            value, here = pending.pop()
            for use in value.uses:
                op = use.op
                if op is without and (path is None or (value is path[0] and use.index == 0)):
                    continue
                if op is self.net.ret:
                    yield END, None
                    continue
                views = views_of(op)
                for view in views:
                    part = _after(here, view.steps)
                    if region is None or part is None or _meet(part, region):
                        pending.append((view.result, part))
                if views:
                    continue
                if is_segmented(op):
                    continue
                if is_op(op, "concat"):
                    yield 2 * self.index[op] + 1, op
                    pending += [] if copied else [(op.result, None)]
                    continue
                if is_op(op, "accumulate"):
                    yield (END if value in self.mutated and use.index == 0 else 2 * self.index[op] + 1), op
                    continue
                yield 2 * self.index[op], op

    # -- places --------------------------------------------------------------------------------------------------------
    def _resolve_all(self) -> None:
        slots = {key: Root(key, w.dtype, _numel(w.shape), w) for key, w in self.interface.slots.items()}
        for key, arg in self.arguments.items():
            if key not in self.staged:
                self.places[arg] = Place.whole(slots[key], arg.shape)
        for key, arg in list(self.staged.items()):
            self._resolve(arg, slots)
            if arg in self.unplaced:
                del self.staged[key], self.unplaced[arg], self.parent[arg]
                self.places[arg] = Place.whole(slots[key], arg.shape)
        for op in self.ops:
            for value in op.results:
                self._resolve(value, slots)

    def _resolve(self, value: Value, slots: dict[str, Root]) -> None:
        trail: list[Value] = []
        node: Value | str = value
        while isinstance(node, Value) and node not in self.places:
            trail.append(node)
            if node not in self.parent:
                break
            node = self.parent[node].anchor
        for child in reversed(trail):
            self.places[child] = self._placed(child, slots)

    def _placed(self, value: Value, slots: dict[str, Root]) -> Place:
        wish = self.parent.get(value)
        if wish is None:
            free = self.layouts.get(value, Layout(value.shape)).place(new_root(value))
            assert free is not None
            return free
        if isinstance(wish.anchor, Value):
            start = self.places[wish.anchor]
        else:
            root = slots[wish.anchor]
            assert root.slot is not None
            start = Place.whole(root, root.slot.shape)
        place = start.after(wish.steps)
        if place is None or place.root.dtype != value.dtype:
            self.unplaced[value] = None
            return Place.whole(new_root(value), value.shape)
        return place


def may_stage_inputs(net: FuncOp) -> bool:
    """Whether an input (or a view of it) stands in a concat or among the results, or is no view once it is reshaped."""
    joined = [x for op in net.ops if is_op(op, "concat") for x in op.operands]
    reshaped = [op.result for op in net.ops if is_op(op, "reshape", "flatten")]
    return any(_leads_to_input(x) for x in (*joined, *net.ret.operands)) or any(
        _leads_to_input(x, no_view=True) for x in reshaped
    )


def _leads_to_input(value: Value, no_view: bool = False) -> bool:
    steps: list[Step] = []
    while value.op is not None and (views := views_of(value.op)):
        steps[:0] = views[value.index].steps
        value = views[0].operand
    if value.op is not None or not argument_key(value).startswith("input:"):
        return False
    return not no_view or Layout(value.shape, tuple(steps)).place(new_root(value)) is None


_Region = tuple[tuple[int, int], ...]  # for each axis of a value: first index and one past the last


def _whole(value: Value) -> _Region:
    return tuple((0, n) for n in value.shape)


def _region(source: Value, steps: Sequence[Step]) -> _Region:
    """The part of ``source`` that the steps lead to; all of it where a step is no part."""
    region = _after(_whole(source), steps)
    return region if region is not None else _whole(source)


def _after(region: _Region | None, steps: Sequence[Step]) -> _Region | None:
    """Narrow a region, in coordinates of the source; None (unknown) once axes are reshaped or permuted."""
    for step in steps:
        if region is None or not isinstance(step, Part):
            return None
        low = region[step.axis][0] + step.start
        region = (*region[: step.axis], (low, low + step.extent), *region[step.axis + 1 :])
    return region


def _meet(a: _Region, b: _Region) -> bool:
    return all(max(p[0], q[0]) < min(p[1], q[1]) for p, q in zip(a, b, strict=True))


def _numel(shape: Sequence[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
