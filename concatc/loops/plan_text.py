"""A plan as IR, and back: what the dump of level 05 holds.

    func.func @step(%params: memref<4096xi8> {cnet.base = "params"}, %arena: memref<65536xi8> {cnet.base = "arena"}) {
      %h = "cnet.window"(%arena) {offset = 4096 : i64, holds = ["h"]} : .. -> memref<64x128xf32, strided<[128, 1]>>
      "cnet.launch"(%a, %w, %h) {kernel = @k0_linear, reads = 2 : i64, add = array<i1: false>, phase = "forward"}
      "cnet.value"(%p, %q) {name = "x", starts = [array<i64: 0, 0>, array<i64: 4, 0>]}
      "cnet.remark"() {message = "...", bytes = 512 : i64, kind = "copy"}
      func.return
    }
    func.func @k0_linear(%x: tensor<64x64xf32>, %weight: tensor<128x64xf32>) -> tensor<64x128xf32> { .. }

Offsets are bytes, strides elements.  ``holds`` names the values that lie in a window whole; a value of several segments
has a ``cnet.value``.  The operands of a launch are its reads, its writes, then its scratch if it has one.  Nothing of a
plan is lost: ``plan_of(module_of(plan))`` has the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from concatc.diagnostics import ConcatcError, Sink, did_you_mean
from concatc.ir.clone import clone_function
from concatc.ir.core import Attr, Block, FuncOp, Module, Operation, SymbolRef, Value
from concatc.ir.types import ELEMENT_BYTES, MemRefType, TensorType, Type
from concatc.loops.bases import is_staged
from concatc.loops.declaration import DECLARED, declaration_in, declared_interface, net_of, slot_problems
from concatc.loops.plan import Base, BaseKind, Launch, Plan, Remark, RemarkKind, Segment, Window

STEP = "step"
PHASES = ("forward", "backward", "update")
T = TypeVar("T")


def module_of(plan: Plan) -> Module:
    """The plan as a module: ``@step`` first, then a function a kernel, then the declaration of the net."""
    step = FuncOp(STEP, [MemRefType((b.size_bytes,), "i8") for b in plan.bases.values()], list(plan.bases))
    for arg in step.args:
        arg.attrs["cnet.base"] = arg.name
    writer = _Writer(step, plan)
    for launch in plan.launches:
        writer.launch(launch)
    for name, segments in plan.values.items():
        writer.value(name, segments)
    for remark in plan.remarks:
        attributes: dict[str, Attr] = {"message": remark.message, "bytes": remark.bytes, "kind": remark.kind}
        step.body.append(Operation("cnet.remark", attributes=attributes, loc=remark.loc))
    step.body.append(Operation("func.return"))
    declared = [] if plan.net is None else [clone_function(plan.net)]
    return Module(plan.name, [step, *plan.kernels.values(), *declared])


class _Writer:
    """Appends the operations of a plan to ``@step``.

    A window is written before its first use, and once more where it is stored to again and another value lies there.
    """

    def __init__(self, step: FuncOp, plan: Plan) -> None:
        self.block: Block = step.body
        self.bases = {arg.name: arg for arg in step.args}
        self.windows: dict[Window, Value] = {}
        # What lies in each window, one name after the other: in the arena each store begins the next one.
        self.waiting: dict[Window, list[list[str]]] = {}
        self.written: dict[str, None] = {}
        for name, segments in plan.values.items():
            if _is_whole(segments):
                window = segments[0].window
                queue = self.waiting.setdefault(window, [])
                if queue and window.base != "arena":
                    queue[0].append(name)
                    continue
                queue.append([name])
        for name, segments in plan.values.items():
            # The caller puts these inputs there before the first launch.
            if _is_whole(segments) and is_staged(name, segments[0].window):
                self.window(segments[0].window)

    def window(self, window: Window, store: bool = False) -> Value:
        waiting = self.waiting.get(window, [])
        if window in self.windows and not (store and waiting):
            return self.windows[window]
        holds = waiting.pop(0) if waiting else []
        self.written.update(dict.fromkeys(holds))
        attributes: dict[str, Attr] = {"offset": window.offset_bytes}
        name = f"{window.base}.{window.offset_bytes}"
        if holds:
            attributes["holds"] = tuple(holds)
            name = _short_name(holds[0])
        type = MemRefType(window.shape, window.dtype, window.strides)
        op = self.block.append(
            Operation("cnet.window", [self.bases[window.base]], [type], attributes, result_names=[name])
        )
        self.windows[window] = op.result
        return op.result

    def launch(self, launch: Launch) -> None:
        operands = [self.window(w) for w in launch.reads]
        operands += [self.window(w, store=not add) for w, add in zip(launch.writes, launch.add, strict=True)]
        attributes: dict[str, Attr] = {
            "kernel": SymbolRef(launch.kernel),
            "reads": len(launch.reads),
            "add": launch.add,
            "phase": launch.phase,
        }
        if launch.scratch is not None:
            operands.append(self.window(launch.scratch))
            attributes["scratch"] = True
        self.block.append(Operation("cnet.launch", operands, attributes=attributes, loc=launch.loc))

    def value(self, name: str, segments: Sequence[Segment]) -> None:
        if name in self.written:
            return
        if _is_whole(segments):
            queue = self.waiting[segments[0].window]
            queue[:] = [[name for names in queue for name in names]]
            self.window(segments[0].window, store=True)
            return
        operands = [self.window(s.window) for s in segments]
        attributes: dict[str, Attr] = {"name": name, "starts": tuple(s.start for s in segments)}
        self.block.append(Operation("cnet.value", operands, attributes=attributes))


def plan_of(module: Module) -> Plan:
    """The plan that a module of level 05 holds.  Raises :class:`ConcatcError` with everything that is wrong in it."""
    functions = {f.sym_name: f for f in module.functions}
    if STEP not in functions:
        raise ConcatcError(f"a plan has a function @{STEP}; module @{module.sym_name} has none")
    step = functions.pop(STEP)
    net = declaration_in(module)
    if net is not None:
        del functions[net.sym_name]
    reader = _Reader(Plan(module.sym_name, kernels=functions, net=net))
    reader.read(step)
    if net is not None and not reader.sink.diagnostics:
        reader.check_interface(net_of(net))
    reader.sink.raise_if_errors()
    return reader.plan


class _Reader:
    """Reads the operations of ``@step``; what is wrong is collected, not raised."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sink = Sink()
        self.base_names: dict[Value, str] = {}
        self.windows: dict[Value, Window] = {}
        self.placed_by: dict[str, Operation] = {}

    def read(self, step: FuncOp) -> None:
        for arg in step.args:
            self.base(arg, step)
        for kernel in self.plan.kernels.values():
            if kernel.declared is not None:
                self.sink.error(f"@{kernel.sym_name} has no body; @{DECLARED} alone is a declaration", kernel.loc)
        rules = {
            "cnet.window": self.window,
            "cnet.launch": self.launch,
            "cnet.value": self.value,
            "cnet.remark": self.remark,
        }
        for op in step.ops:
            if op.name == "func.return":
                continue
            if op.name not in rules:
                self.sink.error(f"`{op.name}` does not belong in a plan", op.loc, help=did_you_mean(op.name, rules))
                continue
            rules[op.name](op)

    def base(self, arg: Value, step: FuncOp) -> None:
        name: Any = arg.attrs.get("cnet.base", arg.name)
        known = get_args(BaseKind)
        if name not in known:
            self.sink.error(f"`{name}` is no base", step.loc, notes=[f"bases are {', '.join(known)}"])
            return
        if name in self.plan.bases:
            self.sink.error(f"@{STEP} has the base {name} twice", step.loc)
            return
        if (
            not isinstance(arg.type, MemRefType)
            or arg.type.dtype != "i8"
            or arg.type.rank != 1
            or arg.type.shape[0] is None
        ):
            self.sink.error(f"base %{name} must be memref<Nxi8>, not {arg.type}", step.loc)
            return
        self.base_names[arg] = name
        self.plan.bases[name] = Base(name, arg.type.shape[0])

    def window(self, op: Operation) -> None:
        if len(op.operands) != 1 or len(op.results) != 1 or op.operands[0] not in self.base_names:
            self.sink.error("a window takes one base of @step", op.loc)
            return
        offset = self.attribute(op, "offset", int)
        parts = _window_parts(op.result.type)
        if parts is None:
            self.sink.error(f"a window is a memref of static shape and strides, not {op.result.type}", op.loc)
            return
        holds: Any = op.attributes.get("holds", ())
        if not isinstance(holds, tuple) or not all(isinstance(name, str) for name in holds):
            self.sink.error("`holds` is a list of names", op.loc)
            return
        if offset is None:
            return
        window = Window(self.base_names[op.operands[0]], offset, *parts)
        limit = self.plan.bases[window.base].size_bytes
        if min(offset, *window.strides, 0) < 0 or window.end_bytes > limit:
            span = f"bytes {offset} to {window.end_bytes} of {window.base}"
            self.sink.error(f"the window is {span}, which has {limit}; strides are 0 or more", op.loc)
            return
        self.windows[op.result] = window
        for name in holds:
            self.place(name, (Segment((0,) * len(window.shape), window),), op)

    def place(self, name: str, segments: tuple[Segment, ...], op: Operation) -> None:
        if name in self.plan.values:
            self.sink.error(f"{name} has two places", op.loc)
            return
        self.plan.values[name] = segments
        self.placed_by[name] = op

    def check_interface(self, net: FuncOp) -> None:
        """Arguments and results lie, whole, where the declaration puts them."""
        interface = declared_interface(net, self.plan.bases)
        for problem in slot_problems(interface):
            self.sink.error(problem, net.loc)
        for key, slot in interface.slots.items():
            if key not in self.plan.values:
                self.sink.error(f"no window holds {key}, which @{DECLARED} declares", net.loc)
            elif self.plan.values[key] != (Segment((0,) * len(slot.shape), slot),):
                strides = "dense" if slot.is_dense else f"strides {list(slot.strides)}"
                wanted = f"{slot.base}+{slot.offset_bytes} {list(slot.shape)}, {strides}"
                self.sink.error(f"{key} must lie at {wanted}, as @{DECLARED} declares", self.placed_by[key].loc)
        for key in self.plan.values:
            if ":" in key and key not in interface.slots:
                self.sink.error(f"@{DECLARED} declares no {key}", self.placed_by[key].loc)

    def launch(self, op: Operation) -> None:
        kernel = self.attribute(op, "kernel", SymbolRef)
        reads = self.attribute(op, "reads", int)
        add = self.attribute(op, "add", tuple)
        phase: Any = self.attribute(op, "phase", str)
        windows = self.operand_windows(op)
        if kernel is None or reads is None or add is None or phase is None or windows is None:
            return
        if phase not in PHASES:
            self.sink.error(f"`{phase}` is no phase", op.loc, notes=[f"phases are {', '.join(PHASES)}"])
            return
        if kernel.name not in self.plan.kernels:
            hint = did_you_mean(kernel.name, self.plan.kernels)
            self.sink.error(f"no function @{kernel.name} in the plan", op.loc, help=hint)
            return
        scratch = windows.pop() if op.attributes.get("scratch") and windows else None
        launch = Launch(kernel.name, tuple(windows[:reads]), tuple(windows[reads:]), add, scratch, phase, op.loc)
        if self.fits(launch):
            self.plan.launches.append(launch)

    def fits(self, launch: Launch) -> bool:
        """Whether the windows of a launch have the types of its kernel."""
        kernel = self.plan.kernels[launch.kernel]
        found = ([_tensor(w) for w in launch.reads], [_tensor(w) for w in launch.writes])
        wanted = (list(kernel.type.inputs), list(kernel.type.results))
        if found != wanted:
            notes = [f"@{launch.kernel} is {kernel.type}"]
            got = f"({', '.join(map(str, found[0]))}) -> ({', '.join(map(str, found[1]))})"
            self.sink.error(f"the windows do not fit @{launch.kernel}: {got}", launch.loc, notes)
            return False
        if len(launch.add) != len(launch.writes) or not all(isinstance(a, bool) for a in launch.add):
            self.sink.error(f"`add` needs one i1 a result ({len(launch.writes)}), not {launch.add}", launch.loc)
            return False
        return True

    def value(self, op: Operation) -> None:
        name = self.attribute(op, "name", str)
        starts = self.attribute(op, "starts", tuple)
        windows = self.operand_windows(op)
        if name is None or starts is None or windows is None:
            return
        ranks = [len(s) if isinstance(s, tuple) else None for s in starts]
        if ranks != [len(w.shape) for w in windows]:
            self.sink.error(f"`starts` of {name} needs one index a window axis", op.loc)
            return
        self.place(name, tuple(Segment(s, w) for s, w in zip(starts, windows, strict=True)), op)

    def remark(self, op: Operation) -> None:
        message = self.attribute(op, "message", str)
        bytes = self.attribute(op, "bytes", int)
        kind: Any = self.attribute(op, "kind", str)
        if message is None or bytes is None or kind is None:
            return
        if kind not in get_args(RemarkKind):
            self.sink.error(f"`{kind}` is no kind of remark", op.loc, help=did_you_mean(kind, get_args(RemarkKind)))
            return
        self.plan.remarks.append(Remark(message, bytes, op.loc, kind))

    def operand_windows(self, op: Operation) -> list[Window] | None:
        if all(v in self.windows for v in op.operands):
            return [self.windows[v] for v in op.operands]
        lost = [v.name for v in op.operands if v not in self.windows]
        self.sink.error(f"%{lost[0]} is no window", op.loc)
        return None

    def attribute(self, op: Operation, name: str, type: type[T]) -> T | None:
        value = op.attributes.get(name)
        if isinstance(value, type) and not (type is int and isinstance(value, bool)):
            return value
        self.sink.error(f"{op.name} needs the attribute `{name}`", op.loc)
        return None


def _short_name(key: str) -> str:
    kind, colon, name = key.partition(":")
    if not colon:
        return key
    return f"{name}.grad" if kind.endswith("grad") else name


def _is_whole(segments: Sequence[Segment]) -> bool:
    return len(segments) == 1 and not any(segments[0].start)


def _window_parts(type: Type) -> tuple[tuple[int, ...], tuple[int, ...], str] | None:
    if not isinstance(type, MemRefType) or type.strides is None or type.offset != 0:
        return None
    shape = tuple(n for n in type.shape if n is not None)
    strides = tuple(s for s in type.strides if s is not None)
    if len(shape) != type.rank or len(strides) != type.rank or type.dtype not in ELEMENT_BYTES:
        return None
    return shape, strides, type.dtype


def _tensor(window: Window) -> TensorType:
    return TensorType(window.shape, window.dtype)
