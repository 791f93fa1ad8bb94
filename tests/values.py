"""Values of a module's main function before and after a pass, by the reference interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from concatc.ir.clone import clone_module
from concatc.ir.core import FuncOp, Module
from concatc.ir.types import FLOATS, NUMPY_DTYPES
from concatc.targets.reference.interpreter import run_function

Array = np.ndarray[Any, Any]


def random_arguments(func: FuncOp, seed: int = 0, special: bool = False) -> list[Array]:
    """Normal floats (with ``special`` also infinities, NaN and both zeros), integers 0 and 1."""
    rng = np.random.default_rng(seed)
    args = []
    for arg in func.args:
        if arg.dtype not in FLOATS:
            args.append(rng.integers(0, 2, arg.shape).astype(NUMPY_DTYPES[arg.dtype]))
            continue
        x = rng.normal(size=arg.shape).astype(NUMPY_DTYPES[arg.dtype])
        if special and x.size:
            odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], x.dtype)
            where = rng.integers(0, x.size, max(x.size // 2, 1))
            x.flat[where] = odd[rng.integers(0, len(odd), len(where))]
        args.append(x)
    return args


def bits(x: Array) -> Array:
    """What must be equal where values may not change at all; every NaN is the same."""
    x = np.asarray(x)
    if x.dtype.kind != "f":
        return x
    x = np.where(np.isnan(x), np.array(np.nan, x.dtype), x)
    return x.view({4: np.int32, 8: np.int64}[x.dtype.itemsize])


def assert_same_values(module: Module, change: Callable[[Module], None], exact: bool = True) -> Module:
    """Apply ``change`` to a copy and compare all results, on numbers and, where ``exact``, on special values."""
    changed = clone_module(module)
    change(changed)
    for seed, special in ((1, False), (2, exact), (3, exact)):
        args = random_arguments(module.main, seed, special)
        before = run_function(module.main, args, module=module)
        after = run_function(changed.main, args, module=changed)
        assert len(before) == len(after)
        for old, new in zip(before, after, strict=True):
            if exact:
                np.testing.assert_array_equal(bits(new), bits(old))
            else:
                np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)
    return changed
