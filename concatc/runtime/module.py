"""The compiled module: what a user runs."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, SupportsIndex, TypeVar

import numpy as np

from concatc.collector import collector_paused
from concatc.diagnostics import Diagnostic, UsageError
from concatc.ir.types import TensorType
from concatc.loops.memory import Array
from concatc.runtime import checkpoint
from concatc.runtime.calls import SEEDS, Calls
from concatc.runtime.dims import take_dims
from concatc.runtime.elsewhere import Elsewhere
from concatc.runtime.generations import Generations
from concatc.runtime.handed_out import HandedOut
from concatc.runtime.index_check import IndexCheck
from concatc.runtime.inputs import take
from concatc.runtime.instance import Instance
from concatc.runtime.optimizers import Optimizer, OptimizerState
from concatc.runtime.output_grads import take_output_grads
from concatc.runtime.plans import Plans
from concatc.runtime.signature import Signature
from concatc.runtime.source import PHASES, Dim, Phase, Source
from concatc.runtime.store import Store
from concatc.runtime.threads import thread_count
from concatc.runtime.views import Blob, Blobs, LossWeights, Tensors
from concatc.targets.memory import DeviceArray

if TYPE_CHECKING:
    from concatc.inspect.profile import Profile
    from concatc.runtime.memory_report import MemoryReport

P = ParamSpec("P")
R = TypeVar("R")


def _one_at_a_time(
    method: Callable[Concatenate[CompiledModule, P], R],
) -> Callable[Concatenate[CompiledModule, P], R]:
    @functools.wraps(method)
    def locked(self: CompiledModule, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


class CompiledModule(Elsewhere):
    """A net, compiled.  Made by :func:`concatc.compile`.

    Code is generated when it is first needed: training code at the first `forward` or `train_step`, inference code at
    the first `eval`; both share parameters and states.  A module that was not initialised starts as after
    ``init(seed=0)``.

    Arrays are NumPy arrays or anything that speaks DLPack (torch CPU tensors), of the shapes and element types that the
    net declares; on the target ``cuda`` also what has a ``__cuda_array_interface__``.  Where an input's axis is a dim
    of the net (``f32[n, 784]``), arrays may have another size there: the net is then planned for that size, once, as
    long as no parameter's shape depends on it.

    Calls from several threads run one after the other; a `forward` and its `backward` are two calls, so threads that
    train one module need a lock of their own, or `train_step`.
    """

    def __init__(self, source: Source, threads: int | None = None) -> None:
        self._lock = threading.RLock()
        self._plans = Plans(source, thread_count(threads))
        self._bound: dict[str, Any] = {}
        self._optimizers: weakref.WeakKeyDictionary[Optimizer, OptimizerState] = weakref.WeakKeyDictionary()
        self._generations = Generations()
        self._handed_out = HandedOut()
        weights = source.phase("train").signature.loss_weights
        self.loss_weights = LossWeights(weights, self._lock, self._generations.loss_weights_changed)
        self._calls = Calls(source, self._plans, self._generations, self._optimizers, self.loss_weights)

    # -- what it is ------------------------------------------------------------------------------------------------
    @property
    def name(self) -> str:
        """The net's name."""
        return self._source.name

    @property
    def threads(self) -> int:
        """How many threads run it at the most, the calling one included.  No result depends on it."""
        return self._plans.threads

    @property
    def dims(self) -> dict[str, Dim]:
        """The dims it was compiled with."""
        return dict(self._source.dims)

    @property
    def signature(self) -> Signature:
        """Inputs, parameters, states, losses, outputs and kept blobs of the training phase."""
        return self._calls.signature("train")

    @property
    def outputs(self) -> dict[str, TensorType]:
        """What `eval` returns: the outputs of the inference phase, which may be others than those of training."""
        return dict(self._calls.signature("infer").outputs) if "infer" in self._source.phases else {}

    @property
    def index_checks(self) -> list[IndexCheck]:
        """What labels and indices among the inputs must be."""
        return [c for c in self._source.phase("train").index_checks if c.kind == "input"]

    def __repr__(self) -> str:
        dims = ", ".join(f"{name}={value}" for name, value in self.dims.items())
        numel = sum(p.type.numel for p in self.signature.params.values())
        return f"<net {self.name}({dims}) on {self._source.target.name}: {numel:,} parameters>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # What `copy` and `pickle` ask for.
        raise UsageError(
            Diagnostic(
                "a compiled module is native code on memory of its own: it is neither copied nor pickled",
                help="compile the net again where it is needed, and carry its values over with save() and load()",
            )
        )

    def with_dims(self, **dims: Dim) -> CompiledModule:
        """The same net at other dims: ``net.with_dims(n=7)``.

        It shares parameters, gradients, states, optimizers, weights of losses and memory with this one (not what is
        bound with `bind`), which stays usable: a `forward` of one makes a pending `backward` of the other stale, or may
        be followed by it.  For a batch size (a dim that is the first axis of an input) this is a new plan over the same
        code, and nothing is compiled: arrays of that size do the same without being asked.  What this net has run is
        ready to run then; memory is taken at the first step.  Other dims are compiled anew.  Raises UsageError where a
        dim is unknown, no value for it, or a part of a parameter's shape.
        """
        with self._lock, collector_paused():
            given = take_dims(self.name, self.dims, dims)
            changed = {name: n for name, n in given.items() if n != self.dims[name]}
            other = object.__new__(CompiledModule)
            self._store  # noqa: B018  it is shared, so it must be there
            source = self._source
            if changed:
                at = ", ".join(f"{name}={value}" for name, value in changed.items())
                dims, why = {**self.dims, **changed}, f"with_dims means {at}"
                source = self._plans.at(self._source, dims, changed, "train", why)
                self._plans.make_ready(source, self._source, self._optimizers.values())
            other.__dict__ = {**self.__dict__, "_calls": self._calls.at(source), "_bound": {}}
            return other

    # -- values ----------------------------------------------------------------------------------------------------
    @_one_at_a_time
    def init(self, seed: int = 0) -> None:
        """Give every parameter and state its first value; gradients and what optimizers hold (momentum) become 0.

        The values of a parameter depend on ``seed`` and its path alone.  ``seed`` (0 to 2^31 - 1) also seeds dropout.
        """
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise UsageError(f"a seed is a whole number, not {seed!r}")
        if not 0 <= seed < SEEDS:
            raise UsageError(f"a seed is 0 to {SEEDS - 1}, not {seed}")
        generations = self._generations
        generations.initialised, generations.seed, generations.steps = True, int(seed), 0
        self._store.initialise(generations.seed)
        for state in self._optimizers.values():
            state.reset()
        generations.has_grads = False
        generations.parameters_changed()

    @property
    def params(self) -> Tensors:
        """The parameters by path: live views in language layout, ``net.params["fc.weight"][...] = w``."""
        self._ready()
        given = functools.partial(self._handing_out, "param")
        return Tensors("parameter", self._store.lent("param"), self._generations.parameters_changed, given)

    @property
    def grads(self) -> Tensors:
        """The gradients by path of their parameter: live views, as the last backward pass left them."""
        self._ready()
        frozen = {
            name: Diagnostic(f"parameter `{name}` is frozen: it has no gradient", help="`freeze` or `lr=0` says so")
            for name, parameter in self.signature.params.items()
            if parameter.lr == 0.0 and name not in self._store.grads
        }
        return Tensors("gradient of a parameter", self._store.lent("grad"), absent=frozen)

    @property
    def states(self) -> Tensors:
        """The states (running statistics) by path: live views."""
        self._ready()
        given = functools.partial(self._handing_out, "state")
        return Tensors("state", self._store.lent("state"), self._generations.parameters_changed, given)

    @property
    def blobs(self) -> Blobs:
        """The blobs that were compiled with ``keep``: ``net.blobs["h"].data`` and ``.grad``, live views."""
        return Blobs(self._blob, tuple(self.signature.kept), self._blob_names)

    # -- running ---------------------------------------------------------------------------------------------------
    @_one_at_a_time
    def bind(self, inputs: Mapping[str, Any] | None = None, /, **arrays: Any) -> None:
        """Bind inputs to arrays: calls that are not given such an input read the array, as it is at that time.

            net.bind(a=a, label=label)
            net.train_step(optimizer=opt)
            a[...] = next_a                 # the next step reads these

        A call that is given the input takes what it is given; ``bind(a=None)`` ends it.  Nothing is copied now: the
        net holds the array, and every `forward`, `train_step` and `eval` copies its elements to where the plan reads
        them, so it may be written as soon as the call is over, and not during the call.  It must keep its memory while
        it is bound: a torch tensor must not be resized (``resize_``, ``set_``), nor an array (``resize``).  What has no
        memory that NumPy can read (numbers, lists) is converted once, now.  Bound arrays belong to this view of the net
        (`with_dims`).  Raises UsageError for names and element types that are wrong; shapes are checked at each call,
        all together.
        """
        given = _by_name(inputs, arrays)
        kept = {name: value for name, value in given.items() if value is not None}
        unknown = {name: value for name, value in given.items() if value is None and name not in self.signature.inputs}
        taken = take(self.signature, {**kept, **unknown}, {}, some=True, memory=self._plans.memory)
        # What lies on a device is asked anew at each call whose work it waits for.
        held = {name: a.owner if isinstance(a, DeviceArray) else a for name, a in taken.items()}
        self._bound = {name: a for name, a in {**self._bound, **held}.items() if given.get(name, a) is not None}

    def forward(
        self, inputs: Mapping[str, Any] | None = None, /, *, copy: bool = True, **arrays: Any
    ) -> dict[str, Array]:
        """Run the net in the training phase; ``backward`` may follow.

        Inputs are given by name, or as one mapping.  Returns the weighted total as ``"loss"``, each loss unweighted by
        its name, and the outputs.  ``copy=False`` returns views that live until the next call.  Raises UsageError where
        inputs are wrong: all that is wrong at once.
        """
        with self._lock:
            if inputs is not None or self._bound:
                arrays = self._given(inputs, arrays)
            if self._calls.again("forward", arrays) is None:
                self._ready()
                self._calls.forward("train", "forward", arrays)
            instance = self._calls.current["train"]
            self._generations.forward_ran(instance)
            return self._results(instance, copy)

    @_one_at_a_time
    def backward(self, *, output_grads: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """Run the backward pass of the last forward pass.

        Returns the gradients by path of their parameter, and by name for inputs where the net was compiled with
        ``input_grads=True``: views that live until the next call.

        ``output_grads={"logits": g}`` gives gradients of outputs, of their shapes and element types, where the net was
        compiled with ``output_grads``.  They are added to what the losses give: gradients are those of the weighted
        total plus ``sum(g * logits)``.  An output that is not named has none.
        """
        self._needs_backward()
        instance, executable = self._generations.take_pending()
        for name, array in take_output_grads(instance.signature.outputs, instance.output_grads, output_grads).items():
            instance.write("output_grad", name, array)
        instance.run("backward", executable)
        self._generations.backward_ran()
        return self._gradients(instance)

    def eval(self, inputs: Mapping[str, Any] | None = None, /, *, copy: bool = True, **arrays: Any) -> dict[str, Array]:
        """Run the net in the inference phase and return its outputs.

        Only the inputs that the outputs depend on are needed (labels where an output, such as an accuracy, reads them);
        others of the net may be given and are not read.  A pending ``backward`` stays possible: inference has memory of
        its own.
        """
        with self._lock:
            if inputs is not None or self._bound:
                arrays = self._given(inputs, arrays)
            if self._calls.again("eval", arrays) is None:
                self._needs_outputs()
                self._ready()
                self._calls.forward("infer", "eval", arrays)
            instance = self._calls.current["infer"]
            return self._copies(instance.group("output")) if copy else dict(instance.group("output"))

    def train_step(
        self, inputs: Mapping[str, Any] | None = None, /, *, optimizer: Optimizer | None = None, **arrays: Any
    ) -> dict[str, float]:
        """Forward, backward and update in one call; without an optimizer only the gradients are computed.

        Returns the losses: the weighted total as ``"loss"``, each loss unweighted by its name.

        Where inputs are C-contiguous NumPy arrays of the net's element types, and of the sizes of the call before, all
        of it is one native call: arrays are checked and copied there, too.  Other arrays take some ten microseconds
        more.
        """
        with self._lock:
            if inputs is not None or self._bound:
                arrays = self._given(inputs, arrays)
            losses = self._calls.again("train_step", arrays, optimizer)
            if losses is None:
                self._needs_loss()
                self._ready()
                losses = self._calls.train_step(arrays, optimizer)
            self._generations.step_ran(optimizer is not None)
            return losses

    @_one_at_a_time
    def step(self, optimizer: Optimizer) -> None:
        """Update the parameters with the gradients that the last backward pass left in ``grads``.

        Raises UsageError where no backward pass ran since the last update.
        """
        self._needs_backward()
        if not self._generations.has_grads:
            raise UsageError("step() needs a backward() before it: no gradients were computed since the last update")
        self._calls.step(optimizer)
        self._generations.has_grads = False
        self._generations.parameters_changed()

    # -- reading it ------------------------------------------------------------------------------------------------
    def ir(self, level: str = "graph", *, phase: Phase = "train", blob: str | None = None) -> str:
        """The IR of a level: ``graph``, ``split``, ``joint``, ``optimized``, ``kernels``, ``plan`` or ``loops``.

        With ``blob`` only what makes and reads that blob and its gradient.
        """
        self._check_phase(phase)
        return self._source.phase(phase).dump(level, blob=blob)

    @property
    def kernels(self) -> str:
        """The generated kernels of the training phase, as source text."""
        return self._plans.code("train", self._source).text("kernels")

    @property
    def memory(self) -> MemoryReport:
        """Bytes by base, what threads and optimizers took since the first step, and the bytes that are copied."""
        from concatc.runtime.memory_report import MemoryReport  # running a net needs no report

        lowered = {phase: self._source.phase(phase) for phase in self._source.phases}
        return MemoryReport.of(
            self.name,
            lowered,
            {phase: pool.thread_bytes for phase, pool in self._plans.pools.items()},
            sum(state.base.nbytes for state in list(self._optimizers.values())),
            self._handed_out.spare_bytes,
        )

    @_one_at_a_time
    def profile(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        phase: Phase = "train",
        rounds: int | None = None,
        optimizer: Optimizer | None = None,
        measure_peaks: bool = False,
        cpu_time: bool = False,
        **arrays: Any,
    ) -> Profile:
        """Measure a step launch by launch: time, GFLOP/s, GB/s and share of the roofline of each kernel.

        ``phase="train"`` profiles `train_step`, with the update of ``optimizer`` where one is given; ``"infer"``
        profiles `eval`.  Without inputs some are made up, at the dims of the net.  Of ``rounds`` rounds (by default as
        many as take two seconds), each a call as it is and one with a clock read before and after every launch, medians
        are taken.  What the machine can do is measured once and kept; ``measure_peaks=True`` measures it again.
        ``cpu_time=True`` counts what the processor gave to this thread, for machines that do other work besides.
        Parameters, states and the optimizer are afterwards as before; gradients are those of the last call, and after
        ``"train"`` no backward pass may follow a forward pass of before.  Raises UsageError on a target without
        kernels, and for ``"train"`` where the net has no loss.
        """
        from concatc.runtime.profiling import check_rounds, made_up_inputs, profile_calls

        check_rounds(rounds)
        self._check_phase(phase)
        if phase == "infer" and optimizer is not None:
            raise UsageError("inference has no update: an optimizer goes with the phase `train`")
        if phase == "train" and not self.signature.loss_weights:
            help = '`phase="infer"` (`concatc bench --eval`) profiles its inference'
            raise UsageError(Diagnostic(f"net {self.name} has no loss, so it has no training step", help=help))
        given = _by_name(inputs, arrays)
        if not given:
            self._plans.instance(phase, self._source).check_memory()
            given = made_up_inputs(self._calls.signature(phase), self._source.phase(phase).index_checks)

        def call() -> object:
            return self.eval(given) if phase == "infer" else self.train_step(given, optimizer=optimizer)

        self._ready()
        update = self._calls.update_of(optimizer) if optimizer is not None else None
        with self._calls.kept_as_it_is(update):
            call()
            profile = profile_calls(self._calls.current[phase], call, rounds, update, measure_peaks, cpu_time)
        if phase == "train":
            self._generations.profiled()
        return profile

    # -- weights ---------------------------------------------------------------------------------------------------
    @_one_at_a_time
    def save(self, path: str | os.PathLike[str], *, optimizer: Optimizer | None = None) -> None:
        """Write parameters and states to a safetensors file; with an optimizer its slots too.

        The file is written beside ``path`` and then renamed, so a crash leaves the old file.
        """
        self._ready()
        state = self._calls.update_of(optimizer) if optimizer is not None else None
        checkpoint.save(Path(path), self.name, self._store, state)

    @_one_at_a_time
    def load(
        self,
        path: str | os.PathLike[str],
        *,
        rename: Mapping[str, str] | None = None,
        strict: bool = True,
        optimizer: Optimizer | None = None,
    ) -> checkpoint.LoadReport:
        """Read parameters and states from a safetensors file; never runs code from it.

        ``rename`` maps names in the file to paths in the net.  Raises one UsageError that lists every missing name,
        unexpected name and wrong shape, and changes nothing then; ``strict=False`` takes what fits by name and
        returns the lists.
        """
        self._ready()
        state = self._calls.update_of(optimizer) if optimizer is not None else None
        report = checkpoint.load(Path(path), self._store, rename or {}, strict, state)
        self._generations.parameters_changed()
        return report

    # -- inside ----------------------------------------------------------------------------------------------------
    @property
    def _source(self) -> Source:
        return self._calls.source

    @property
    def _store(self) -> Store:
        return self._plans.store

    @staticmethod
    def _check_phase(phase: str) -> None:
        if phase not in PHASES:
            raise UsageError(f"a phase is `train` or `infer`, not `{phase}`")

    def _ready(self) -> None:
        if not self._generations.initialised:
            self.init(0)

    def _given(self, inputs: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays of a call by input name, those that are bound too."""
        return {**self._bound, **_by_name(inputs, arrays)}

    def _results(self, instance: Instance, copy: bool) -> dict[str, Array]:
        results = {**instance.group("total"), **instance.group("loss"), **instance.group("output")}
        return self._copies(results) if copy else results

    def _copies(self, results: Mapping[str, Array]) -> dict[str, Array]:
        return {name: self._handed_out.copy(name, view) for name, view in results.items()}

    def _gradients(self, instance: Instance) -> dict[str, Array]:
        inputs = {name: instance.read("input_grad", name) for name in instance.names("input_grad")}
        self._store.before_read("grads")
        return {**self._store.lent("grad"), **inputs}

    def _blob(self, name: str) -> Blob:
        instance = self._generations.last
        if instance is None:
            raise UsageError(f"blob `{name}` has no value before the first forward()")
        has_grad = name in instance.names("kept_grad")
        return Blob(instance.read("kept", name), instance.read("kept_grad", name) if has_grad else None)

    def _blob_names(self) -> list[str]:
        """Inputs and results of the graph, by the names that the source gives them."""
        net = self._source.phase("train").graph.main
        results = [result.name for op in net.ops for result in op.results if result.name]
        return [*self.signature.inputs, *results]

    def _needs_backward(self) -> None:
        slots = self._source.phase("train").interface.slots
        if not any(key.startswith("output_grad:") for key in slots):
            self._needs_loss()

    def _needs_loss(self) -> None:
        if not self.signature.loss_weights:
            raise UsageError(
                Diagnostic(f"net {self.name} has no loss, so it has no backward pass", help="add `loss ..` to the net")
            )

    def _needs_outputs(self) -> None:
        if self._source.no_inference is not None:
            raise UsageError(self._source.no_inference)
        if not self.outputs:
            where = " in inference" if self.signature.outputs else ""
            raise UsageError(Diagnostic(f"net {self.name} has no outputs{where}", help="add `output NAME` to the net"))

    @_one_at_a_time
    def _handing_out(self, kind: str, what: str, name: str) -> None:
        self._generations.watch.add(what, self._store.views(kind)[name], lambda: self._store.fetch(kind, name))


def _by_name(inputs: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a call by input name; raises UsageError where what stands for all of them is no mapping."""
    if inputs is not None and not isinstance(inputs, Mapping):
        message = f"inputs are given by name or as one mapping, not as a {type(inputs).__name__}"
        help = "write optimizer=.." if isinstance(inputs, Optimizer) else "write x=array, or {'x': array}"
        raise UsageError(Diagnostic(message, help=help))
    return {**(inputs or {}), **arrays}
