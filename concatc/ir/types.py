"""The types of values: tensors (graph levels), memrefs (plan and loops), scalars, functions.

Printed as MLIR prints them: ``tensor<64x128xf32>``, ``memref<64x128xf32, strided<[256, 1], offset: 64>>``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ELEMENT_BYTES = {"f32": 4, "f64": 8, "i32": 4, "i64": 8, "i1": 1, "i8": 1}
NUMPY_DTYPES: dict[str, np.dtype] = {
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64),
    "i1": np.dtype(np.bool_),
    "i8": np.dtype(np.int8),
}
FLOATS = ("f32", "f64")
INTEGERS = ("i32", "i64")


class Type:
    """Base of all types; compared by value."""


@dataclass(frozen=True, slots=True)
class ScalarType(Type):
    """``f32``, ``f64``, ``i1``, ``i32``, ``i64``, ``i8`` or ``index``."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class TensorType(Type):
    """A dense tensor with a static shape."""

    shape: tuple[int, ...]
    dtype: str = "f32"

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of a dense copy."""
        return self.numel * ELEMENT_BYTES[self.dtype]

    @property
    def is_float(self) -> bool:
        """Whether gradients can flow through a value of this type."""
        return self.dtype in FLOATS

    def with_shape(self, shape: tuple[int, ...]) -> TensorType:
        """The same element type with another shape."""
        return TensorType(tuple(shape), self.dtype)

    def __str__(self) -> str:
        return f"tensor<{''.join(f'{n}x' for n in self.shape)}{self.dtype}>"


@dataclass(frozen=True, slots=True)
class MemRefType(Type):
    """A window into memory.  ``None`` stands for ``?`` (known at run time); ``strides=None`` is the identity layout.

    Strides and offset count elements, as in MLIR.
    """

    shape: tuple[int | None, ...]
    dtype: str = "f32"
    strides: tuple[int | None, ...] | None = None
    offset: int | None = 0

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __str__(self) -> str:
        dims = "".join(f"{'?' if n is None else n}x" for n in self.shape)
        if self.strides is None:
            return f"memref<{dims}{self.dtype}>"
        strides = ", ".join("?" if s is None else str(s) for s in self.strides)
        offset = "" if self.offset == 0 else f", offset: {'?' if self.offset is None else self.offset}"
        return f"memref<{dims}{self.dtype}, strided<[{strides}]{offset}>>"


@dataclass(frozen=True, slots=True)
class FunctionType(Type):
    """``(inputs) -> results``."""

    inputs: tuple[Type, ...]
    results: tuple[Type, ...]

    def __str__(self) -> str:
        results = ", ".join(map(str, self.results))
        if len(self.results) != 1:
            results = f"({results})"
        return f"({', '.join(map(str, self.inputs))}) -> {results}"


INDEX = ScalarType("index")
I1 = ScalarType("i1")
I32 = ScalarType("i32")
I64 = ScalarType("i64")
F32 = ScalarType("f32")
F64 = ScalarType("f64")


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides, in elements.  ``(2, 3, 4) -> (12, 4, 1)``."""
    strides = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))
