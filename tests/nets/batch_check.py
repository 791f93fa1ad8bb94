"""Whether a net at another batch size, on the code of this one, is the net that is compiled for that size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from concatc.batch_sizes.graph import ScaledGraph
from concatc.batch_sizes.rescale import Rescaled, RescaledPhase
from concatc.batch_sizes.scaling import LookedAtPhase
from concatc.compiler import Compilation, Options, compile_net
from concatc.ir.clone import clone_module
from concatc.ir.core import FuncOp, Module
from concatc.ir.numbers import Numbered, numbers_of
from concatc.ir.printer import print_module
from concatc.loops.bases import Interface, argument_key, result_keys
from concatc.loops.plan import Plan
from concatc.passes.check_plan import check_plan
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cpu.step import StepNumbers
from concatc.targets.cpu.step_table import step_table
from concatc.targets.reference.interpreter import run_function
from concatc.targets.reference.plan_interpreter import run_plan

Array = np.ndarray[Any, Any]
CLASSES = 4  # labels and indices are below


class BatchNet:
    """A net in float64, compiled for its own dims, with the gradients of its inputs."""

    def __init__(self, source: str, **dims: int) -> None:
        self.base = compile_net(source, "f.cnet", Options(dtype="f64", input_grads=True, dims=dims))
        self.scaled = self.base.scaled("train")

    @property
    def why_not(self) -> str:
        """Why the net must be compiled for each size; "" where it need not."""
        return self.base.scaling.reasons.get("train", "")

    def arena_bytes(self, dims: Mapping[str, int]) -> tuple[int, int]:
        """The bytes of the arena at these dims, and of that which is compiled for them."""
        rescaled = Rescaled(self.base, dims).phase("train")
        assert isinstance(rescaled, RescaledPhase), self.why_not
        return rescaled.arena_bytes, self.base.with_dims({**self.base.dims, **dims}).phase("train").arena_bytes

    def check(self, dims: Mapping[str, int]) -> None:
        """Compare the net at these dims with what is compiled for them.

        Level 00 and the slots of arguments and results are the same to the letter, and so is what the runtime is told
        of them, whether it looks at the graph or not.  The plan passes the checker against
        level 04, and every result that it makes in NumPy, on poisoned memory, is that of level 02, computed op by op.
        The table that is run is the one that loops of this plan have.
        """
        rescaled = Rescaled(self.base, dims).phase("train")
        assert isinstance(rescaled, RescaledPhase)
        compiled = self.base.with_dims({**self.base.dims, **dims}).phase("train")
        assert rescaled.signature == compiled.signature
        assert list(map(str, rescaled.index_checks)) == list(map(str, compiled.index_checks))
        assert print_module(rescaled.graph) == print_module(compiled.graph)
        # Of one row, more reshapes are views: what the net has to put elsewhere lies among the inputs there.
        apart = ("inputs",) if 1 in dims.values() else ()
        assert _slots(rescaled.interface, apart) == _slots(compiled.interface, apart)
        assert [str(d) for d in check_plan(rescaled.plan, self._kernels_at(dims))] == []
        same_values(compiled.joint.main, rescaled.plan)
        if 1 not in dims.values():  # loops over one row are others; native code is run in their place
            self._same_table(rescaled)

    def _kernels_at(self, dims: Mapping[str, int]) -> FuncOp:
        assert self.scaled is not None
        here = self.scaled.here
        samples = [(at, Numbered.of(_kernels(phase).functions)) for at, phase in _samples(self.base)]
        return ScaledGraph.of(here, _kernels(self.base.phase("train")), samples).at([dims[n] for n in here]).main

    def _same_table(self, rescaled: RescaledPhase) -> None:
        loops = lower_to_loops(rescaled.plan)
        assert numbers_of(_code(loops)) == numbers_of(_code(self.base.phase("train").net_loops))
        table, wanted = rescaled.table, StepNumbers.of(step_table(loops))
        assert (table.kernels, table.phases, table.bases) == (wanted.kernels, wanted.phases, wanted.bases)
        np.testing.assert_array_equal(table.numbers, wanted.numbers)
        np.testing.assert_array_equal(table.rest, wanted.rest)


def _slots(interface: Interface, apart: Sequence[str]) -> tuple[dict[str, object], Mapping[Any, int]]:
    """What both plans must agree in: of inputs in the arena, where each plan lays them otherwise, no addresses.

    Nothing of the bases ``apart``, nor of inputs that lie in the arena, where there are any.
    """
    slots: dict[str, object] = {
        key: (w.base, w.shape, w.dtype) if w.base == "arena" else w
        for key, w in interface.slots.items()
        if not apart or w.base not in (*apart, "arena")
    }
    return slots, {base: n for base, n in interface.size_bytes.items() if base not in apart}


def same_values(net: FuncOp, plan: Plan) -> None:
    """Both compute in float64 and add in another order at most: 1e-10 of the largest element, or of 1."""
    rng = np.random.default_rng(0)
    arguments = [_random(rng, arg.tensor.shape, arg.dtype, arg.attrs.get("cnet.kind") == "state") for arg in net.args]
    run = run_plan(plan, {argument_key(arg): x for arg, x in zip(net.args, arguments, strict=True)})
    for key, value in zip(result_keys(net), run_function(net, arguments), strict=True):
        scale = max(1.0, float(np.abs(value).max(initial=0.0)))
        np.testing.assert_allclose(run[key], value, rtol=0, atol=1e-10 * scale, err_msg=key)


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, positive: bool) -> Array:
    if dtype.startswith("i"):
        return rng.integers(0, CLASSES, shape).astype(f"int{dtype[1:]}")
    values = np.asarray(rng.normal(size=shape))
    return np.abs(values) + 0.5 if positive else values


def _samples(base: Compilation) -> list[tuple[Mapping[str, int], LookedAtPhase]]:
    scaling = base.scaling
    return [(at, net.phase("train")) for at, net in scaling.looked_at]


def _kernels(phase: LookedAtPhase) -> Module:
    """Level 04, without estimates, which are no sizes."""
    module = clone_module(phase.kernels)
    for name in ("cnet.order", "cnet.order_bytes"):
        module.main.attributes.pop(name, None)
    return module


def _code(loops: Module) -> list[FuncOp]:
    return [f for f in loops.functions[1:] if f.declared is None]
