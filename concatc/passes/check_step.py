"""The calls of ``@step`` in a module of loops: are they launches on windows of the bases?

    %1 = memref.view %arena[%c64][] : memref<256xi8> to memref<2x4xf32>
    func.call @k0_relu(%c0, %c2, %c4, %1, ..) {cnet.phase = "forward"}      ->  Call(windows = (arena+64 [2, 4],), ..)

What an edited text may get wrong and code would not notice is checked: windows lie within their base, casts keep what
they cast, phases are known, results go to bases that the phase may write, and what is said to overlap nothing does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from concatc.diagnostics import Diagnostic, did_you_mean
from concatc.ir.core import FuncOp, Module, Operation, SymbolRef, Value
from concatc.ir.types import ELEMENT_BYTES, I1, INDEX, MemRefType, dense_strides
from concatc.loops.plan import Base, BaseKind, Window
from concatc.passes.check_lattice import extent_bytes, overlap, overlaps_itself
from concatc.passes.check_plan import PHASE_ORDER, WRITABLE

Known = int | bool | Window


@dataclass(frozen=True)
class Call:
    """One call of ``@step``: what each argument of ``kernel`` is."""

    operation: Operation
    kernel: FuncOp
    arguments: Mapping[Value, Known]

    @property
    def phase(self) -> str:
        """``forward``, ``backward`` or ``update``."""
        return str(self.operation.attributes.get("cnet.phase", "forward"))

    def windows(self) -> dict[Value, Window]:
        """The memory arguments."""
        return {arg: known for arg, known in self.arguments.items() if isinstance(known, Window)}


def step_bases(step: FuncOp) -> tuple[dict[str, Base], list[Diagnostic]]:
    """The bases that ``@step`` takes, and what is wrong with them."""
    names = get_args(BaseKind)
    bases: dict[str, Base] = {}
    problems = []
    for arg in step.args:
        type = arg.type
        if arg.name not in names:
            near = did_you_mean(arg.name, names) or f"bases are {', '.join(names)}"
            problems.append(Diagnostic(f"@{step.sym_name}: `{arg.name}` is no base", step.loc, help=near))
        elif not isinstance(type, MemRefType) or type.dtype != "i8" or type.rank != 1 or type.shape[0] is None:
            problems.append(Diagnostic(f"@{step.sym_name}: %{arg.name} must be memref<Nxi8>, not {type}", step.loc))
        elif type.strides is not None:
            problems.append(Diagnostic(f"@{step.sym_name}: %{arg.name} must be dense, not {type}", step.loc))
        else:
            bases[arg.name] = Base(arg.name, type.shape[0])  # type: ignore[arg-type]
    return bases, problems


def step_calls(module: Module, bases: Mapping[str, Base]) -> tuple[list[Call], list[Diagnostic]]:
    """The calls of ``@step``, in order, and what is wrong with the others."""
    reader = _Reader(module, bases)
    for op in module.main.ops:
        reader.read(op)
    return reader.calls, reader.problems


class _Reader:
    def __init__(self, module: Module, bases: Mapping[str, Base]) -> None:
        self.calls: list[Call] = []
        self.problems: list[Diagnostic] = []
        self._bases = bases
        self._kernels = {f.sym_name: f for f in module.functions[1:] if f.declared is None}
        self._known: dict[Value, Known] = {
            arg: Window(arg.name, 0, (bases[arg.name].size_bytes,), (1,), "i8") for arg in module.main.args
        }
        self._latest = "forward"

    def read(self, op: Operation) -> None:
        rules = {
            "arith.constant": self._constant,
            "memref.view": self._view,
            "memref.reinterpret_cast": self._reinterpret,
            "memref.cast": self._cast,
            "func.call": self._call,
        }
        if op.name == "func.return":
            return
        if op.name not in rules:
            self._wrong(op, f"@step holds constants, windows and calls, not `{op.name}`")
        elif all(v in self._known for v in op.operands):  # else it was reported where it was made
            rules[op.name](op)

    def _wrong(self, op: Operation, message: str) -> None:
        self.problems.append(Diagnostic(message, op.loc))

    def _constant(self, op: Operation) -> None:
        value = op.attributes["value"]
        if op.result.type in (INDEX, I1) and isinstance(value, int):
            self._known[op.result] = value
            return
        self._wrong(op, f"@step has constants of type index and i1, not {op.result.type}")

    def _view(self, op: Operation) -> None:
        source, type = self._known[op.operands[0]], op.result.type
        if not isinstance(source, Window) or op.operands[0].op is not None or len(op.operands) != 2:
            self._wrong(op, "a view takes a base of @step and an offset")
            return
        if not isinstance(type, MemRefType) or type.strides is not None:
            self._wrong(op, f"a view is dense, not {type}")
            return
        shape = tuple(n for n in type.shape if n is not None)
        self._place(op, Window(source.base, int(self._offset(op)), shape, dense_strides(shape), type.dtype))

    def _offset(self, op: Operation) -> int:
        offset = self._known[op.operands[1]]
        return offset if isinstance(offset, int) else 0

    def _reinterpret(self, op: Operation) -> None:
        source, type = self._known[op.operands[0]], op.result.type
        lists = [op.attributes.get(key) for key in ("offsets", "sizes", "strides")]
        if not isinstance(source, Window) or not isinstance(type, MemRefType) or len(op.operands) != 1:
            self._wrong(op, "a cast of a window has numbers for its offset, sizes and strides")
            return
        if lists[0] != (0,) or type.offset != 0 or (type.shape, _strides(type)) != (lists[1], lists[2]):
            self._wrong(op, f"the offset is 0, and sizes and strides are those of {type}")
            return
        if source.dtype != type.dtype:
            self._wrong(op, f"a cast cannot make {type} of {source.dtype}")
            return
        shape = tuple(n for n in type.shape if n is not None)
        strides = tuple(s for s in _strides(type) if s is not None)
        self._place(op, Window(source.base, source.offset_bytes, shape, strides, type.dtype))

    def _place(self, op: Operation, window: Window) -> None:
        limit = self._bases[window.base].size_bytes
        if window.dtype not in ELEMENT_BYTES:
            self._wrong(op, f"a window does not hold {window.dtype}")
            return
        low, end = extent_bytes(window)
        if min(low, *window.strides, *window.shape, 0) < 0 or end > limit:
            self._wrong(op, f"the window is bytes {low} to {end} of {window.base}, which has {limit}")
        elif window.offset_bytes % ELEMENT_BYTES[window.dtype]:
            self._wrong(op, f"the window starts at byte {window.offset_bytes}, which is not aligned for {window.dtype}")
        else:
            self._known[op.result] = window

    def _cast(self, op: Operation) -> None:
        window, type = self._known[op.operands[0]], op.result.type
        fits = (
            isinstance(window, Window)
            and isinstance(type, MemRefType)
            and type.dtype == window.dtype
            and type.offset == 0
            and _agree(type.shape, window.shape)
            and _agree(_strides(type), window.strides)
        )
        if not fits:
            self._wrong(op, f"{op.operands[0].type} cannot be cast to {type}")
            return
        self._known[op.result] = window

    def _call(self, op: Operation) -> None:
        callee, phase = op.attributes["callee"], op.attributes.get("cnet.phase", "forward")
        if not isinstance(callee, SymbolRef) or callee.name not in self._kernels:
            self._wrong(op, f"{callee} has no body")
            return
        if phase not in PHASE_ORDER:
            near = did_you_mean(str(phase), PHASE_ORDER) or f"there are {', '.join(PHASE_ORDER)}"
            self.problems.append(Diagnostic(f"`{phase}` is no phase", op.loc, help=near))
            return
        if PHASE_ORDER[str(phase)] < PHASE_ORDER[self._latest]:
            self._wrong(op, f"a {phase} call stands after a {self._latest} call")
        self._latest = str(phase)
        kernel = self._kernels[callee.name]
        arguments = {arg: self._known[v] for arg, v in zip(kernel.args, op.operands, strict=True)}
        call = Call(op, kernel, arguments)
        found = list(_call_problems(call))
        self.problems += [Diagnostic(f"@{kernel.sym_name}: {problem}", op.loc) for problem in found]
        if not found:
            self.calls.append(call)


def _strides(type: MemRefType) -> tuple[int | None, ...]:
    if type.strides is not None:
        return type.strides
    return dense_strides(tuple(n if n is not None else 0 for n in type.shape))


def _agree(wanted: tuple[int | None, ...], found: tuple[int, ...]) -> bool:
    return len(wanted) == len(found) and all(w is None or w == f for w, f in zip(wanted, found, strict=True))


def written_arguments(kernel: FuncOp) -> dict[Value, None]:
    """The memory arguments that a kernel stores to."""
    return {op.operands[1]: None for op in kernel.walk() if op.name == "memref.store" and len(op.operands) > 1}


def _place_of(kernel: FuncOp, arg: Value) -> Value | None:
    """The argument in whose memory this one lies, by ``cnet.same``: itself where that is not said; None for none."""
    number = arg.attrs.get("cnet.same", arg.index)
    if not isinstance(number, int) or not 0 <= number <= arg.index or kernel.args[number].type != arg.type:
        return None
    return kernel.args[number]


def _call_problems(call: Call) -> Iterator[str]:
    windows = call.windows()
    places = {arg: _place_of(call.kernel, arg) for arg in windows}
    for arg, place in places.items():
        if place is None:
            yield f"%{arg.name}: `cnet.same` is the number of an argument of its type before it"
        elif windows[place] != windows[arg]:
            yield f"%{arg.name} is to lie where %{place.name} does"
    written = written_arguments(call.kernel)
    for arg, window in windows.items():
        if arg not in written:
            continue
        if window.base not in WRITABLE[call.phase]:
            yield f"%{arg.name} is in {window.base}, which a {call.phase} call must not write"
        if overlaps_itself(window):
            yield f"%{arg.name} has two elements in one place"
        if "cnet.noalias" not in arg.attrs and "cnet.same" not in arg.attrs:
            continue
        place = places[arg] or arg
        allowed = "nothing" if place is arg else f"%{place.name} alone"
        for other, elsewhere in windows.items():
            if places[other] is not place and overlap(window, elsewhere):
                yield f"%{arg.name} is to overlap {allowed}, but shares bytes with %{other.name}"
