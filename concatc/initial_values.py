"""How parameters and states start: what nets write (``weight_init=msra()``), and how the IR holds it."""

from __future__ import annotations

import math
import re
import typing
from dataclasses import dataclass
from typing import Any, Literal

from concatc.ir.core import Attr


@dataclass(frozen=True)
class Init:
    """How a parameter or state starts: ``constant(value)``, ``gaussian(mean, std)``, ``uniform(low, high)``,
    ``xavier()`` (uniform, variance 1/fan_in: Glorot & Bengio 2010, Caffe's form) or ``msra()`` (gaussian, variance
    2/fan_in: He et al. 2015)."""

    kind: Literal["constant", "gaussian", "uniform", "xavier", "msra"]
    arguments: tuple[float, ...] = ()

    def to_attr(self) -> Attr:
        """As an IR attribute, ``"gaussian(0.0, 0.02)"``."""
        return f"{self.kind}({', '.join(repr(float(a)) for a in self.arguments)})"


_INIT = re.compile(r"(\w+)\(([^()]*)\)\s*")
_INIT_ARGUMENTS = {"constant": 1, "gaussian": 2, "uniform": 2, "xavier": 0, "msra": 0}


def parse_init(text: str) -> Init:
    """The inverse of :meth:`Init.to_attr`.  Raises ValueError that says what is wrong."""
    call = _INIT.fullmatch(text)
    if call is None or call[1] not in _INIT_ARGUMENTS:
        raise ValueError(f"`{text}` is no way to start a parameter")
    words = [word for word in call[2].split(",") if word.strip()]
    try:
        arguments = tuple(float(word) for word in words)
    except ValueError:
        raise ValueError(f"`{text}` needs numbers, such as `gaussian(0.0, 0.02)`") from None
    if len(arguments) != _INIT_ARGUMENTS[call[1]]:
        raise ValueError(f"`{text}`: {call[1]} takes {_INIT_ARGUMENTS[call[1]]} numbers, not {len(arguments)}")
    if not all(map(math.isfinite, arguments)):
        raise ValueError(f"`{text}` needs finite numbers")
    if call[1] == "gaussian" and arguments[1] < 0:
        raise ValueError(f"`{text}`: the deviation is negative")
    return Init(typing.cast(Any, call[1]), arguments)


def constant(value: float) -> Init:
    """All elements ``value``."""
    return Init("constant", (value,))


XAVIER = Init("xavier")
MSRA = Init("msra")
