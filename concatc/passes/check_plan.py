"""The checker: whether a plan does what its net says.  It shares no code with the planner.

Form, at any size, by arithmetic on lattices (`check_lattice`):

- windows lie within their base, aligned to their element, typed as the kernel's arguments and results
- writes of a launch share no byte with each other, with its scratch, or with a read, unless the write is that very
  window and the kernel maps it element by element
- reads and additions meet bytes that something wrote before, and that were no scratch since; parameters and inputs are
  not written
- forward launches come before backward launches
- results are written: outputs and losses by forward launches, gradients by backward launches

Values, at sizes where one number a byte is affordable (`check_values`): each launch reads what the net says, no live
byte is overwritten, first writes store, sums keep their order, results end in their places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.ir.core import FuncOp, Value
from concatc.ir.types import ELEMENT_BYTES, TensorType
from concatc.loops.bases import ARGUMENT_BASES, argument_key, result_keys
from concatc.loops.expr import Const, Expr, Ref, loads
from concatc.loops.pieces import Piece
from concatc.loops.plan import Launch, Plan, Segment, Window
from concatc.op import lowered
from concatc.passes.check_lattice import disjoint_boxes, extent_bytes, overlap, overlaps_itself
from concatc.passes.check_values import check_values

PHASE_ORDER = {"forward": 0, "backward": 1, "update": 2}
WRITABLE = {
    "forward": ("arena", "states", "outputs"),
    "backward": ("arena", "grads", "outputs"),
    "update": ("arena", "params", "optimizer", "states"),
}
STAGED_IN = ("arena", "outputs")
# Which launches make a result; an output may also be an input that the caller puts there.
MADE_IN = {
    **dict.fromkeys(("output", "loss", "total", "kept"), "forward"),
    **dict.fromkeys(("grad", "kept_grad", "input_grad"), "backward"),
}
SIMULATED_BYTES = 1 << 22


def check_plan(plan: Plan, net: FuncOp | None = None, simulated_bytes: int = SIMULATED_BYTES) -> list[Diagnostic]:
    """Everything that is wrong with a plan; empty where it is right.

    ``net`` is the main function that the plan was made of (levels 00 to 04): without it only the form is checked, and
    that no byte is read before it is written.  Plans of more than ``simulated_bytes`` in all bases are checked for form
    only.
    """
    errors = [*_check_launches(plan), *check_places(plan, net)]
    if errors:
        return errors
    if sum(b.size_bytes for b in plan.bases.values()) <= simulated_bytes:
        return [*_check_results(plan), *check_values(plan, net)]
    return [*_check_results(plan), *_check_reads(plan)]


def verify_plan(plan: Plan, net: FuncOp | None = None) -> None:
    """Raise :class:`ConcatcError` with everything that :func:`check_plan` finds."""
    errors = check_plan(plan, net)
    if errors:
        raise ConcatcError(errors)


def _check_launches(plan: Plan) -> Iterator[Diagnostic]:
    latest = "forward"
    for k, launch in enumerate(plan.launches):
        problems = list(_check_types(plan, launch))
        problems = problems or list(_check_windows(plan, launch))
        problems = problems or list(_check_aliases(plan, launch))
        if PHASE_ORDER[launch.phase] < PHASE_ORDER[latest]:
            problems.append(f"a {launch.phase} launch stands after a {latest} launch")
        latest = launch.phase
        for problem in problems:
            yield Diagnostic(f"launch {k} @{launch.kernel}: {problem}", launch.loc)


def _check_types(plan: Plan, launch: Launch) -> Iterator[str]:
    if launch.kernel not in plan.kernels:
        yield "the plan has no such kernel"
        return
    type = plan.kernels[launch.kernel].type
    for role, windows, wanted in (("read", launch.reads, type.inputs), ("write", launch.writes, type.results)):
        if len(windows) != len(wanted):
            yield f"{len(windows)} {role}s, the kernel has {len(wanted)}"
            continue
        for k, (window, tensor) in enumerate(zip(windows, wanted, strict=True)):
            found = TensorType(window.shape, window.dtype)
            if found != tensor:
                yield f"{role} {k} is {found}, the kernel has {tensor}"
    if len(launch.add) != len(launch.writes):
        yield f"{len(launch.add)} add flags for {len(launch.writes)} writes"


def _check_windows(plan: Plan, launch: Launch) -> Iterator[str]:
    scratch = [("scratch", launch.scratch)] if launch.scratch is not None else []
    reads = [(f"read {k}", w) for k, w in enumerate(launch.reads)]
    writes = [(f"write {k}", w) for k, w in enumerate(launch.writes)]
    for role, window in [*reads, *writes, *scratch]:
        yield from (f"{role} {problem}" for problem in _check_window(plan, window))
    for role, window in writes:
        if overlaps_itself(window):
            yield f"{role} has two elements in one place"
        if window.base not in WRITABLE[launch.phase]:
            yield f"{role} is in {window.base}, which a {launch.phase} launch must not write"
    if launch.scratch is not None and launch.scratch.base != "arena":
        yield f"scratch is in {launch.scratch.base}, not in the arena"


def _check_window(plan: Plan, window: Window) -> Iterator[str]:
    if window.base not in plan.bases:
        yield f"is in the unknown base {window.base}"
        return
    if len(window.strides) != len(window.shape) or any(n < 0 for n in window.shape):
        yield "has a wrong shape or wrong strides"
        return
    low, end = extent_bytes(window)
    limit = plan.bases[window.base].size_bytes
    if low < 0 or end > limit:
        yield f"touches bytes {low} to {end} of {window.base}, which has {limit}"
    if window.offset_bytes % ELEMENT_BYTES[window.dtype]:
        yield f"starts at byte {window.offset_bytes}, which is not aligned for {window.dtype}"


def _check_aliases(plan: Plan, launch: Launch) -> Iterator[str]:
    for k, window in enumerate(launch.writes):
        for j, other in enumerate(launch.writes[:k]):
            if overlap(window, other):
                yield f"write {k} overlaps write {j}"
        for j, read in enumerate(launch.reads):
            if not overlap(window, read):
                continue
            if not _is_same(window, read):
                yield f"write {k} overlaps read {j} and is another window"
            elif not _in_place(plan.kernels[launch.kernel], j, k):
                yield f"write {k} is read {j}, but the kernel does not map it element by element"
    if launch.scratch is None:
        return
    for role, windows in (("read", launch.reads), ("write", launch.writes)):
        for k, window in enumerate(windows):
            if overlap(window, launch.scratch):
                yield f"the scratch overlaps {role} {k}"


def _is_same(a: Window, b: Window) -> bool:
    """Whether two windows are one; strides of axes of one element do not count."""
    if (a.offset_bytes, a.shape, a.dtype) != (b.offset_bytes, b.shape, b.dtype):
        return False
    return all(n == 1 or s == t for n, s, t in zip(a.shape, a.strides, b.strides, strict=True))


def _in_place(kernel: FuncOp, read: int, write: int) -> bool:
    """Whether result ``write`` may be stored where argument ``read`` lies.

    Everything that the argument flows into must be one element from one element at the same index.  If it flows into
    other results too, all of them must have its shape, so that one loop nest visits each element once.
    """
    argument = kernel.args[read]
    results = kernel.ret.operands
    reached: set[Value] = {argument}
    for op in kernel.ops:
        if op is kernel.ret:
            break
        here = {k for k, v in enumerate(op.operands) if v in reached}
        if not here:
            continue
        temps: set[int] = set()
        for piece in lowered(op):
            touched = any(
                (ref.kind == "operand" and ref.index in here) or (ref.kind == "temp" and ref.index in temps)
                for ref in piece.reads
            )
            if touched and not _same_index(piece, here, temps):
                return False
            if touched and piece.target.kind == "temp":
                temps.add(piece.target.index)
        reached.update(op.results)
    if results[write] not in reached or argument in results:
        return False
    return len([r for r in results if r in reached]) == 1 or all(r.shape == argument.shape for r in results)


def _same_index(piece: Piece, operands: set[int], temps: set[int]) -> bool:
    if piece.combine != "store" or not _is_index(piece.at, piece) or piece.where is not None:
        return False
    if tuple(a.extent for a in piece.axes) != piece.target.shape:
        return False

    def follows(ref: Ref) -> bool:
        return ref.index in (operands if ref.kind == "operand" else temps if ref.kind == "temp" else ())

    return all(_is_index(load.at, piece) for load in loads(piece.value) if follows(load.ref))


def _is_index(at: Sequence[Expr], piece: Piece) -> bool:
    """Whether ``at`` is the index that the piece runs over; along an axis of one element that is 0."""
    axes = piece.axes
    return len(at) == len(axes) and all(
        x == axis or (axis.extent == 1 and isinstance(x, Const) and x.value == 0)
        for x, axis in zip(at, axes, strict=True)
    )


def check_places(plan: Plan, net: FuncOp | None = None) -> Iterator[Diagnostic]:
    """Values lie within their bases, in disjoint parts; no two arguments or results share a byte.

    An input may be a part of an output or a kept blob.
    """
    interface: list[tuple[str, Window]] = []
    shapes = _interface_shapes(net) if net is not None else {}
    for name, segments in plan.values.items():
        if name in shapes:
            yield from _check_cover(name, segments, shapes[name])
        for segment in segments:
            for problem in _check_window(plan, segment.window):
                yield Diagnostic(f"a segment of {name} {problem}")
        if not disjoint_boxes([(s.start, s.window.shape) for s in segments]):
            yield Diagnostic(f"two segments of {name} hold the same elements")
        if ":" in name:
            interface += [(name, s.window) for s in segments]
            yield from _check_argument(name, segments)
    by_base: dict[str, list[tuple[int, int, str, Window]]] = {}
    for name, window in interface:
        by_base.setdefault(window.base, []).append((*extent_bytes(window), name, window))
    for places in by_base.values():
        yield from _check_disjoint(sorted(places, key=lambda p: p[:3]))


def _check_argument(name: str, segments: Sequence[Segment]) -> Iterator[Diagnostic]:
    """Arguments lie in their base, inputs also in the arena and in outputs; no two elements in one place."""
    kind = name.partition(":")[0]
    if kind not in ARGUMENT_BASES:
        return
    allowed = (ARGUMENT_BASES[kind], *(STAGED_IN if kind == "input" else ()))
    for segment in segments:
        if segment.window.base not in allowed:
            yield Diagnostic(f"{name} lies in {segment.window.base}; it may lie in {' and '.join(allowed)}")
        if overlaps_itself(segment.window):
            yield Diagnostic(f"{name} has two elements in one place")


def _check_results(plan: Plan) -> Iterator[Diagnostic]:
    """Something of each result is written by a launch of its phase; a caller of `forward` reads what that made."""
    made: dict[tuple[str, str], list[Window]] = {}
    for launch in plan.launches:
        for window in launch.writes:
            made.setdefault((launch.phase, window.base), []).append(window)
    for name, segments in plan.values.items():
        kind = name.partition(":")[0]
        for window in [segment.window for segment in segments if 0 not in segment.window.shape]:
            if kind == "input":
                made.setdefault(("forward", window.base), []).append(window)
    for name, segments in plan.values.items():
        phase = MADE_IN.get(name.partition(":")[0])
        for window in [segment.window for segment in segments if 0 not in segment.window.shape]:
            if phase is not None and not any(overlap(window, other) for other in made.get((phase, window.base), ())):
                yield Diagnostic(f"{name} is written by no {phase} launch")


def _interface_shapes(net: FuncOp) -> dict[str, tuple[int, ...]]:
    shapes = {argument_key(arg): arg.shape for arg in net.args}
    return shapes | {key: v.shape for key, v in zip(result_keys(net), net.ret.operands, strict=True)}


def _check_cover(name: str, segments: Sequence[Segment], shape: tuple[int, ...]) -> Iterator[Diagnostic]:
    """The segments of an argument or result lie within its shape and hold all of its elements."""
    for s in segments:
        ends = [a + n for a, n in zip(s.start, s.window.shape, strict=False)]
        within = len(s.start) == len(ends) == len(shape) and all(e <= n for e, n in zip(ends, shape, strict=True))
        if not within or min(s.start, default=0) < 0:
            yield Diagnostic(f"a segment of {name} leaves its shape {list(shape)}")
            return
    held, elements = sum(math.prod(s.window.shape) for s in segments), math.prod(shape)
    if held < elements:
        yield Diagnostic(f"{name} has {held} of its {elements} elements")


def _check_disjoint(places: Sequence[tuple[int, int, str, Window]]) -> Iterator[Diagnostic]:
    for k, (_, end, name, window) in enumerate(places):
        for low, _, other_name, other in places[k + 1 :]:
            if low >= end:
                break
            kinds = {name.partition(":")[0], other_name.partition(":")[0]}
            may_share = window.base == "outputs" and "input" in kinds and kinds & {"output", "kept"}
            if not may_share and overlap(window, other):
                yield Diagnostic(f"{name} and {other_name} share bytes of {window.base}")


def _check_reads(plan: Plan) -> Iterator[Diagnostic]:
    """Reads and additions overlap something written before (by a launch, or an argument of the net).

    No scratch memory has been there since.
    """
    written = _Written()
    for name, segments in plan.values.items():
        if name.partition(":")[0] in ARGUMENT_BASES:
            for segment in segments:
                written.add(segment.window, -1)
    if "optimizer" in plan.bases:  # its state is there from the start
        written.add(Window("optimizer", 0, (plan.bases["optimizer"].size_bytes,), (1,), "i8"), -1)
    for k, launch in enumerate(plan.launches):
        added = [w for w, add in zip(launch.writes, launch.add, strict=True) if add]
        for window in [*launch.reads, *added]:
            problem = written.problem(window)
            if problem:
                where = f"{window.base}+{window.offset_bytes}"
                yield Diagnostic(f"launch {k} @{launch.kernel}: {where} {problem}", launch.loc)
        if launch.scratch is not None:
            written.scratch.append((k, *extent_bytes(launch.scratch), launch.scratch))
        for window in launch.writes:
            written.add(window, k)


class _Written:
    """The windows that were written, by base, the latest last, and the scratch memory of launches."""

    def __init__(self) -> None:
        self.windows: dict[str, dict[Window, tuple[int, int, int]]] = {}  # launch, first byte, one past the last
        self.scratch: list[tuple[int, int, int, Window]] = []

    def add(self, window: Window, launch: int) -> None:
        """Note a write."""
        known = self.windows.setdefault(window.base, {})
        known.pop(window, None)
        known[window] = (launch, *extent_bytes(window))

    def problem(self, window: Window) -> str:
        """What is wrong with a window that is read; empty where nothing is."""
        if 0 in window.shape:
            return ""
        low, end = extent_bytes(window)
        whole = self.windows.get(window.base, {}).get(window)
        latest = whole[0] if whole is not None else self._latest(window, low, end)
        if latest is None:
            return "was never written"
        for launch, begin, stop, scratch in reversed(self.scratch):
            if launch <= latest:
                break
            if low < stop and begin < end and overlap(window, scratch):
                again = self._latest(window, low, end)
                return "" if again is not None and again >= launch else f"was scratch of launch {launch} since"
        return ""

    def _latest(self, window: Window, low: int, end: int) -> int | None:
        """The last launch that wrote a byte of a window; -1 is the caller."""
        for other, (launch, begin, stop) in reversed(self.windows.get(window.base, {}).items()):
            if low < stop and begin < end and overlap(window, other):
                return launch
        return None
