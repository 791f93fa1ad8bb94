"""Where the arguments and results of a net live: one slot each, dense, in language layout, in order.

    params   ha.weight [8, 4] at 0,  ha.bias [8] at 128, ..      grads: the same offsets, one slot a parameter
    inputs   a, b, label, loss_weights, random, output_grads     outputs: outputs, losses, total, kept, input gradients
    states   bn.mean, bn.var (read as argument, written as result)

Parameters and gradients lie at equal offsets, so an optimizer is one loop over both.  A plan may have an input
elsewhere, as a part of a concat in the arena or in outputs: the caller's array is then put there, and in the arena it
lives as long as the plan reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from concatc.ir.core import FuncOp, Value
from concatc.ir.types import TensorType
from concatc.loops.plan import ALIGN_BYTES, Base, BaseKind, Plan, Window, interface_key

ARGUMENT_BASES: dict[str, BaseKind] = {
    "input": "inputs",
    "loss_weights": "inputs",
    "random": "inputs",
    "output_grad": "inputs",
    "param": "params",
    "state": "states",
}
RESULT_BASES: dict[str, BaseKind] = {
    "output": "outputs",
    "loss": "outputs",
    "total": "outputs",
    "kept": "outputs",
    "kept_grad": "outputs",
    "input_grad": "outputs",
    "grad": "grads",
    "state": "states",
}


@dataclass
class Interface:
    """The slots of a net's arguments and results by :func:`interface_key`, and the bases that hold them."""

    slots: dict[str, Window] = field(default_factory=dict)
    size_bytes: dict[BaseKind, int] = field(default_factory=dict)

    @property
    def bases(self) -> dict[str, Base]:
        """The bases, in a fixed order; the arena is not among them."""
        order: tuple[BaseKind, ...] = ("inputs", "params", "grads", "states", "outputs")
        return {name: Base(name, self.size_bytes.get(name, 0)) for name in order}

    @property
    def staged(self) -> dict[str, Window]:
        """The inputs that lie elsewhere than in ``inputs``."""
        return {key: slot for key, slot in self.slots.items() if is_staged(key, slot)}

    def reserve(self, base: BaseKind, key: str, type: TensorType) -> None:
        """Give a value the next aligned slot of ``base``."""
        start = self.size_bytes.get(base, 0)
        self.slots[key] = Window.dense(base, start, type)
        end = start + type.size_bytes
        self.size_bytes[base] = -(-end // ALIGN_BYTES) * ALIGN_BYTES

    def with_staged(self, staged: Mapping[str, Window]) -> Interface:
        """The same with these inputs elsewhere; the other inputs close up."""
        made = Interface(size_bytes={base: n for base, n in self.size_bytes.items() if base != "inputs"})
        for key, slot in self.slots.items():
            if key in staged:
                made.slots[key] = staged[key]
            elif slot.base == "inputs":
                made.reserve("inputs", key, TensorType(slot.shape, slot.dtype))
            else:
                made.slots[key] = slot
        return made

    def as_planned(self, plan: Plan) -> Interface:
        """The same with inputs where ``plan`` has them."""
        windows = {key: plan.values[key][0].window for key in self.slots}
        staged = {key: window for key, window in windows.items() if is_staged(key, window)}
        return self.with_staged(staged) if staged else self


def is_staged(key: str, slot: Window) -> bool:
    """Whether an argument or result is an input that lies elsewhere than in ``inputs``."""
    return slot.base != "inputs" and key.startswith("input:")


def argument_key(arg: Value) -> str:
    """The :func:`interface_key` of an argument of the net; an argument without a kind is an input."""
    return interface_key(str(arg.attrs.get("cnet.kind", "input")), str(arg.attrs.get("cnet.name", arg.name)))


def result_keys(net: FuncOp) -> Iterator[str]:
    """The :func:`interface_key` of each result of the net; a result without a kind is an output of its value's name."""
    for k, value in enumerate(net.ret.operands):
        attrs = net.result_attrs[k] if k < len(net.result_attrs) else {}
        name = str(attrs.get("cnet.name", value.name or f"result{k}"))
        yield interface_key(str(attrs.get("cnet.kind", "output")), name)


def interface_of(net: FuncOp, like: Interface | None = None) -> Interface:
    """Lay out the arguments and results of ``net``.

    ``like`` is the interface of another phase of the same net: parameters, gradients and states stand where they stand
    there, so that both phases run on the same memory.
    """
    interface = Interface()
    shared: Mapping[str, Window] = like.slots if like is not None else {}
    if like is not None:
        interface.size_bytes = {base: n for base, n in like.size_bytes.items() if base in ("params", "grads", "states")}
    wanted = list(result_keys(net))
    has_grads = any(key.startswith("grad:") for key in wanted)
    for arg in net.args:
        key = argument_key(arg)
        kind, _, name = key.partition(":")
        if key in shared and kind in ("param", "state"):
            interface.slots[key] = shared[key]
            continue
        interface.reserve(ARGUMENT_BASES[kind], key, arg.tensor)
        if kind == "param" and has_grads:
            interface.reserve("grads", interface_key("grad", name), arg.tensor)
    for key, value in zip(wanted, net.ret.operands, strict=True):
        kind, _, name = key.partition(":")
        if key in interface.slots:
            continue
        if key in shared and kind == "grad":
            interface.slots[key] = shared[key]
            continue
        interface.reserve(RESULT_BASES[kind], key, value.tensor)
    frozen = [key for key in interface.slots if key.startswith("grad:") and key not in wanted]
    for key in frozen:
        del interface.slots[key]
    return interface
