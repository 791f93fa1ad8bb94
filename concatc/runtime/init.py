"""How parameters and states start: seeded, and independent of each other.

The values of a parameter depend on the seed and on its path alone, so adding a layer changes no other layer.  Bits come
from PCG64, whose stream NumPy keeps stable; uniform and normal numbers are made of them here, for the same reason.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from concatc.diagnostics import ConcatcError
from concatc.loops.memory import Array

BLOCK = 2048  # elements that are made at a time


def initialise(array: Array, init: str, path: str, seed: int, fan_in: int = 0) -> None:
    """Give a parameter its first value, in place; what that takes besides does not grow with the parameter.

    ``init`` is the text of ``op.Init``: ``constant(v)``, ``gaussian(mean, std)``, ``uniform(low, high)``, ``xavier()``
    (uniform with variance 1/fan_in; Glorot & Bengio 2010 in Caffe's form) or ``msra()`` (normal with variance 2/fan_in;
    He et al. 2015).  ``fan_in=0`` means ``prod(shape[1:])``.  ``array`` is contiguous.
    """
    from concatc.initial_values import parse_init  # a net is loaded without ops

    try:
        parsed = parse_init(init)
    except ValueError as error:
        raise ConcatcError(f"{path}: {error}") from None
    flat = array.reshape(-1)
    assert np.shares_memory(flat, array) or not array.size
    fan_in = fan_in or max(math.prod(array.shape[1:]), 1)
    match parsed.kind, parsed.arguments:
        case "constant", (value,):
            flat[...] = value
        case "uniform", (low, high):
            for at, unit in _uniform(flat.size, path, seed):
                flat[at] = low + (high - low) * unit
        case "gaussian", (mean, std):
            for at, unit in _normal(flat.size, path, seed):
                flat[at] = mean + std * unit
        case "xavier", ():
            bound = math.sqrt(3.0 / fan_in)
            for at, unit in _uniform(flat.size, path, seed):
                flat[at] = bound * (2.0 * unit - 1.0)
        case "msra", ():
            for at, unit in _normal(flat.size, path, seed):
                flat[at] = math.sqrt(2.0 / fan_in) * unit
        case _:
            raise ConcatcError(f"{path}: `{init}` is no way to start a parameter")


class _Stream:
    """Random words of a path, from word ``start`` on."""

    def __init__(self, path: str, seed: int, start: int = 0) -> None:
        words = np.frombuffer(hashlib.sha256(path.encode()).digest(), np.uint32)
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, *(int(w) for w in words)]))
        self._bits.advance(start)

    def unit(self, count: int) -> Array:
        """The next numbers, uniform in [0, 1): the upper 53 bits of each word."""
        words = np.asarray(self._bits.random_raw(count), np.uint64).reshape(count)
        return (words >> np.uint64(11)) * 2.0**-53


def _blocks(numel: int) -> Iterator[slice]:
    for begin in range(0, numel, BLOCK):
        yield slice(begin, min(begin + BLOCK, numel))


def _uniform(numel: int, path: str, seed: int) -> Iterator[tuple[slice, Array]]:
    """Numbers uniform in [0, 1), by blocks."""
    stream = _Stream(path, seed)
    for at in _blocks(numel):
        yield at, stream.unit(at.stop - at.start)


def _normal(numel: int, path: str, seed: int) -> Iterator[tuple[slice, Array]]:
    """Normal numbers with mean 0 and variance 1, by blocks; by Box and Muller (1958).

    Numbers ``k`` and ``k + pairs`` are made of the random words ``k`` and ``k + pairs``.
    """
    pairs = (numel + 1) // 2
    radii, angles = _Stream(path, seed), _Stream(path, seed, pairs)
    for at in _blocks(pairs):
        radius = np.sqrt(-2.0 * np.log1p(-radii.unit(at.stop - at.start)))
        angle = 2.0 * math.pi * angles.unit(at.stop - at.start)
        yield at, radius * np.cos(angle)
        behind = slice(pairs + at.start, min(pairs + at.stop, numel))
        yield behind, (radius * np.sin(angle))[: behind.stop - behind.start]
