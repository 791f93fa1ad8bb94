"""Text of attributes and types: ``3 : i64``, ``1.0e-05 : f64``, ``array<i64: 4, 4>``, ``{a = true}``, ``!t4x8``.

Attributes are plain Python data (:data:`concatc.ir.core.Attr`):

| Python | text |
|---|---|
| ``True``, ``False`` | ``true``, ``false``; in a dictionary ``True`` is the name alone: ``{transpose}`` |
| ``None`` | ``none`` |
| ``3``, ``0.5`` | ``3 : i64``, ``0.5 : f64`` |
| ``(4, 4)``, ``(0.5,)``, ``()`` | ``array<i64: 4, 4>``, ``array<f64: 0.5>``, ``array<i64>`` |
| ``("a", 1)`` | ``["a", 1 : i64]`` |
| ``"a"``, ``{"k": 1}``, a type, ``SymbolRef("f")`` | ``"a"``, ``{k = 1 : i64}``, ``tensor<4xf32>``, ``@f`` |
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping

from concatc.ir.core import Attr, SymbolRef
from concatc.ir.lexer import quote
from concatc.ir.types import FunctionType, Type

_BARE = re.compile(r"[A-Za-z_][\w$.]*\Z", re.ASCII)
_FLOAT_BITS = {"f32": ("<f", "<I", 8), "f64": ("<d", "<Q", 16)}


def float_text(value: float, type: str = "f64") -> str:
    """A float literal, always with a point; what is not finite is the bits, ``0x7F800000``."""
    if not math.isfinite(value):
        pack, unpack, digits = _FLOAT_BITS[type]
        (bits,) = struct.unpack(unpack, struct.pack(pack, value))
        return f"0x{bits:0{digits}X}"
    text = repr(float(value))
    if "." in text:
        return text
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}.0{e}{exponent}"


def float_value(text: str, type: str) -> float:
    """The value of a float literal or of its bits.  Raises ValueError where the bits do not fit the type."""
    if not text.startswith("0x"):
        return float(text)
    pack, unpack, digits = _FLOAT_BITS[type]
    if len(text) - 2 > digits:
        raise ValueError(f"{text} has more than {digits} digits, those of an {type}")
    (value,) = struct.unpack(pack, struct.pack(unpack, int(text, 16)))
    return float(value)


def symbol_text(name: str) -> str:
    """``@name``, quoted where it has to be."""
    return f"@{name}" if _BARE.match(name) else f"@{quote(name)}"


def attr_text(value: Attr, type_text: Callable[[Type], str] = str, typed: bool = True) -> str:
    """The text of one attribute; ``type_text`` prints types (aliases).

    Without ``typed`` numbers stand alone, ``3``, ``0.5``, ``[4, 4]``; MLIR too takes them for i64 and f64.
    """
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value} : i64" if typed else str(value)
        case float():
            # The bits of an infinity or a NaN would be read as an integer.
            return f"{float_text(value)} : f64" if typed or not math.isfinite(value) else float_text(value)
        case str():
            return quote(value)
        case SymbolRef():
            return symbol_text(value.name)
        case tuple() | list():
            return _sequence_text(tuple(value), type_text, typed)
        case Mapping():
            return dict_text(value, type_text, typed=typed)
        case FunctionType():
            return str(value)
        case Type():
            return type_text(value)
    raise TypeError(f"{value!r} is no attribute")


def _sequence_text(values: tuple[Attr, ...], type_text: Callable[[Type], str], typed: bool) -> str:
    if not typed:
        return f"[{', '.join(attr_text(v, type_text, typed) for v in values)}]"
    if not values:
        return "array<i64>"
    if all(type(v) is int for v in values):
        return f"array<i64: {', '.join(map(str, values))}>"
    if all(type(v) is float for v in values):
        return f"array<f64: {', '.join(float_text(v) for v in values)}>"  # type: ignore[arg-type]
    return f"[{', '.join(attr_text(v, type_text) for v in values)}]"


def dict_text(
    values: Mapping[str, Attr], type_text: Callable[[Type], str] = str, short: bool = True, typed: bool = True
) -> str:
    """``{a = 1 : i64, transpose}``; with ``short=False`` ``{a = 1 : i64, transpose = true}``."""
    entries = []
    for name, value in values.items():
        key = name if _BARE.match(name) else quote(name)
        entries.append(key if short and value is True else f"{key} = {attr_text(value, type_text, typed)}")
    return f"{{{', '.join(entries)}}}"
