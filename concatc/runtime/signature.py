"""What a net takes and gives: its inputs, parameters, states, losses and outputs, read off the net's function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from concatc.ir.core import Attr, FuncOp
from concatc.ir.types import TensorType
from concatc.loss_weights import weight_of


@dataclass(frozen=True)
class Input:
    """An input.  ``dims[d]`` is the net's dim that axis ``d`` is, alone; "" where it is a number or a formula."""

    name: str
    type: TensorType
    dims: tuple[str, ...]


@dataclass(frozen=True)
class Parameter:
    """A parameter: its path, how it starts, and its multipliers of learning rate and weight decay."""

    name: str
    type: TensorType
    init: str
    fan_in: int
    lr: float = 1.0
    decay: float = 1.0


@dataclass(frozen=True)
class State:
    """A state: running statistics and the like."""

    name: str
    type: TensorType
    init: str


@dataclass(frozen=True)
class Signature:
    """Arguments and results of one phase of a net, each group in the order of the function."""

    name: str
    inputs: dict[str, Input]
    params: dict[str, Parameter]
    states: dict[str, State]
    loss_weights: dict[str, float]  # the losses, with the weights that the source gives them
    outputs: dict[str, TensorType]
    kept: dict[str, TensorType]
    random: bool


def signature_of(func: FuncOp) -> Signature:
    """Read the signature off a net's function of any level from graph to kernels."""
    losses = [attrs for attrs in func.result_attrs if attrs.get("cnet.kind") == "loss"]
    return Signature(
        name=func.sym_name,
        inputs={n: Input(n, v.tensor, _dims(v.attrs, v.tensor)) for n, v in func.arguments("input").items()},
        params={n: _parameter(n, v.tensor, v.attrs) for n, v in func.arguments("param").items()},
        states={n: State(n, v.tensor, str(v.attrs["cnet.init"])) for n, v in func.arguments("state").items()},
        loss_weights={str(a["cnet.name"]): weight_of(a) for a in losses},
        outputs={n: v.tensor for n, v in func.returned("output").items()},
        kept={n: v.tensor for n, v in func.returned("kept").items()},
        random=bool(func.arguments("random")),
    )


def _parameter(name: str, type: TensorType, attrs: dict[str, Attr]) -> Parameter:
    return Parameter(
        name,
        type,
        init=str(attrs["cnet.init"]),
        fan_in=int(cast(int, attrs.get("cnet.fan_in", 0))),
        lr=float(cast(float, attrs.get("cnet.lr", 1.0))),
        decay=float(cast(float, attrs.get("cnet.decay", 1.0))),
    )


def _dims(attrs: dict[str, Attr], type: TensorType) -> tuple[str, ...]:
    dims = attrs.get("cnet.dims")
    if not isinstance(dims, tuple) or len(dims) != type.rank:
        return ("",) * type.rank
    return tuple(str(d) for d in dims)
