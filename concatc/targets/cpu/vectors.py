"""Types and constants of vectors, each made once: a tile is written out with the same few thousands of times."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir

I32 = ir.IntType(32)


@functools.lru_cache(256)
def vector_type(element: Any, lanes: int) -> Any:
    """A vector of so many elements."""
    return ir.VectorType(element, lanes)


@functools.lru_cache(4096)
def integers(element: Any, numbers: tuple[int, ...]) -> Any:
    """A vector of integers."""
    return ir.Constant(vector_type(element, len(numbers)), list(numbers))


@functools.lru_cache(256)
def undefined(element: Any, lanes: int) -> Any:
    """A vector of anything."""
    return ir.Constant(vector_type(element, lanes), ir.Undefined)


def same(constant: Any, lanes: int) -> Any:
    """A constant in all lanes."""
    return _same(_Constant(constant), lanes)


class _Constant:
    """A constant as a key: by its text, since numbers that are equal may have different signs."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.key = (value.type, value.get_reference())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constant) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@functools.lru_cache(4096)
def _same(constant: _Constant, lanes: int) -> Any:
    value = constant.value
    return ir.Constant(vector_type(value.type, lanes), [value.constant] * lanes)
