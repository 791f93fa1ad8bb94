"""The function that a net becomes: arguments, ops, results, and the names of its values.

Values are named after the source: ``h``, and ``h.2`` where it is bound again; what stands between has the name of its
statement and the op that makes it, ``h.linear``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from concatc.diagnostics import Loc
from concatc.frontend.cnet import limits
from concatc.initial_values import Init
from concatc.ir.core import Attr, FuncOp, Module, Operation, Value
from concatc.ir.types import TensorType
from concatc.loss_weights import WEIGHT, Terms
from concatc.op import DIALECT, Builder, Op, ShapeError


class OperandError(ShapeError):
    """A :class:`ShapeError` with the operands that its ``{0}``, ``{1}`` .. stand for."""

    def __init__(self, error: ShapeError, operands: Sequence[Value]) -> None:
        super().__init__(error.message, error.help, error.notes)
        self.operands = tuple(operands)


@dataclass
class GraphBuilder(Builder):
    """A builder that says which operands did not fit, and stops where the graph grows past all bounds."""

    def emit(self, op: Op, operands: Sequence[Value], names: Sequence[str] | None = None) -> list[Value]:
        """Append one op; raises :class:`OperandError`."""
        if len(self.block.ops) >= limits.OPS:
            raise ShapeError(f"the net has more than {limits.OPS} operations")
        try:
            results = super().emit(op, operands, names)
        except OperandError:
            raise
        except ShapeError as error:
            raise OperandError(error, operands) from None
        for result in results:
            check_size(result.tensor)
        return results


def check_size(type: TensorType) -> None:
    """Raises :class:`ShapeError` for a tensor that nothing could hold."""
    if type.rank > limits.RANK:
        raise ShapeError(f"{type} has {type.rank} axes; a blob may have {limits.RANK}")
    if type.numel > limits.ELEMENTS:
        raise ShapeError(f"{type} has more than 2^48 elements")


@dataclass(frozen=True)
class LossResult:
    """A loss: its name, its value (rank 0) and its weight (`loss_weights.py`)."""

    name: str
    value: Value
    weight: float | Terms


@dataclass
class StateSlot:
    """A state: the argument, and its value after the updates so far."""

    argument: Value
    current: Value
    loc: Loc


@dataclass
class Graph:
    """The function under construction.  Arguments may be asked for in any order; :meth:`finish` puts them in theirs."""

    name: str
    loc: Loc
    inputs: dict[str, Value] = field(default_factory=dict)
    params: dict[str, Value] = field(default_factory=dict)
    states: dict[str, StateSlot] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    losses: dict[str, LossResult] = field(default_factory=dict)
    locs: dict[str, Loc] = field(default_factory=dict)  # of inputs, params and results, by name

    def __post_init__(self) -> None:
        self.func = FuncOp(self.name, attributes={"cnet.net": self.name}, loc=self.loc)
        self.b = GraphBuilder(self.func.body)
        self._where: dict[int, Loc] = {}
        self._used: set[str] = {"loss_weights", "random"}
        self._counts: dict[str, int] = {}
        self._random: Value | None = None
        self._keys: set[int] = set()
        self._calls: dict[str, int] = {}

    # -- arguments -----------------------------------------------------------------------------------------------------
    def add_input(self, name: str, type: TensorType, dims: Sequence[str], loc: Loc) -> Value:
        """An input."""
        self.inputs[name] = self._argument(name, name, type, loc, {"cnet.kind": "input", "cnet.dims": tuple(dims)})
        return self.inputs[name]

    def add_param(
        self, path: str, type: TensorType, init: Init, fan_in: int, lr: float, decay: float, loc: Loc
    ) -> Value:
        """A parameter."""
        attrs: dict[str, Attr] = {"cnet.kind": "param", "cnet.init": init.to_attr()}
        # What has its usual value is left out: a dump is made to be read.
        if init.kind in ("xavier", "msra"):
            attrs["cnet.fan_in"] = fan_in
        factors = {"cnet.lr": lr, "cnet.decay": decay}
        attrs |= {name: factor for name, factor in factors.items() if factor != 1.0}
        self.params[path] = self._argument(path, path, type, loc, attrs)
        return self.params[path]

    def add_state(self, path: str, type: TensorType, init: Init, loc: Loc) -> StateSlot:
        """A state."""
        argument = self._argument(path, path, type, loc, {"cnet.kind": "state", "cnet.init": init.to_attr()})
        self.states[path] = StateSlot(argument, argument, loc)
        return self.states[path]

    def _argument(self, key: str, name: str, type: TensorType, loc: Loc, attrs: dict[str, Attr]) -> Value:
        check_size(type)
        value = Value(type, self.unique(_ssa_name(name)), self.func.body, 0)
        value.attrs = {"cnet.kind": attrs["cnet.kind"], "cnet.name": key, **attrs}
        self._where[id(value)] = loc
        return value

    def random(self, path: str) -> tuple[Value, int]:
        """The random state, and a key made of the path and the number of this call on it."""
        if self._random is None:
            self._random = Value(TensorType((2,), "i32"), "random", self.func.body, 0)
            self._random.attrs = {"cnet.kind": "random", "cnet.name": "random"}
        number = self._calls[path] = self._calls.get(path, 0) + 1
        key = zlib.crc32(f"{path}#{number}".encode()) & 0x7FFFFFFF
        while key in self._keys:
            key = (key + 1) & 0x7FFFFFFF
        self._keys.add(key)
        return self._random, key

    # -- names and places ----------------------------------------------------------------------------------------------
    def where(self, value: Value) -> Loc | None:
        """Where the value is made."""
        return value.op.loc if value.op is not None else self._where.get(id(value))

    def unique(self, name: str) -> str:
        """``name``, or ``name.2``, ``name.3`` .. where it is taken."""
        candidate = name
        while candidate in self._used:
            self._counts[name] = self._counts.get(name, 1) + 1
            candidate = f"{name}.{self._counts[name]}"
        self._used.add(candidate)
        return candidate

    def name_values(self, start: int, targets: Iterable[tuple[str, Value]], hint: str) -> None:
        """Name what the ops from number ``start`` on made: ``targets`` by their names, the rest ``hint.op``."""
        base = ""
        for name, value in targets:
            if not value.name:
                value.name = self.unique(name)
                base = base or value.name
        base = base or hint
        for op in self.func.ops[start:]:
            for value in op.results:
                if not value.name:
                    value.name = self.unique(f"{base}.{op.name.removeprefix(DIALECT)}")

    # -- the end -------------------------------------------------------------------------------------------------------
    def finish(self, kept: Mapping[str, Value], train: bool) -> Module:
        """The module.  In the inference phase losses are left out, and so is all that no result needs."""
        results: list[tuple[Value, dict[str, Attr]]] = [
            (value, {"cnet.kind": "output", "cnet.name": name}) for name, value in self.outputs.items()
        ]
        weights: Value | None = None
        if train and self.losses:
            weights, total = self._total()
            results += [
                (loss.value, {"cnet.kind": "loss", "cnet.name": loss.name, WEIGHT: loss.weight})
                for loss in self.losses.values()
            ]
            results.append((total, {"cnet.kind": "total", "cnet.name": "loss"}))
        results += [(value, {"cnet.kind": "kept", "cnet.name": name}) for name, value in kept.items()]
        if train:
            changed = {name: slot for name, slot in self.states.items() if slot.current is not slot.argument}
            results += [(slot.current, {"cnet.kind": "state", "cnet.name": name}) for name, slot in changed.items()]
        self.func.body.append(Operation("func.return", [value for value, _ in results], loc=self.loc))
        self.func.result_attrs = [attrs for _, attrs in results]
        self.name_values(0, (), "v")
        if not train:
            self._drop_dead_ops()
        self._place_arguments(weights, drop_unread=not train)
        return Module(self.name, [self.func])

    def _total(self) -> tuple[Value, Value]:
        losses = [loss.value for loss in self.losses.values()]
        weights = Value(TensorType((len(losses),), losses[0].dtype), "loss_weights", self.func.body, 0)
        weights.attrs = {"cnet.kind": "loss_weights", "cnet.name": "loss_weights"}
        self.b.loc = self.loc
        total: Value = self.b.total_loss(*losses, weights)
        total.name = self.unique("loss")
        return weights, total

    def _drop_dead_ops(self) -> None:
        live: list[Operation] = []
        for op in reversed(self.func.ops):
            if op.name == "func.return" or any(result.uses for result in op.results):
                live.append(op)
                continue
            op.set_operands(())
        self.func.body.ops = live[::-1]

    def _place_arguments(self, weights: Value | None, drop_unread: bool) -> None:
        arguments = [
            *self.inputs.values(),
            *self.params.values(),
            *(slot.argument for slot in self.states.values()),
            *([weights] if weights is not None else []),
            *([self._random] if self._random is not None else []),
        ]
        if drop_unread:
            arguments = [value for value in arguments if value.uses]
        for index, value in enumerate(arguments):
            value.index = index
        self.func.body.args = arguments


def _ssa_name(name: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9_.$-]", "_", name)
    return clean if re.match(r"[A-Za-z_]", clean) else f"_{clean}"
