"""A call of one op of the language, without the language: built, run and differentiated in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from concatc.initial_values import Init
from concatc.ir.core import Block, Value
from concatc.ir.types import NUMPY_DTYPES, TensorType
from concatc.op import REGISTRY, Builder, load_all_ops, op_of
from concatc.op_attributes import check_attribute

load_all_ops()

ELEMENT_TYPES = {dtype: name for name, dtype in NUMPY_DTYPES.items()}


class Call:
    """``name(*xs, **attributes)`` in the language; ``without`` names the parameters that the call omits.

    Parameters and states are filled by ``parameters`` (by name), else with random normal numbers, or with the
    initial value where it is constant.
    """

    def __init__(
        self,
        name: str,
        *xs: np.ndarray,
        train: bool = True,
        without: Sequence[str] = (),
        parameters: dict[str, np.ndarray] | None = None,
        **attributes: Any,
    ) -> None:
        self.train = train
        self.block = Block()
        self.b = Builder(self.block)
        self.without = without
        self.given = parameters or {}
        self.keys = 0
        self.rng = np.random.default_rng(3)
        self.known: dict[Value, np.ndarray] = {}
        self.params: dict[str, Value] = {}
        self.states: dict[str, Value] = {}
        self.updates: dict[str, Value] = {}
        self.xs = [self.argument(f"x{k}", x) for k, x in enumerate(xs)]
        cls = REGISTRY[name]
        known = cls.signature().attributes
        checked = {key: check_attribute(name, known[key], value) for key, value in attributes.items()}
        built = cls.build(self, *self.xs, **checked)
        self.results: list[Value] = list(built) if isinstance(built, tuple) else [built]
        self.ran = 0

    # -- what `build` asks of a call site ---------------------------------------------------------------------------
    def argument(self, name: str, array: np.ndarray) -> Value:
        """A new argument with these values."""
        value = self.block.add_arg(TensorType(array.shape, ELEMENT_TYPES[array.dtype]), name)
        self.known[value] = array
        return value

    def param(self, name: str, shape: Sequence[int], init: Init, dtype: str = "f32", fan_in: int = 0) -> Value:
        """A parameter, in float64."""
        array = self.given.get(name)
        self.params[name] = self.argument(name, self.rng.normal(size=tuple(shape)) if array is None else array)
        assert self.known[self.params[name]].shape == tuple(shape)
        return self.params[name]

    def has_param(self, name: str) -> bool:
        """Whether the call has the parameter."""
        return name not in self.without

    def state(self, name: str, shape: Sequence[int], init: Init, dtype: str = "f32") -> Value:
        """A state, at its constant initial value where none is given."""
        array = self.given.get(name)
        self.states[name] = self.argument(name, np.full(tuple(shape), *init.arguments) if array is None else array)
        return self.states[name]

    def update(self, state: Value, value: Value) -> None:
        """Remember what the state becomes."""
        self.updates[state.name] = value

    def random(self) -> tuple[Value, int]:
        """Seed 7, step 3, and a key that is another one at each call."""
        self.keys += 1
        return self.argument("random", np.array([7, 3], np.int32)), self.keys

    # -- running ----------------------------------------------------------------------------------------------------
    def value(self, value: Value) -> np.ndarray:
        """The array of a value."""
        for operation in self.block.ops[self.ran :]:
            with np.errstate(all="ignore"):
                results = op_of(operation).reference(*(self.known[v] for v in operation.operands))
            self.known |= zip(operation.results, results, strict=True)
        self.ran = len(self.block.ops)
        return self.known[value]

    @property
    def result(self) -> np.ndarray:
        """The (first) result."""
        return self.value(self.results[0])

    def gradients(self, *seeds: np.ndarray) -> dict[str, np.ndarray]:
        """The gradients of ``sum(seed * result)`` by the names of inputs (``x0``, ..) and parameters."""
        wanted = [v for v in (*self.xs, *self.params.values()) if v.tensor.is_float]
        cotangents = {y: self.argument(f"dy{k}", s) for k, (y, s) in enumerate(zip(self.results, seeds, strict=True))}
        needed = set(wanted)
        for operation in self.block.ops:
            if needed.intersection(operation.operands):
                needed.update(r for r in operation.results if r.tensor.is_float)
        for operation in reversed(list(self.block.ops)):
            dys = [cotangents.get(r) for r in operation.results]
            if all(dy is None for dy in dys):
                continue
            needs = [v in needed for v in operation.operands]
            dxs = op_of(operation).vjp(self.b, operation.operands, operation.results, dys, needs)
            for x, dx in zip(operation.operands, dxs, strict=True):
                if dx is None:
                    continue
                assert dx.type == x.type
                cotangents[x] = self.b.accumulate(cotangents[x], dx) if x in cotangents else dx
        return {v.name: self.value(cotangents[v]) for v in wanted if v in cotangents}


def against(
    call: Call,
    twin: Callable[..., Any],
    names: Sequence[str],
    tolerance: float = 1e-12,
) -> None:
    """Compare a call's value and gradients with ``twin(*tensors)`` in PyTorch, float64; ``names`` are its arguments."""
    import torch

    arrays = {v.name: call.known[v] for v in (*call.xs, *call.params.values(), *call.states.values())}
    tensors = [torch.from_numpy(arrays[n].copy()) for n in names]
    for t in tensors:
        t.requires_grad_(t.is_floating_point())
    want = twin(*tensors)
    seed = np.random.default_rng(5).normal(size=tuple(want.shape))
    close(call.result, want.detach().numpy(), tolerance)
    want.backward(torch.from_numpy(seed))
    grads = call.gradients(seed)
    for name, t in zip(names, tensors, strict=True):
        if name in call.states or not t.requires_grad:
            continue
        assert name in grads, f"{name} has no gradient"
        close(grads[name], t.grad.numpy(), tolerance)


def close(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    """|got - want| <= tolerance * max|want|, and infinities where they were."""
    assert got.shape == want.shape
    scale = np.max(np.abs(want[np.isfinite(want)]), initial=1e-300)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)
