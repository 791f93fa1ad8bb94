"""``plan-memory``: from ordered kernels with views between them to a plan.

    %a = "cnet.kernel"(%x) ..                      launch k0  reads inputs+0     writes arena+0 [2, 4] strides [8, 1]
    %b = "cnet.kernel"(%y) ..             ->       launch k1  reads inputs+64    writes arena+16 [2, 4] strides [8, 1]
    %c = "cnet.concat"(%a, %b) {axis = 1}
    %z = "cnet.kernel"(%c) ..                      launch k2  reads arena+0 [2, 8]  writes outputs+0 [2, 3]

`placement` decides which values are windows of which; what it cannot place is copied (or added) by a launch of its own,
with a remark.  `blocks` lets kernels work in place and gives each launch the scratch memory that its loops need (a part
of the plan, so that the checker sees it and no kernel allocates), `arena` chooses offsets.  An input that a concat
would copy is put into the concat by the caller where that needs no more memory.  Invariant: the plan computes, in the
same order of additions, what the net says (`check_plan`), every other argument and every result lies in its slot of
:func:`interface_of`, and scratch is aligned to 64 bytes and shares none with what is alive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.ir.types import TensorType
from concatc.loops.bases import Interface, argument_key, interface_of, result_keys
from concatc.loops.plan import Base, Launch, Plan, Remark, Segment, Window
from concatc.op import Op, is_op, op_of
from concatc.ops.accumulate import Accumulate
from concatc.ops.split import Split
from concatc.passes.arena import aligned
from concatc.passes.blocks import ArenaBlocks, Phase, Step, assign_blocks
from concatc.passes.fusion import is_view
from concatc.passes.graph import is_backward, split_source
from concatc.passes.kernel_table import KernelTable
from concatc.passes.lower_to_loops import scratch_bytes
from concatc.passes.placement import Placement
from concatc.passes.storage import Part, Place, Root, concat_parts, is_segmented, views_of

# Where all inputs in their concats need more memory than none, so many are tried one by one.
SINGLE_TRIALS = 8


@dataclass(frozen=True)
class PlanMemory:
    """Make a plan.

    ``interface`` gives the slots (default: :func:`interface_of` the net).  Without ``reuse`` every block of the arena
    has bytes of its own, which tells blocks apart.  Without ``stage`` all inputs lie in their slots.
    """

    interface: Interface | None = None
    reuse: bool = True
    stage: bool = True

    name = "plan-memory"

    def plan(self, module: Module) -> Plan:
        """The plan of the module's main function, whose kernels run in the order in which they stand."""
        net = module.main
        interface = self.interface if self.interface is not None else interface_of(net)
        apart = () if self.stage else tuple(key for key in interface.slots if key.startswith("input:"))
        return _planner_of(module.sym_name, net, interface, apart).plan(self.reuse)


@dataclass(frozen=True)
class Move:
    """Operand ``index`` of a view, or of the net's return, that a launch of its own must move (or add)."""

    op: Operation
    index: int
    message: str

    @property
    def value(self) -> Value:
        """What is moved."""
        return self.op.operands[self.index]

    @property
    def remark(self) -> Remark:
        """What the plan says of it."""
        loc = self.op.loc or (self.value.op.loc if self.value.op is not None else None)
        return Remark(self.message, self.value.tensor.size_bytes, loc)


@dataclass(frozen=True)
class Traffic:
    """What a plan moves: in all its launches, and by launches that do nothing else."""

    moves: tuple[Move, ...]
    bytes: int
    launches: int


def traffic_of(net: FuncOp) -> Traffic:
    """What the plan of ``net`` would move."""
    planner = _planner_of("", net, interface_of(net))
    touched = [
        place
        for step in planner.steps
        for place in (*step.reads, *step.writes, *(w for w, add in zip(step.writes, step.add, strict=True) if add))
    ]
    return Traffic(tuple(planner.moves), sum(place.size_bytes for place in touched), len(planner.steps))


class _Planner:
    """Launches without addresses (``steps``), what they move (``moves``), and then the plan.

    Inputs in ``apart`` lie in their slots.
    """

    def __init__(self, name: str, net: FuncOp, interface: Interface, apart: Mapping[str, None]) -> None:
        self.name = name
        self.net = net
        self.interface = interface
        self.apart = apart
        self.placement = _place(net, interface, apart)
        self.moves: list[Move] = []
        # One list a position of the order: the kernel that stands there, then what is put behind it.
        self.schedule: list[list[Step]] = [[] for _ in range(len(net.ops))]
        self._emit()
        self.steps = [step for steps in self.schedule for step in steps]
        self.staged = {key: self.placement[arg] for key, arg in self.placement.staged.items()}

    def _emit(self) -> None:
        for k, op in enumerate(self.net.ops[:-1]):
            if is_op(op, "accumulate"):
                self._emit_sum(op)
            elif is_op(op, "concat") and not is_segmented(op):
                self._emit_concat(k, op)
            elif is_view(op):
                self._emit_views(k, op)
            else:
                self._emit_kernel(k, op)
        self._emit_results()

    @cached_property
    def need_bytes(self) -> int:
        """The arena without scratch, and the inputs that lie in their slots."""
        slots = [slot for key, slot in self.interface.slots.items() if slot.base == "inputs" and key not in self.staged]
        arena = assign_blocks(self.steps, self._staged_in_arena, ())
        return arena.size_bytes + sum(aligned(slot.end_bytes - slot.offset_bytes) for slot in slots)

    @property
    def _staged_in_arena(self) -> list[Place]:
        return [place for place in self.staged.values() if place.root.slot is None]

    def plan(self, reuse: bool = True) -> Plan:
        """The plan."""
        kernels = KernelTable(sum(op.name == "cnet.kernel" for op in self.net.ops))
        called = [_kernel(kernels, step) for step in self.steps]
        needs = {name: scratch_bytes(kernel) for name, kernel in kernels.functions.items()}
        arena = assign_blocks(self.steps, self._staged_in_arena, [needs[name] for name in called], reuse)
        plan = Plan(self.name, kernels=kernels.functions)
        self._address(plan, arena, called, needs)
        plan.remarks = [move.remark for move in self.moves] + list(_second_stores(self.net))
        return plan

    # -- steps ---------------------------------------------------------------------------------------------------------
    def _emit_kernel(self, position: int, op: Operation) -> None:
        places = self.placement
        self.schedule[position].insert(
            0,
            Step(
                op,
                op,
                [places[v] for v in op.operands],
                [places[v] for v in op.results],
                tuple(v in places.added for v in op.results),
                _phase(op),
                op.loc,
            ),
        )

    def _emit_concat(self, position: int, op: Operation) -> None:
        whole = self.placement[op.result]
        for k, (x, part) in enumerate(zip(op.operands, concat_parts(op), strict=True)):
            self._copy(position, op, k, whole.apply(part), f"concat copies {_blob(x)}")

    def _emit_views(self, position: int, op: Operation) -> None:
        for view in views_of(op):
            place = self.placement[view.operand].after(view.steps)
            made = self.placement[view.result]
            if made.same_as(place):
                continue
            message = f"{_short(op)} copies {_blob(view.operand)}: no strides express the new shape"
            self.moves.append(Move(op, 0, message))
            self._put(position, op, op, [self.placement[view.operand]], made, add=False)

    def _emit_sum(self, op: Operation) -> None:
        made, whole = self.placement.sums[op], self.placement[op.result]
        missing = [not direct for direct in made.direct]
        missing[0] = not self.placement[made.operands[0]].same_as(whole)
        start = next((k for k, lost in enumerate(missing) if not lost), len(missing))
        if start > 1:
            operands = made.operands[:start]
            for k, x in enumerate(operands):
                message = f"accumulate reads {_blob(x)}, which lies elsewhere: {self._reason(x)}"
                self.moves.append(Move(op, k, message))
            places = [self.placement[x] for x in operands]
            self._put(made.times[start - 1] // 2, op, Accumulate(), places, whole, add=False)
        elif start == 1:
            self._copy(made.times[0] // 2, op, 0, whole, f"accumulate copies {_blob(made.operands[0])}")
        for k in range(max(start, 1), len(missing)):
            if missing[k]:
                x = made.operands[k]
                self.moves.append(Move(op, k, f"accumulate adds {_blob(x)} apart: {self._reason(x)}"))
                self._put(made.times[k] // 2, op, Accumulate(), [self.placement[x]], whole, add=True)

    def _emit_results(self) -> None:
        for k, (key, value) in enumerate(zip(result_keys(self.net), self.net.ret.operands, strict=True)):
            window = self.interface.slots[key]
            place = self.placement[value]
            if place.root.slot is window and place.same_as(Place.whole(place.root, value.shape)):
                continue
            slot = Place.whole(Root(key, window.dtype, value.tensor.numel, window), value.shape)
            position = len(self.schedule) - 1
            if key.partition(":")[0] in ("output", "loss", "total", "kept", "state"):
                position = max(self.placement.backward_start - 1, 0)
            self._copy(position, self.net.ret, k, slot, f"{key.replace(':', ' ')} is copied from {_blob(value)}")

    def _copy(self, position: int, op: Operation, index: int, to: Place | None, message: str) -> None:
        """Copy an operand to where it should lie, unless it does."""
        assert to is not None
        x = op.operands[index]
        if self.placement[x].same_as(to) or x.tensor.numel == 0:
            return
        to_state = to.root.slot is not None and to.root.slot.base == "states"
        self.moves.append(Move(op, index, f"{message}: {self._reason(x, to_state)}"))
        self._put(position, op, Split(ways=1), [self.placement[x]], to, add=False)

    def _put(
        self, position: int, op: Operation, does: Operation | Op, reads: list[Place], to: Place, add: bool
    ) -> None:
        phase: Phase = _phase(op)
        if op is self.net.ret:
            # A net without operations has no kernel before which its results could be copied.
            phase = "forward" if position < max(self.placement.backward_start, 1) else "backward"
        if phase == "backward":
            position = max(position, self.placement.backward_start)
        self.schedule[position].append(Step(does, None, reads, [to], (add,), phase, op.loc))

    def _reason(self, x: Value, to_state: bool = False) -> str:
        """Why ``x`` is not where an operation would have it, or (``to_state``) where the new value of a state goes."""
        root = self.placement[x].root
        source, steps, _ = self.placement.source(x)
        if source.op is None:
            return f"it is the {argument_key(source).replace(':', ' ')}"
        if root.slot is not None:
            return f"it lies in {root.slot.base}"
        if root.owner != source.name:
            return f"it lies in %{root.owner}"
        if any(isinstance(step, Part) for step in steps):
            return f"it is a part of {_blob(source)}"
        if to_state and not steps:
            return "the state as it was is read until then"
        if source is not x:
            return "others read it too"
        if source.op is not None and is_op(source.op, "concat"):
            return "not all of its parts can be added in place"
        return "it is made before what it is added to"

    def _segments(self, value: Value) -> Iterator[tuple[tuple[int, ...], Place]]:
        """Where the parts of a value start in it, and where they lie; empty parts lie nowhere."""
        op = value.op
        if op is None or not is_segmented(op):
            yield (0,) * len(value.shape), self.placement[value]
            return
        for x, part in zip(op.operands, concat_parts(op), strict=True):
            for start, place in self._segments(x) if x.tensor.numel else ():
                yield (*start[: part.axis], start[part.axis] + part.start, *start[part.axis + 1 :]), place

    # -- addresses -----------------------------------------------------------------------------------------------------
    def _address(self, plan: Plan, arena: ArenaBlocks, called: Sequence[str], needs: Mapping[str, int]) -> None:
        """Give ``plan`` its bases, its launches, of the kernels ``called``, and its values."""
        windows: dict[Place, Window] = {}
        interface = self.interface

        def window(place: Place) -> Window:
            if place not in windows:
                base, start = "arena", arena.starts.get(place.root, 0)
                if place.root.slot is not None:
                    slot = interface.slots[place.root.owner]
                    base, start = slot.base, slot.offset_bytes
                windows[place] = place.window(base, start)
            return windows[place]

        if self.staged:
            # They lie in blocks of the arena and slots of outputs; slots of other inputs close up.
            interface = self.interface.with_staged({key: window(place) for key, place in self.staged.items()})
        plan.bases = {**interface.bases, "arena": Base("arena", arena.size_bytes)}
        plan.launches = [
            Launch(
                kernel,
                tuple(map(window, step.reads)),
                tuple(map(window, step.writes)),
                step.add,
                Window("arena", scratch_at, (needs[kernel],), (1,), "i8") if needs[kernel] else None,
                step.phase,
                step.loc,
            )
            for step, kernel, scratch_at in zip(self.steps, called, arena.scratch, strict=True)
        ]
        plan.values = {key: (Segment((0,) * len(slot.shape), slot),) for key, slot in interface.slots.items()}
        for op in self.net.ops[:-1]:
            for value in op.results if not is_op(op, "split") else []:
                segments = list(self._segments(value))
                if value.name and all(p.root.slot is not None or p.root in arena.starts for _, p in segments):
                    plan.values.setdefault(value.name, tuple(Segment(start, window(p)) for start, p in segments))


def _kernel(kernels: KernelTable, step: Step) -> str:
    """The function that a step calls."""
    if isinstance(step.does, Operation):
        return kernels.of_operation(step.does)
    return kernels.of_op(step.does, [TensorType(place.shape, place.root.dtype) for place in step.reads])


def _planner_of(name: str, net: FuncOp, interface: Interface, apart: Sequence[str] = ()) -> _Planner:
    """Inputs lie in their concats as far as that needs no more memory: a concat is alive from its first part on."""
    planner = _Planner(name, net, interface, dict.fromkeys(apart))
    if not planner.staged:
        return planner
    keys = list(planner.staged)
    best = _Planner(name, net, interface, dict.fromkeys((*apart, *keys)))
    if planner.need_bytes <= best.need_bytes:
        return planner
    for key in keys[:SINGLE_TRIALS] if len(keys) > 1 else ():
        trial = _Planner(name, net, interface, {other: None for other in best.apart if other != key})
        if trial.need_bytes <= best.need_bytes:
            best = trial
    return best


def _place(net: FuncOp, interface: Interface, apart: Mapping[str, None]) -> Placement:
    banned: dict[Operation, None] = {}
    while True:
        placement = Placement(net, interface, banned, apart)
        failed = placement.failed_sums()
        if not failed:
            return placement
        banned.update(dict.fromkeys(failed))


def _second_stores(net: FuncOp) -> Iterator[Remark]:
    """What kernels store once more, because it must lie in two places."""
    for op in net.ops:
        if op.name != "cnet.kernel":
            continue
        stored: dict[Value, Value] = {}
        for made, result in zip(op.regions[0].block.ops[-1].operands, op.results, strict=True):
            first = stored.setdefault(made, result)
            if first is not result and result.tensor.numel:
                where = f", for {_short(result.readers[0])}" if result.uses and is_view(result.readers[0]) else ""
                message = f"{_blob(first)} is stored a second time{where}"
                yield Remark(message, result.tensor.size_bytes, op.loc, "second store")


def _phase(op: Operation) -> Phase:
    return "backward" if is_backward(op) else "forward"


def _blob(value: Value) -> str:
    """A value as messages name it: what splits hand out is the blob itself."""
    return f"%{split_source(value).name or 'a value without a name'}"


def _short(op: Operation) -> str:
    return op_of(op).name
