"""Nets made with the builder, for tests of passes; and the check of a net's gradients by finite differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from concatc.initial_values import Init
from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.ir.types import TensorType
from concatc.op import Builder, load_all_ops_once
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.insert_splits import InsertSplits
from concatc.targets.reference.interpreter import argument_name, run_function

KINDS = ("input", "param", "state", "loss_weights", "random")


class NetBuilder:
    """Builds the main function of a module as the front end does (docs/ARCHITECTURE.md).

    ``net.b`` is the op builder; :meth:`module` ends the net.
    """

    def __init__(self, name: str = "net") -> None:
        self.func = FuncOp(name)
        self.b = Builder(self.func.body)
        self.losses: list[tuple[str, Value, float]] = []
        self.returns: list[tuple[Value, dict[str, Any]]] = []
        self.random_calls = 0

    def input(self, name: str, *shape: int, dtype: str = "f32") -> Value:
        return self._arg(name, TensorType(shape, dtype), kind="input", name=name)

    def param(self, name: str, *shape: int, init: str = "gaussian(0.0, 0.5)") -> Value:
        return self._arg(name, TensorType(shape), kind="param", name=name, init=init, fan_in=1, lr=1.0, decay=1.0)

    def random(self) -> Value:
        """The random state."""
        known = [a for a in self.func.args if a.attrs["cnet.kind"] == "random"]
        return known[0] if known else self._arg("random", TensorType((2,), "i32"), kind="random", name="random")

    def state(self, name: str, *shape: int, init: str = "constant(0.0)") -> Value:
        return self._arg(name, TensorType(shape), kind="state", name=name, init=init)

    def call(self, op: str, *xs: Value, at: str = "", train: bool = True, **attributes: Any) -> Any:
        """Call an op as the language does; its parameters get the path ``at``."""
        return load_all_ops_once()[op].build(_Site(self, at or op, train), *xs, **attributes)

    def _arg(self, value_name: str, type: TensorType, **attrs: Any) -> Value:
        value = self.func.body.add_arg(type, value_name)
        value.attrs = {f"cnet.{k}": v for k, v in attrs.items()}
        return value

    def named(self, name: str, value: Value) -> Value:
        """Name a value as an assignment does."""
        value.name = name
        return value

    def output(self, name: str, value: Value) -> None:
        self.returns.append((value, {"kind": "output", "name": name}))

    def keep(self, name: str, value: Value) -> None:
        self.returns.append((value, {"kind": "kept", "name": name}))

    def loss(self, value: Value, name: str = "", weight: float = 1.0) -> None:
        name = name or f"loss{len(self.losses)}"
        value.name = value.name or name
        self.losses.append((name, value, weight))

    def softmax_loss(self, logits: Value, label: Value, **attributes: Any) -> None:
        self.loss(self.b.softmax_loss(logits, label, **attributes))

    def module(self) -> Module:
        counts: dict[str, int] = {}
        for value in (result for op in self.func.ops for result in op.results if not result.name):
            assert value.op is not None
            kind = value.op.name.removeprefix("cnet.")
            counts[kind] = counts.get(kind, 0) + 1
            value.name = f"{kind}.{counts[kind]}"
        order = {"output": 0, "loss": 1, "total": 2, "kept": 3, "state": 4}
        returns = list(self.returns)
        for name, value, weight in self.losses:
            returns.append((value, {"kind": "loss", "name": name, "weight": weight}))
        if self.losses:
            weights = self._arg(
                "loss_weights", TensorType((len(self.losses),)), kind="loss_weights", name="loss_weights"
            )
            total = self.b.total_loss(*(v for _, v, _ in self.losses), weights, names=["loss"])
            returns.append((total, {"kind": "total", "name": "loss"}))
        returns.sort(key=lambda pair: order[pair[1]["kind"]])
        self.func.body.args.sort(key=lambda a: KINDS.index(a.attrs["cnet.kind"]))
        for index, arg in enumerate(self.func.args):
            arg.index = index
        self.func.body.append(Operation("func.return"))
        for value, attrs in returns:
            self.func.add_return(value, **attrs)
        return Module(self.func.sym_name, [self.func])


class _Site:
    """The place of one call."""

    def __init__(self, net: NetBuilder, path: str, train: bool) -> None:
        self.net, self.path, self.train, self.b = net, path, train, net.b

    def param(self, name: str, shape: Sequence[int], init: Init, dtype: str = "f32", fan_in: int = 0) -> Value:
        return self.net.param(f"{self.path}.{name}", *shape, init=str(init.to_attr()))

    def has_param(self, name: str) -> bool:
        return True

    def state(self, name: str, shape: Sequence[int], init: Init, dtype: str = "f32") -> Value:
        return self.net.state(f"{self.path}.{name}", *shape, init=str(init.to_attr()))

    def update(self, state: Value, value: Value) -> None:
        self.net.returns.append((value, {"kind": "state", "name": state.attrs["cnet.name"]}))

    def random(self) -> tuple[Value, int]:
        self.net.random_calls += 1
        return self.net.random(), self.net.random_calls


def data_for(func: FuncOp, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for all arguments: floats normal, states and loss weights positive, integers 0 or 1."""
    rng = np.random.default_rng(seed)
    values = {}
    for arg in func.args:
        kind = arg.attrs["cnet.kind"]
        if kind == "random":
            value = np.array([7, 3], np.int32)
        elif kind == "loss_weights" or kind == "state":
            value = 0.5 + rng.random(arg.shape)
        elif arg.tensor.is_float:
            value = rng.normal(size=arg.shape)
        else:
            value = rng.integers(0, 2, arg.shape).astype(np.int32)
        values[argument_name(arg)] = value
    return values


def results_by_name(func: FuncOp, arrays: Sequence[np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """Results by (kind, name)."""
    keys = [(str(a["cnet.kind"]), str(a["cnet.name"])) for a in func.result_attrs]
    return dict(zip(keys, arrays, strict=True))


def run64(func: FuncOp, data: Mapping[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """Results by (kind, name), computed in float64."""
    return results_by_name(func, run_function(func, data, float64=True))


def joint(module: Module, **options: Any) -> Module:
    """Run insert-splits and derive-backward."""
    InsertSplits().run(module)
    DeriveBackward(**options).run(module)
    return module


def check_gradients(module: Module, *, seed: int = 0, samples: int = 6, step: float = 1e-5) -> None:
    """Compare every gradient of a joint module with central differences of its total loss, in float64.

    Tolerance 1e-6 relative to the largest gradient (DESIGN: float64 finite differences).
    """
    func = module.main
    data = data_for(func, seed)
    results = run64(func, data)
    rng = np.random.default_rng(seed + 1)
    for (kind, name), grad in results.items():
        if kind not in ("grad", "input_grad"):
            continue
        assert grad.shape == data[name].shape
        scale = max(1.0, float(np.abs(grad).max(initial=0.0)))
        for flat in rng.permutation(grad.size)[:samples]:
            at = np.unravel_index(flat, grad.shape)
            ends = []
            for sign in (1, -1):
                moved = dict(data)
                moved[name] = data[name].copy()
                moved[name][at] += sign * step
                ends.append(float(run64(func, moved)["total", "loss"]))
            numeric = (ends[0] - ends[1]) / (2 * step)
            assert abs(numeric - grad[at]) <= 1e-6 * scale, f"{kind} {name}{list(at)}: {grad[at]} against {numeric}"
