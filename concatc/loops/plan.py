"""The plan: kernel launches in order over a few bases, each argument a window into one of them.

    launch k3_linear  reads  arena+0 [96, 128] strides [128, 1],  params+0 [10, 128] strides [128, 1]
                      writes outputs+0 [96, 10] strides [10, 1]  (store)

Offsets are bytes, strides are elements.  A plan is all that a step runs: the plan interpreter, the checker and every
target read nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from concatc.diagnostics import Loc
from concatc.ir.core import FuncOp
from concatc.ir.types import ELEMENT_BYTES, TensorType, dense_strides

ALIGN_BYTES = 64

# arena: reused within a step; the others live across steps.  A base is one block of memory.
BaseKind = Literal["inputs", "params", "grads", "states", "outputs", "optimizer", "arena"]


@dataclass(frozen=True)
class Base:
    """One block of memory that the runtime owns; its address may change between steps."""

    name: BaseKind
    size_bytes: int


@dataclass(frozen=True)
class Window:
    """A strided part of a base: element ``i`` lies at ``offset_bytes + itemsize * sum(i[d] * strides[d])``."""

    base: str
    offset_bytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str = "f32"

    @staticmethod
    def dense(base: str, offset_bytes: int, type: TensorType) -> Window:
        """A row-major window."""
        return Window(base, offset_bytes, type.shape, dense_strides(type.shape), type.dtype)

    def sub(self, start: Sequence[int], shape: Sequence[int]) -> Window:
        """The window of the elements ``start .. start + shape``."""
        step = ELEMENT_BYTES[self.dtype]
        offset = self.offset_bytes + step * sum(a * s for a, s in zip(start, self.strides, strict=True))
        return replace(self, offset_bytes=offset, shape=tuple(shape))

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie row-major without gaps."""
        return self.strides == dense_strides(self.shape)

    @property
    def end_bytes(self) -> int:
        """One past the last byte touched; ``offset_bytes`` where the window is empty."""
        if 0 in self.shape:
            return self.offset_bytes
        last = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return self.offset_bytes + ELEMENT_BYTES[self.dtype] * (last + 1)


@dataclass(frozen=True)
class Segment:
    """The part ``start .. start + window.shape`` of a value, and where it is stored."""

    start: tuple[int, ...]
    window: Window


@dataclass(frozen=True)
class Launch:
    """One kernel call.  ``writes[k]`` takes result ``k``: stored, or added where ``add[k]``."""

    kernel: str
    reads: tuple[Window, ...]
    writes: tuple[Window, ...]
    add: tuple[bool, ...]
    scratch: Window | None = None  # bytes of the arena that the kernel may use during the call
    phase: Literal["forward", "backward", "update"] = "forward"
    loc: Loc | None = None


# copy: a launch that only moves or adds elements;  second store: a kernel stores a result in one more place;
# layout conversion: a launch that only changes how elements lie;  input staging: an input is put where a plan reads it.
RemarkKind = Literal["copy", "second store", "layout conversion", "input staging"]


@dataclass(frozen=True)
class Remark:
    """Bytes that had to be moved: what, how many, where in the source, in which column of the report."""

    message: str
    bytes: int
    loc: Loc | None = None
    kind: RemarkKind = "copy"


def interface_key(kind: str, name: str) -> str:
    """The key in :attr:`Plan.values` of an argument or result of the net, from ``cnet.kind`` and ``cnet.name``."""
    return f"{kind}:{name}"


@dataclass
class Plan:
    """Bases, kernels and launches.

    ``kernels[name]`` is the tensor-level meaning of a kernel: a function of ops that ends in ``func.return``.  Its
    arguments are ``reads``, its results are ``writes``.  ``values`` says where each named value lives while it is
    live: a value inside the net under its name, every argument and result of the net under its
    :func:`interface_key` (``input:a``, ``param:ha.weight``, ``grad:ha.weight``), which is there for the whole step.
    The new value of a state ends the step in the window of the state, so ``state:NAME`` stands once.  ``net`` is the
    declaration of the net (`declaration.py`), where the plan is of one.
    """

    name: str
    bases: dict[str, Base] = field(default_factory=dict)
    kernels: dict[str, FuncOp] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    values: dict[str, tuple[Segment, ...]] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    net: FuncOp | None = None

    def phase(self, *phases: str) -> list[Launch]:
        """The launches of these phases, in order."""
        return [launch for launch in self.launches if launch.phase in phases]
