"""Runs one net through everything that must agree: levels, passes, text, plan, checker, PyTorch, the cpu target."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from concatc.frontend.cnet import load
from concatc.ir.clone import clone_module
from concatc.ir.core import FuncOp, Module
from concatc.ir.parser import parse_module
from concatc.ir.printer import MACHINE, READING, print_module
from concatc.ir.types import NUMPY_DTYPES
from concatc.loops.bases import argument_key, result_keys
from concatc.loops.memory import allocate
from concatc.loops.plan import Plan
from concatc.passes.average_first import AverageFirst
from concatc.passes.avoid_copies import AvoidCopies
from concatc.passes.canonicalize import Canonicalize
from concatc.passes.check_plan import check_plan
from concatc.passes.choose_recompute import ChooseRecompute
from concatc.passes.concat_algebra import ConcatAlgebra
from concatc.passes.cse import Cse
from concatc.passes.dce import Dce
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.fuse import Fuse
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.join_rows import JoinRows
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.passes.merge_branches import MergeBranches
from concatc.passes.order_kernels import OrderKernels
from concatc.passes.plan_memory import PlanMemory, traffic_of
from concatc.passes.stats_grad_of_sums import StatsGradOfSums
from concatc.passes.stats_over_concat import StatsOverConcat
from concatc.passes.verify import verify
from concatc.runtime.bounds import index_checks
from concatc.targets.reference.interpreter import argument_name, run_function
from concatc.targets.reference.plan_interpreter import BaseMemory as Memory
from concatc.targets.reference.plan_interpreter import run_plan
from tests.emulated import run_emulated, tiles_for_all

if TYPE_CHECKING:
    from concatc.targets.cpu.executable import CpuExecutable

Array = np.ndarray[Any, Any]
Results = dict[tuple[str, str], Array]

# Passes that only say things in another way or drop what is not needed; sums may be added in another order.
SIMPLIFY = (Canonicalize(), ConcatAlgebra(), Cse(), Dce())
# Gradients of a net that are compared with finite differences, at most.
MOST_DIFFERENCES = 3
TEXTS = ("graph", "split", "joint", "kernels", "loops")


class NetFailure(Exception):
    """A net that does not keep a promise: at which stage, and what was seen."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage = stage


@dataclass
class Check:
    """What to run besides the reference; ``counts`` collects what was done."""

    torch: bool = False
    cpu: Path | None = None  # a directory for object code, where nets run on the cpu target too
    cuda: bool = False  # whether their device kernels run on the emulator
    finite_differences: int = MOST_DIFFERENCES
    texts: tuple[str, ...] = TEXTS  # levels whose text is printed and parsed
    keep: int = 2
    counts: Counter[str] = field(default_factory=Counter)


def check_net(source: str, check: Check, seed: int = 0) -> None:
    """Run a net; raises :class:`NetFailure` at the first thing that is not as it must be."""
    _Run(source, check, seed).run()


def check_against_torch(source: str, seed: int = 0) -> None:
    """All results and gradients of a net against PyTorch, in float64, and nothing else."""
    _Run(source, Check(torch=True), seed).run_against_torch()


class _Run:
    def __init__(self, source: str, check: Check, seed: int) -> None:
        self.source = source
        self.check = check
        self.seed = seed
        # What is chosen at random depends on the net, whatever comments stand above it.
        net = "".join(line for line in source.splitlines(keepends=True) if not line.startswith("#"))
        self.rng = np.random.default_rng([seed, int(hashlib.sha256(net.encode()).hexdigest()[:8], 16)])

    def run(self) -> None:
        graph = self.start()
        expected = run64(graph.main, self.data)
        self.text("graph", graph)
        module = clone_module(graph)
        if self.rng.integers(2):
            merge = MergeBranches(branches=bool(self.seed % 2), larger=self.seed % 4 < 2)
            for pass_ in (*SIMPLIFY, AverageFirst(), JoinRows(), merge, StatsOverConcat()):
                self.stage(f"{pass_.name} before", lambda pass_=pass_: pass_.run(module))
                self.same(f"{pass_.name} before", module, expected, 1e-10)
        self.stage("insert-splits", lambda: InsertSplits().run(module))
        self.stage("split", lambda: verify(module, "split"))
        found = self.same("insert-splits", module, expected, 1e-10)
        self.text("split", module)
        if graph.main.returned("total"):
            self.stage("derive-backward", lambda: DeriveBackward(input_grads=True).run(module))
            self.stage("joint", lambda: verify(module, "joint"))
            found = expected = self.same("derive-backward", module, expected, 1e-10)
            self.text("joint", module)
            self.differences(module.main, expected)
            if self.check.torch:
                self.torch(graph.main, expected)
        if self.rng.integers(2):
            for pass_ in (*SIMPLIFY, StatsGradOfSums(), InsertSplits()):
                self.stage(f"{pass_.name} after", lambda pass_=pass_: pass_.run(module))
                found = self.same(f"{pass_.name} after", module, expected, 1e-10)
        recompute = ChooseRecompute(("none", "auto", "max")[self.rng.integers(3)])
        self.stage("choose-recompute", lambda: recompute.run(module))
        self.same("choose-recompute", module, found, 0.0)
        fuse = Fuse(prologues=bool(self.rng.integers(2)))
        self.stage("fuse", lambda: fuse.run(module))
        self.same("fuse", module, expected, 1e-10)
        self.stage("order-kernels", lambda: OrderKernels().run(module))
        self.stage("kernels", lambda: verify(module))
        found = self.same("order-kernels", module, expected, 1e-9)
        before = traffic_of(module.main)
        self.stage("avoid-copies", lambda: AvoidCopies().run(module))
        self.stage("kernels", lambda: verify(module))
        self.same("avoid-copies", module, found, 1e-9)
        if traffic_of(module.main).bytes < before.bytes:
            self.check.counts["plans with fewer copies"] += 1
        self.text("kernels", module)
        self.plan(module)
        self.check.counts["nets"] += 1

    def start(self) -> Module:
        # Most nets are planned in f64, where a difference is a mistake; some in f32, where it may be rounding.
        self.dtype = "f32" if self.rng.integers(4) == 0 else "f64"
        self.tolerance = 1e-3 if self.dtype == "f32" else 1e-9
        graph: Module = self.stage("front end", self.load)
        self.data = random_data(graph.main, self.seed)
        return graph

    def run_against_torch(self) -> None:
        graph = self.start()
        if graph.main.returned("total"):
            joint = clone_module(graph)
            self.stage("insert-splits", lambda: InsertSplits().run(joint))
            self.stage("derive-backward", lambda: DeriveBackward(input_grads=True).run(joint))
            self.torch(graph.main, self.stage("joint", lambda: run64(joint.main, self.data)))
        self.check.counts["nets"] += 1

    # -- stages ----------------------------------------------------------------------------------------------------
    def load(self) -> Module:
        module, _ = load(self.source, "random.cnet", dtype=self.dtype)
        # Blobs of random nets are called v1, v2, ..
        named = [r.name for op in module.main.ops for r in op.results if re.fullmatch(r"v\d+", r.name)]
        keep = [named[k] for k in sorted(self.rng.permutation(len(named))[: self.check.keep])]
        module, _ = load(self.source, "random.cnet", keep=keep, dtype=self.dtype)
        return module

    def stage(self, name: str, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except NetFailure:
            raise
        except Exception as error:
            raise NetFailure(name, f"{type(error).__name__}: {error}") from error

    def same(self, name: str, module: Module, expected: Results, tolerance: float) -> Results:
        """The values are those of the level before, which may have fewer results; all values are returned."""
        found: Results = self.stage(name, lambda: run64(module.main, self.data))
        gradients = [np.abs(v[np.isfinite(v)]).max(initial=0.0) for (kind, _), v in expected.items() if "grad" in kind]
        # A gradient that is 0 (of a bias before batch norm) is a sum of terms that cancel: it errs as they do.
        terms = float(max(gradients, default=0.0))
        for key, value in expected.items():
            if key not in found:
                raise NetFailure(name, f"{key} is gone")
            difference = distance(found[key], value, max(1e-3, 1e-3 * terms) if "grad" in key[0] else 1e-3)
            if not difference <= tolerance:
                raise NetFailure(name, f"{key} differs by {difference:.3g} of its largest element")
        return found

    def text(self, level: str, module: Module) -> None:
        """Text -> IR -> text is a fixed point; now and then in the style for people too."""
        styles = (MACHINE, READING) if self.rng.integers(4) == 0 else (MACHINE,)
        if level not in self.check.texts:
            return
        text = print_module(module, MACHINE)
        for style in styles:
            shown = print_module(module, style)
            again = self.stage(f"text of {level}", lambda shown=shown: print_module(parse_module(shown), MACHINE))
            # The style for people leaves locations out.
            if style is MACHINE and again != text:
                raise NetFailure(f"text of {level}", "printing, parsing and printing again changes it")
            self.check.counts["round trips"] += 1

    def differences(self, func: FuncOp, results: Results) -> None:
        """One element of a few gradients against central differences."""
        keys = [key for key in results if key[0] in ("grad", "input_grad") and results[key].size]
        # All are drawn, whatever number is checked: what is chosen behind them stays the same.
        drawn = [keys[number] for number in self.rng.permutation(len(keys))[:MOST_DIFFERENCES]]
        elements = [int(self.rng.integers(results[key].size)) for key in drawn]
        for key, element in list(zip(drawn, elements, strict=True))[: self.check.finite_differences]:
            grad = results[key]
            at = np.unravel_index(element, grad.shape)
            wide, narrow = (self.difference(func, key[1], at, step) for step in (2e-4, 1e-4))
            numeric = (4 * narrow - wide) / 3
            scale = max(1.0, float(np.abs(grad).max()), abs(numeric))
            if not abs(wide - narrow) <= 1e-6 * scale:
                # A kink or a steep curve within the step: differences say nothing here.
                self.check.counts["differences that say nothing"] += 1
                continue
            if not abs(numeric - grad[at]) <= 1e-6 * scale:
                where = list(map(int, at))
                raise NetFailure("finite differences", f"{key}{where} is {grad[at]}, the difference {numeric}")
            self.check.counts["finite differences"] += 1

    def difference(self, func: FuncOp, name: str, at: tuple[Any, ...], step: float) -> float:
        ends = []
        for sign in (1, -1):
            moved = dict(self.data)
            moved[name] = self.data[name].copy()
            moved[name][at] += sign * step
            ends.append(float(run64(func, moved)["total", "loss"]))
        return (ends[0] - ends[1]) / (2 * step)

    def torch(self, graph: FuncOp, results: Results) -> None:
        """All results and gradients against PyTorch's autograd in float64."""
        from tests.torch_graph import torch_step

        witness = self.stage("torch", lambda: torch_step(graph, self.data))
        for key, value in results.items():
            if key in witness:
                difference = distance(value, witness[key])
                if not difference <= 1e-8:
                    raise NetFailure("torch", f"{key} differs by {difference:.3g} of its largest element")
        self.check.counts["torch"] += 1

    def plan(self, module: Module) -> None:
        plan: Plan = self.stage("plan-memory", lambda: PlanMemory().plan(module))
        wrong = self.stage("check-plan", lambda: check_plan(plan, module.main))
        if wrong:
            raise NetFailure("check-plan", "; ".join(d.message for d in wrong[:3]))
        args = [self.data[argument_name(a)].astype(NUMPY_DTYPES[a.dtype]) for a in module.main.args]
        values = {argument_key(a): x for a, x in zip(module.main.args, args, strict=True)}
        expected = run_function(module.main, args)
        exact = run_function(module.main, args, float64=True)
        noise = {}
        run = self.stage("plan interpreter", lambda: run_plan(plan, values))
        for key, value, precise in zip(result_keys(module.main), expected, exact, strict=True):
            noise[key] = distance(value, precise)
            difference = distance(run[key], value)
            if not difference <= self.tolerance + 30 * noise[key]:
                raise NetFailure("plan interpreter", f"{key} differs by {difference:.3g} of its largest element")
        self.check.counts["plans"] += 1
        precise_values = dict(zip(result_keys(module.main), exact, strict=True))
        if self.check.cpu is not None:
            self.cpu(module, plan, values, precise_values, noise)
        if self.check.cuda:
            with tiles_for_all() if self.seed % 2 else nullcontext():
                memory = self.stage("cuda emulator", lambda: run_emulated(plan, values))
            self.near("cuda emulator", memory, precise_values, noise)
            self.check.counts["cuda"] += 1

    def cpu(
        self,
        module: Module,
        plan: Plan,
        values: Mapping[str, Array],
        exact: Mapping[str, Array],
        noise: Mapping[str, float],
    ) -> None:
        """The native step, within a few times the rounding error of the reference."""
        from concatc.targets.cache import Cache
        from concatc.targets.cpu.target import CpuTarget

        assert self.check.cpu is not None
        target = CpuTarget(Cache(self.check.cpu))
        loops = self.stage("lower-to-loops", lambda: lower_to_loops(plan))
        self.text("loops", loops)
        executable = self.stage("cpu build", lambda: target.build_loops(loops))
        memory = Memory(plan)
        for key, value in values.items():
            memory.set(key, value)
        self.stage("cpu run", lambda: executable.run(memory.bases, "step"))
        spoiled = memory.spoiled()
        if spoiled:
            raise NetFailure("cpu run", f"bytes outside all values were written: {', '.join(spoiled)}")
        self.near("cpu run", memory, exact, noise)
        self.threads(executable, plan, values, {key: memory.get(key) for key in exact})
        self.check.counts["cpu"] += 1

    def near(self, name: str, memory: Memory, exact: Mapping[str, Array], noise: Mapping[str, float]) -> None:
        """All results are within a few times the rounding error of the reference."""
        for key, value in exact.items():
            difference = distance(memory.get(key), value)
            if not difference <= self.tolerance + 30 * noise[key]:
                raise NetFailure(name, f"{key} differs by {difference:.3g} of its largest element")

    def threads(
        self, executable: CpuExecutable, plan: Plan, values: Mapping[str, Array], expected: Mapping[str, Array]
    ) -> None:
        """The same bits with three threads, however small what is cut."""
        from concatc.targets.cpu import chunks

        memory = Memory(plan)
        for key, value in values.items():
            memory.set(key, value)
        with patch.multiple(chunks, WORTH=1, LEAST=1):
            own = {"threads": allocate(executable.thread_bytes(3))}
        self.stage("cpu run, threads", lambda: executable.run({**memory.bases, **own}, "step", 3))
        if memory.spoiled():
            raise NetFailure(
                "cpu run, threads", f"bytes outside all values were written: {', '.join(memory.spoiled())}"
            )
        for key, value in expected.items():
            if memory.get(key).tobytes() != value.tobytes():
                raise NetFailure("cpu run, threads", f"{key} has other bits with three threads")


def random_data(func: FuncOp, seed: int) -> dict[str, Array]:
    """Values for all arguments: parameters and inputs around 0.7, states positive, labels within their bounds."""
    rng = np.random.default_rng(seed)
    bounds: dict[str, int] = {}
    for bound in index_checks(func):
        bounds[bound.name] = min(bound.extent, bounds.get(bound.name, bound.extent))
    values: dict[str, Array] = {}
    for arg in func.args:
        name, kind = argument_name(arg), arg.attrs["cnet.kind"]
        if kind == "random":
            values[name] = np.array([seed % 1000, 3], np.int32)
        elif kind in ("loss_weights", "state"):
            values[name] = 0.5 + rng.random(arg.shape)
        elif arg.tensor.is_float:
            values[name] = 0.7 * rng.normal(size=arg.shape)
        else:
            values[name] = rng.integers(0, bounds.get(name, 2), arg.shape).astype(np.int32)
    return values


def run64(func: FuncOp, data: Mapping[str, Array]) -> Results:
    """Results by (kind, name), in float64."""
    arrays = run_function(func, {argument_name(a): data[argument_name(a)] for a in func.args}, float64=True)
    keys = [(str(a["cnet.kind"]), str(a["cnet.name"])) for a in func.result_attrs]
    return dict(zip(keys, arrays, strict=True))


def distance(a: Array, b: Array, floor: float = 1e-3) -> float:
    """The largest difference, over the largest element of ``b`` (at least ``floor``); NaN and infinities must agree."""
    if a.shape != b.shape:
        return float("inf")
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    with np.errstate(invalid="ignore"):
        gap = np.where(np.isnan(b) | (a == b), 0.0, np.abs(a.astype(np.float64) - b))
        finite = np.abs(b[np.isfinite(b)])
    return float(gap.max(initial=0.0)) / max(float(finite.max(initial=0.0)), floor)
