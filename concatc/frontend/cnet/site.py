"""What an op may ask of the place in the source where it is called: the call site of this language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from concatc.diagnostics import Loc
from concatc.frontend.cnet.context import Frame, Run
from concatc.initial_values import Init
from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.op import Builder, ShapeError


@dataclass(frozen=True)
class ParamOptions:
    """What a call says about one of its parameters."""

    tied: Value | None = None
    omitted: bool = False
    init: Init | None = None
    lr: float = 1.0
    decay: float = 1.0


@dataclass
class Site:
    """One call.  ``path`` is where its parameters live; ``layers`` are the layers that are being called."""

    b: Builder
    train: bool
    op: str
    run: Run
    frame: Frame
    path: tuple[str, ...]
    uid: int
    loc: Loc
    options: dict[str, ParamOptions]
    layers: tuple[object, ...]

    def has_param(self, name: str) -> bool:
        """False where the call says ``name=false``."""
        return not self.options[name].omitted

    def param(self, name: str, shape: Sequence[int], init: Init, dtype: str = "f32", fan_in: int = 0) -> Value:
        """The parameter ``name`` of this call."""
        options = self.options[name]
        type = TensorType(tuple(shape), self.run.dtype(dtype))
        if options.tied is not None:
            if options.tied.type != type:
                raise ShapeError(f"{self.op}: `{name}` must be {type}, but the given one is {options.tied.type}")
            return options.tied
        path = ".".join((*self.path, name))
        known = self.run.graph.params.get(path)
        if known is not None:
            self._check_reuse(path, known, type)
            return known
        if not fan_in:
            fan_in = TensorType(type.shape[1:]).numel
        self.run.param_calls[path] = (self.uid, self.layers)
        start = options.init or init
        return self.run.graph.add_param(path, type, start, fan_in, options.lr, options.decay, self.loc)

    def state(self, name: str, shape: Sequence[int], init: Init, dtype: str = "f32") -> Value:
        """The state ``name`` of this call: its value after the updates so far."""
        type = TensorType(tuple(shape), self.run.dtype(dtype))
        path = ".".join((*self.path, name))
        slot = self.run.graph.states.get(path)
        if slot is not None:
            self._check_reuse(path, slot.argument, type)
            return slot.current
        self.run.param_calls[path] = (self.uid, self.layers)
        return self.run.graph.add_state(path, type, init, self.loc).current

    def update(self, state: Value, value: Value) -> None:
        """Let the state have another value from here on."""
        if not self.train:
            return
        for slot in self.run.graph.states.values():
            if slot.current is state:
                slot.current = value
                return
        raise AssertionError(f"%{state.name} is no state")

    def random(self) -> tuple[Value, int]:
        """The run's random state, and a key that is unique to this call."""
        return self.run.graph.random(".".join((*self.path, self.op)))

    def _check_reuse(self, path: str, known: Value, type: TensorType) -> None:
        """A parameter may be met again only by another call of the layer that owns it."""
        uid, layers = self.run.param_calls[path]
        first = self.run.graph.where(known)
        line = f"line {first.line}" if first is not None else "another call"
        if uid != self.uid or not any(layer in layers for layer in self.layers):
            raise ShapeError(
                f"two parameters would be called `{path}`",
                help="give one of the calls a label: `@name`",
                notes=(f"the other one is made in {line}",),
            )
        if known.type != type:
            raise ShapeError(
                f"`{path}` is {known.type}, but this call needs {type}",
                help="all calls of a layer share its parameters, so their blobs must fit them",
                notes=(f"its first call is in {line}",),
            )
