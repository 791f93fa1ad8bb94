"""The calls of a net: on any arrays, and natively where a call is made again as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from concatc.diagnostics import ConcatcError, Diagnostic, UsageError
from concatc.runtime.generations import Generations, Kind
from concatc.runtime.inputs import Given, check_shapes, dims_of, take
from concatc.runtime.instance import Instance
from concatc.runtime.optimizers import Optimizer, OptimizerState
from concatc.runtime.plans import Plans
from concatc.runtime.prepared import Prepared
from concatc.runtime.signature import Input, Signature
from concatc.runtime.source import Phase, Source
from concatc.runtime.views import LossWeights
from concatc.targets import Executable

SEEDS = 2**31
STEP = ("forward", "backward", "update")


class Calls:
    """Runs one view of a net: ``source`` is the net at its dims, ``current`` what it ran last.

    Plans, generations, optimizers and weights of losses are those of all views.  Who calls holds the net's lock.
    """

    def __init__(
        self,
        source: Source,
        plans: Plans,
        generations: Generations,
        optimizers: WeakKeyDictionary[Optimizer, OptimizerState],
        loss_weights: LossWeights,
    ) -> None:
        self.source = source
        self.plans = plans
        self.generations = generations
        self.optimizers = optimizers
        self.current: dict[Phase, Instance] = {}
        self._loss_weights = loss_weights
        self._signatures: dict[Phase, Signature] = {}

    def at(self, source: Source) -> Calls:
        """Another view, at the dims of ``source``."""
        return Calls(source, self.plans, self.generations, self.optimizers, self._loss_weights)

    def signature(self, phase: Phase) -> Signature:
        """What a phase takes and gives."""
        if phase not in self._signatures:
            self._signatures[phase] = self.source.phase(phase).signature
        return self._signatures[phase]

    def again(self, kind: Kind, arrays: dict[str, Any], optimizer: Optimizer | None = None) -> dict[str, float] | None:
        """Make a call as it was made before, natively.  None where it is another one, or something is not plain."""
        generations = self.generations
        prepared = generations.ready.get(kind)
        if prepared is None or prepared.optimizer is not optimizer:
            return None
        instance = prepared.instance
        if instance is not self.current.get(instance.phase) or instance.is_timed:
            return None  # a view at other dims made it; a clock is read between launches
        try:
            return prepared.make(arrays, generations.seed, generations.steps % SEEDS)
        except ConcatcError:
            generations.begin(instance)
            raise

    def forward(self, phase: Phase, kind: Kind, arrays: Mapping[str, Any]) -> None:
        """Run a forward pass on any arrays, and prepare to do so again."""
        instance, executable = self._prepare(phase, arrays)
        instance.run("forward", executable)
        self._prepare_again(kind, instance, executable, ("forward",))

    def train_step(self, arrays: Mapping[str, Any], optimizer: Optimizer | None) -> dict[str, float]:
        """Forward, backward and update on any arrays, and prepare to do so again."""
        update = self.update_of(optimizer) if optimizer is not None else None
        instance, executable = self._prepare("train", arrays, update)
        if update is None:
            instance.run("forward", executable)
            instance.run("backward", executable)
            self._prepare_again("train_step", instance, executable, ("forward", "backward"))
            return instance.losses()
        update.write_scalars()
        update.steps += 1
        instance.run("step", executable, update)
        self._prepare_again("train_step", instance, executable, STEP, optimizer, update)
        return instance.losses()

    def step(self, optimizer: Optimizer) -> None:
        """Run the update alone."""
        instance = self.current.get("train") or self.plans.instance("train", self.source)
        update = self.update_of(optimizer)
        executable = self._code(instance, update)
        self.generations.use(instance)
        update.write_scalars()
        update.steps += 1
        instance.run("update", executable, update)

    def _prepare_again(
        self,
        kind: Kind,
        instance: Instance,
        executable: Executable,
        phases: tuple[str, ...],
        optimizer: Optimizer | None = None,
        update: OptimizerState | None = None,
    ) -> None:
        native = instance.native_call(phases, executable, update)
        # Gradients of outputs that a call gave would be read by the next one.
        if native is not None and not instance.output_grads:
            self.generations.ready[kind] = Prepared(instance, native, executable, optimizer, update)

    def _prepare(
        self, phase: Phase, given: Mapping[str, Any], update: OptimizerState | None = None
    ) -> tuple[Instance, Executable]:
        """The plan for these arrays, with all that it reads in place, and its code."""
        signature = self.signature(phase)
        ignored: Mapping[str, Input] = self.signature("train").inputs if phase == "infer" else {}
        arrays = take(signature, given, ignored, memory=self.plans.memory)
        instance = self.current.get(phase)
        if instance is None or any(array.shape != instance.shapes[name] for name, array in arrays.items()):
            instance = self._instance_for(phase, arrays)
        instance.check_memory()
        generations = self.generations
        generations.begin(instance)
        executable = self._code(instance, update)
        instance.write_inputs(arrays)
        instance.write("loss_weights", "loss_weights", self._loss_weights.at(instance.signature.loss_weights))
        instance.write("random", "random", [generations.seed, generations.steps % SEEDS])
        for name in instance.output_grads:
            instance.write("output_grad", name, 0.0)  # until backward() is given another one
        self.current[phase] = instance
        return instance, executable

    def _code(self, instance: Instance, update: OptimizerState | None) -> Executable:
        """The code to run now."""
        if update is not None:
            self._check_multipliers(instance)
        executable = instance.build(update)
        self.generations.run_with(instance, executable)
        return executable

    def _instance_for(self, phase: Phase, arrays: Mapping[str, Given]) -> Instance:
        signature = self.signature(phase)
        if all(array.shape == signature.inputs[name].type.shape for name, array in arrays.items()):
            return self.plans.instance(phase, self.source)
        dims = dims_of(signature, arrays)
        changed = {name: n for name, n in dims.items() if n != self.source.dims.get(name)}
        if not changed:
            check_shapes(signature, arrays, dims)
        at = ", ".join(f"{name}={n}" for name, n in changed.items())
        why = f"the arrays given mean {at}"
        source = self.plans.at(self.source, {**self.source.dims, **dims}, changed, phase, why)
        check_shapes(source.phase(phase).signature, arrays, dims)
        return self.plans.instance(phase, source)

    def update_of(self, optimizer: Optimizer) -> OptimizerState:
        """The state of an optimizer; raises UsageError for what is none."""
        if not isinstance(optimizer, Optimizer):
            raise UsageError(
                Diagnostic(
                    f"optimizer is {'the class' if isinstance(optimizer, type) else 'a'} "
                    f"{(optimizer if isinstance(optimizer, type) else type(optimizer)).__name__}",
                    help="make one: concatc.SGD(lr=0.1)",
                )
            )
        if optimizer not in self.optimizers:
            self.optimizers[optimizer] = OptimizerState(optimizer, self.plans.store)
        return self.optimizers[optimizer]

    def _check_multipliers(self, instance: Instance) -> None:
        """An update is compiled with the multipliers of the dims that the net was compiled with."""
        known = self.plans.store.signature.params
        at = ", ".join(f"{name}={n}" for name, n in instance.source.dims.items())
        problems = [
            Diagnostic(
                f"with {at} `{name}` learns with lr={p.lr:g} and decay={p.decay:g}, but the net was compiled with "
                f"lr={known[name].lr:g} and decay={known[name].decay:g}",
                help="let these multipliers not depend on dims, or compile the net with those",
            )
            for name, p in instance.signature.params.items()
            if (p.lr, p.decay) != (known[name].lr, known[name].decay)
        ]
        if problems:
            raise UsageError(problems)

    @contextmanager
    def kept_as_it_is(self, update: OptimizerState | None) -> Iterator[None]:
        """Steps in here leave parameters, states, an optimizer's state and the number of steps as they were."""
        store = self.plans.store
        bases = [store.bases["params"], store.bases["states"]]
        store.before_read("params", "states")
        if update is not None:
            store.memory.before_read(update.base)
        before = [base.copy() for base in bases]
        held = (update.steps, update.base.copy()) if update is not None else None
        steps = self.generations.steps
        try:
            yield
        finally:
            store.before_write("params", "states")
            for base, values in zip(bases, before, strict=True):
                base[...] = values
            self.generations.steps = steps
            if update is not None and held is not None:
                update.set_back(*held)
