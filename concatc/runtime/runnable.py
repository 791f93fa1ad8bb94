"""What running a phase needs to know besides its code, as a record and as plain data: a written module holds it.

    {"name": "thread", "inputs": [["a", "f32", [64, 64], ["x", ""]]], "params": [..], "loss_weights": {"main": 1.0}, ..,
     "bases": {"inputs": 32768, ..}, "arena_bytes": 65536,
     "slots": [["input:a", "inputs", 0, "f32", [64, 64], [64, 1]], ..],
     "index_checks": [["input", "label", 10, null, "softmax_loss", null, null], ..]}

Data that was read is checked before it becomes a record: types and sizes of everything, slots against their bases,
names against slots.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from concatc.diagnostics import Loc
from concatc.ir.types import ELEMENT_BYTES, INTEGERS, TensorType
from concatc.loops.bases import Interface
from concatc.loops.memory import Array
from concatc.loops.plan import BaseKind, Window, interface_key
from concatc.runtime.index_check import KINDS, IndexCheck, positions_of, ranges_of
from concatc.runtime.signature import Input, Parameter, Signature, State
from concatc.runtime.source import RunnablePhase

T = TypeVar("T")
BASES: tuple[BaseKind, ...] = ("inputs", "params", "grads", "states", "outputs")
KEYS = (
    "name",
    "inputs",
    "params",
    "states",
    "loss_weights",
    "outputs",
    "kept",
    "random",
    "bases",
    "arena_bytes",
    "slots",
    "index_checks",
)
LARGEST = 1 << 62  # of sizes and offsets, in bytes
MAX_RANK = 64


class DataError(Exception):
    """The data is no such record; says what is wrong."""


@dataclass(frozen=True)
class Runnable:
    """One phase of a net as the runtime sees it (see `source.RunnablePhase`)."""

    signature: Signature
    interface: Interface
    index_checks: tuple[IndexCheck, ...]
    arena_bytes: int


def data_of(phase: RunnablePhase) -> dict[str, Any]:
    """A phase as data that JSON takes."""
    signature, interface = phase.signature, phase.interface
    return {
        "name": signature.name,
        "inputs": [[i.name, *_type_data(i.type), i.dims] for i in signature.inputs.values()],
        "params": [[p.name, *_type_data(p.type), p.init, p.fan_in, p.lr, p.decay] for p in signature.params.values()],
        "states": [[s.name, *_type_data(s.type), s.init] for s in signature.states.values()],
        "loss_weights": signature.loss_weights,
        "outputs": [[name, *_type_data(type)] for name, type in signature.outputs.items()],
        "kept": [[name, *_type_data(type)] for name, type in signature.kept.items()],
        "random": signature.random,
        "bases": {name: base.size_bytes for name, base in interface.bases.items()},
        "arena_bytes": phase.arena_bytes,
        "slots": [[key, w.base, w.offset_bytes, w.dtype, w.shape, w.strides] for key, w in interface.slots.items()],
        "index_checks": [
            [c.kind, c.name, c.extent, c.ignored, c.op, _loc_data(c.loc), _positions_data(c.positions)]
            for c in phase.index_checks
        ],
    }


def _type_data(type: TensorType) -> tuple[str, tuple[int, ...]]:
    return type.dtype, type.shape


def _loc_data(loc: Loc | None) -> list[str | int] | None:
    return None if loc is None else [loc.file, loc.line, loc.column, loc.end_line, loc.end_column]


def _positions_data(positions: Array | None) -> list[tuple[int, int, int]] | None:
    return None if positions is None else list(ranges_of(positions))


def from_data(data: Any) -> Runnable:
    """The record that :func:`data_of` gave.  Raises :class:`DataError`."""
    if not isinstance(data, dict) or set(data) != set(KEYS):
        _wrong(f"it does not hold {', '.join(KEYS)}")
    signature = Signature(
        name=_text(data["name"], "the name of the net"),
        inputs={row[0]: _input(row) for row in _rows(data, "inputs", 4)},
        params={row[0]: _parameter(row) for row in _rows(data, "params", 7)},
        states={row[0]: State(row[0], _type(row), _text(row[3], row[0])) for row in _rows(data, "states", 4)},
        loss_weights={name: _number(weight, name) for name, weight in _names(data, "loss_weights").items()},
        outputs={row[0]: _type(row) for row in _rows(data, "outputs", 3)},
        kept={row[0]: _type(row) for row in _rows(data, "kept", 3)},
        random=_is(bool, data["random"], "random"),
    )
    arena_bytes = _size(data["arena_bytes"], "the arena")
    sizes = _names(data, "bases")
    if set(sizes) != set(BASES):
        _wrong(f"its bases are not {', '.join(BASES)}")
    interface = Interface(size_bytes={base: _size(sizes[base], base) for base in BASES})
    known = {name: base.size_bytes for name, base in interface.bases.items()} | {"arena": arena_bytes}
    for row in _rows(data, "slots", 6):
        interface.slots[row[0]] = _slot(row, known)
    for key, type in _needed(signature):
        if key not in interface.slots:
            _wrong(f"`{key}` lies nowhere")
        slot = interface.slots[key]
        if (slot.shape, slot.dtype) != (type.shape, type.dtype):
            _wrong(f"`{key}` is {type}, but its slot is not")
    for key in [interface_key("param", name) for name in signature.params]:
        slot = interface.slots[key]
        if slot != Window.dense(slot.base, slot.offset_bytes, TensorType(slot.shape, slot.dtype)):
            _wrong(f"`{key}` does not lie in one piece")
    checks = tuple(_index_check(row, signature) for row in _rows(data, "index_checks", 7))
    return Runnable(signature, interface, checks, arena_bytes)


def _needed(signature: Signature) -> Iterator[tuple[str, TensorType]]:
    """The slots that a net with this signature has at least."""
    for name, spec in signature.inputs.items():
        yield interface_key("input", name), spec.type
    for name, parameter in signature.params.items():
        yield interface_key("param", name), parameter.type
    for name, state in signature.states.items():
        yield interface_key("state", name), state.type
    for kind, values in (("output", signature.outputs), ("kept", signature.kept)):
        for name, type in values.items():
            yield interface_key(kind, name), type


def _wrong(what: str) -> NoReturn:
    raise DataError(what)


def _is(kind: type[T], value: Any, what: str) -> T:
    if type(value) is not kind:
        _wrong(f"{what} is {str(value)[:40]}, no {kind.__name__}")
    return value


def _text(value: Any, what: str) -> str:
    return _is(str, value, what)


def _number(value: Any, what: str) -> float:
    return _is(float, value, what)


def _size(value: Any, what: str) -> int:
    size = _is(int, value, f"the size of {what}")
    if not 0 <= size < LARGEST:
        _wrong(f"{what} has a size of {size}")
    return size


def _names(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    return _is(dict, data[key], key)


def _rows(data: Mapping[str, Any], key: str, length: int) -> Iterator[list[Any]]:
    """Rows that begin with a name."""
    for row in _is(list, data[key], key):
        if len(_is(list, row, f"a row of {key}")) != length:
            _wrong(f"a row of {key} has {len(row)} entries, not {length}")
        _text(row[0], f"the name in a row of {key}")
        yield row


def _type(row: list[Any]) -> TensorType:
    """The type in a row: name, element type, shape."""
    name, dtype, shape, *_ = row
    if _text(dtype, f"the element type of `{name}`") not in ELEMENT_BYTES:
        _wrong(f"`{name}` is of an unknown element type")
    if len(_is(list, shape, f"the shape of `{name}`")) > MAX_RANK:
        _wrong(f"`{name}` has {len(shape)} axes")
    extents = tuple(_size(n, f"an axis of `{name}`") for n in shape)
    if math.prod(extents) >= LARGEST:
        _wrong(f"`{name}` is too large")
    return TensorType(extents, sys.intern(dtype))


def _input(row: list[Any]) -> Input:
    type = _type(row)
    dims = tuple(_text(dim, f"a dim of `{row[0]}`") for dim in _is(list, row[3], f"the dims of `{row[0]}`"))
    if len(dims) != type.rank:
        _wrong(f"`{row[0]}` has {type.rank} axes and {len(dims)} dims")
    return Input(row[0], type, dims)


def _parameter(row: list[Any]) -> Parameter:
    name, _, _, init, fan_in, lr, decay = row
    return Parameter(
        name,
        _type(row),
        sys.intern(_text(init, name)),
        _size(fan_in, f"fan_in of {name}"),
        _number(lr, name),
        _number(decay, name),
    )


def _slot(row: list[Any], size_bytes: Mapping[str, int]) -> Window:
    key, base, offset, dtype, shape, strides = row
    if _text(base, f"the base of `{key}`") not in size_bytes:
        _wrong(f"`{key}` lies in an unknown base")
    type = _type([key, dtype, shape])
    steps = tuple(_size(n, f"a stride of `{key}`") for n in _is(list, strides, f"the strides of `{key}`"))
    if len(steps) != type.rank:
        _wrong(f"`{key}` has {type.rank} axes and {len(steps)} strides")
    window = Window(sys.intern(base), _size(offset, f"the offset of `{key}`"), type.shape, steps, type.dtype)
    if window.offset_bytes % ELEMENT_BYTES[type.dtype] or window.end_bytes > size_bytes[base]:
        _wrong(f"`{key}` does not lie in {base}, which has {size_bytes[base]} bytes")
    return window


def _index_check(row: list[Any], signature: Signature) -> IndexCheck:
    kind, name, extent, ignored, op, loc, at = row
    known: Mapping[str, Input | State] = signature.inputs if kind == "input" else signature.states
    if kind not in KINDS or type(name) is not str or name not in known or known[name].type.dtype not in INTEGERS:
        _wrong(f"`{name}` is no input or state of integers, so it holds no indices")
    positions = None
    if at is not None:
        ranges = tuple(
            tuple(part) if isinstance(part, list) else part for part in _is(list, at, f"indices of `{name}`")
        )
        positions = positions_of(ranges, known[name].type.numel)
        if positions is None:
            _wrong(f"the indices of `{name}` are not all among its elements")
    where = None
    if loc is not None:
        file, *numbers = _is(list, loc, f"a place of `{name}`")
        if len(numbers) != 4:
            _wrong(f"a place of `{name}` is none")
        where = Loc(_text(file, "a file"), *(_size(n, "a line or column") for n in numbers))
    least = None if ignored is None else _is(int, ignored, f"what `{name}` may be besides")
    return IndexCheck(kind, name, positions, _size(extent, f"what `{name}` indexes"), least, _text(op, "an op"), where)
