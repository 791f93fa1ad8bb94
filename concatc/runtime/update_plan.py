"""The plan of an optimizer's update.

It runs over contiguous ranges of parameters that share their multipliers of learning rate and decay, in place:

    launch update0_sgd  reads  params+0 [40960], grads+0 [40960], optimizer+64 [40960], optimizer+0 [8]
                        writes optimizer+64 [40960], params+0 [40960]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concatc.ir.core import FuncOp, Operation
from concatc.ir.types import ELEMENT_BYTES, TensorType
from concatc.loops.bases import Interface
from concatc.loops.plan import ALIGN_BYTES, Base, Launch, Plan, Window, interface_key
from concatc.runtime.signature import Signature

if TYPE_CHECKING:
    from concatc.runtime.optimizers import Optimizer

HYPER = 8  # scalars a range, one aligned line of float64


@dataclass(frozen=True)
class Range:
    """Neighbouring parameters with equal multipliers: ``numel`` elements from ``offset_bytes`` on."""

    offset_bytes: int
    numel: int
    dtype: str
    lr: float
    decay: float


def ranges_of(signature: Signature, interface: Interface) -> tuple[Range, ...]:
    """The parameters that have a gradient and learn, in runs of equal multipliers.

    The bytes that align a parameter lie inside its run: they are 0 in parameters and gradients, and stay 0.
    """
    runs: list[Range] = []
    for name, parameter in signature.params.items():
        if interface_key("grad", name) not in interface.slots or parameter.lr == 0.0 or not parameter.type.is_float:
            continue
        at = interface.slots[interface_key("param", name)]
        step = ELEMENT_BYTES[at.dtype]
        numel = parameter.type.numel
        last = runs[-1] if runs else None
        if last is not None and (last.dtype, last.lr, last.decay) == (at.dtype, parameter.lr, parameter.decay):
            gap = at.offset_bytes - (last.offset_bytes + step * last.numel)
            if gap < ALIGN_BYTES:
                numel += (at.offset_bytes - last.offset_bytes) // step
                runs[-1] = Range(last.offset_bytes, numel, at.dtype, parameter.lr, parameter.decay)
                continue
        runs.append(Range(at.offset_bytes, numel, at.dtype, parameter.lr, parameter.decay))
    return tuple(runs)


@dataclass(frozen=True)
class UpdateLayout:
    """What an update of a net reads and writes: ranges of parameters, where slots begin in its base, and its bytes."""

    ranges: tuple[Range, ...]
    slot_starts: Mapping[str, int]
    size_bytes: int

    @staticmethod
    def of(optimizer: Optimizer, signature: Signature, interface: Interface) -> UpdateLayout:
        """That of an optimizer and a net."""
        ranges = ranges_of(signature, interface)
        params_bytes = interface.bases["params"].size_bytes
        first = len(ranges) * HYPER * ELEMENT_BYTES["f64"]
        starts = {slot: first + k * params_bytes for k, slot in enumerate(optimizer.live_slots)}
        return UpdateLayout(ranges, starts, first + len(starts) * params_bytes)

    def plan(self, optimizer: Optimizer) -> Plan:
        """The launches, one a range, over the bases params, grads and optimizer."""
        plan = Plan("update", {"optimizer": Base("optimizer", self.size_bytes)})
        for k, r in enumerate(self.ranges):
            name = f"update{k}_{optimizer.code_key[0]}"
            flat = TensorType((r.numel,), r.dtype)
            params, grads = (Window.dense(base, r.offset_bytes, flat) for base in ("params", "grads"))
            slots = [Window.dense("optimizer", s + r.offset_bytes, flat) for s in self.slot_starts.values()]
            plan.kernels[name] = _kernel(optimizer, name, flat)
            plan.launches.append(
                Launch(
                    name,
                    reads=(params, grads, *slots, self.hyper_window(k)),
                    writes=(*slots, params),
                    add=(False,) * (len(slots) + 1),
                    phase="update",
                )
            )
        return plan

    def hyper_window(self, k: int) -> Window:
        """The scalars of a range."""
        offset = k * HYPER * ELEMENT_BYTES["f64"]
        return Window.dense("optimizer", offset, TensorType((HYPER,), self.ranges[k].dtype))


def _kernel(optimizer: Optimizer, name: str, flat: TensorType) -> FuncOp:
    from concatc.op import Builder  # a net that is loaded and not trained needs no ops

    slots = optimizer.live_slots
    types = [flat, flat, *(flat for _ in slots), TensorType((HYPER,), flat.dtype)]
    func = FuncOp(name, types, ["p", "g", *slots, "hyper"])
    p, g, *held, hyper = func.args
    new_slots, new_params = optimizer.emit(Builder(func.body), p, g, held, hyper)
    func.body.append(Operation("func.return", [*new_slots, new_params]))
    func.result_attrs = [{} for _ in range(len(new_slots) + 1)]
    return func
