"""How parameters and states start: seeded, and independent of each other.

The values of a parameter depend on the seed and on its path alone, so adding a layer changes no other layer.  Bits come
from PCG64, whose stream NumPy keeps stable; uniform and normal numbers are made of them here, for the same reason.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from concatc.diagnostics import ConcatcError
from concatc.ir.types import TensorType
from concatc.loops.memory import Array
from concatc.op import parse_init


def initial_value(init: str, type: TensorType, path: str, seed: int, fan_in: int = 0) -> Array:
    """The first value of a parameter, float64, of the shape of ``type``.

    ``init`` is the text of ``op.Init``: ``constant(v)``, ``gaussian(mean, std)``, ``uniform(low, high)``, ``xavier()``
    (uniform with variance 1/fan_in; Glorot & Bengio 2010 in Caffe's form) or ``msra()`` (normal with variance 2/fan_in;
    He et al. 2015).  ``fan_in=0`` means ``prod(shape[1:])``.
    """
    try:
        parsed = parse_init(init)
    except ValueError as error:
        raise ConcatcError(f"{path}: {error}") from None
    kind, arguments = parsed.kind, list(parsed.arguments)
    fan_in = fan_in or max(math.prod(type.shape[1:]), 1)
    match kind, arguments:
        case "constant", [value]:
            return np.full(type.shape, value)
        case "uniform", [low, high]:
            return low + (high - low) * _uniform(type, path, seed)
        case "gaussian", [mean, std]:
            return mean + std * _normal(type, path, seed)
        case "xavier", []:
            bound = math.sqrt(3.0 / fan_in)
            return bound * (2.0 * _uniform(type, path, seed) - 1.0)
        case "msra", []:
            return math.sqrt(2.0 / fan_in) * _normal(type, path, seed)
    raise ConcatcError(f"{path}: `{init}` is no way to start a parameter")


def _bits(numel: int, path: str, seed: int) -> Array:
    words = np.frombuffer(hashlib.sha256(path.encode()).digest(), np.uint32)
    sequence = np.random.SeedSequence([seed, *(int(w) for w in words)])
    return np.asarray(np.random.PCG64(sequence).random_raw(numel), np.uint64).reshape(numel)


def _uniform(type: TensorType, path: str, seed: int) -> Array:
    """Uniform in [0, 1): the upper 53 bits of each word."""
    return ((_bits(type.numel, path, seed) >> np.uint64(11)) * 2.0**-53).reshape(type.shape)


def _normal(type: TensorType, path: str, seed: int) -> Array:
    """Normal with mean 0 and variance 1, by Box and Muller (1958)."""
    pairs = (type.numel + 1) // 2
    unit = (_bits(2 * pairs, path, seed) >> np.uint64(11)) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log1p(-unit[:pairs]))
    angle = 2.0 * math.pi * unit[pairs:]
    flat = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return flat[: type.numel].reshape(type.shape)
