"""A dump as a net: what is edited in it is what runs.

    concatc compile net.cnet --dump-ir dump
    (edit dump/03-optimized.mlir)
    concatc run dump/03-optimized.mlir --data in.npz

A dump of the levels graph to kernels can be run; the passes behind its level are run on it.  It has one choice of dims.
Inference is the part of it that its outputs need.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from concatc.compiler import LEVELS, Compilation, Lowering, Options
from concatc.diagnostics import Diagnostic, UsageError
from concatc.ir.clone import clone_module
from concatc.ir.core import Module
from concatc.loops.bases import Interface, interface_of
from concatc.op import is_op
from concatc.passes.dumps import load_dump
from concatc.passes.graph import is_backward
from concatc.passes.keep_outputs import KeepOutputs
from concatc.runtime.source import Dim, Phase

SUFFIX = ".mlir"


def level_of(module: Module) -> str:
    """The level whose invariant a module holds."""
    ops = module.main.ops
    if any(op.name == "cnet.kernel" for op in ops):
        return "kernels"
    # A joint graph may be simplified already; running what was edited means running no pass on it again.
    if any(is_backward(op) for op in ops):
        return "optimized"
    return "split" if any(is_op(op, "split") for op in ops) else "graph"


class EditedDump(Compilation):
    """The source behind a module that is compiled from a dump."""

    def __init__(self, text: str, filename: str, options: Options) -> None:
        # A dump is read, not elaborated: nothing of a net's text is looked at.
        given = [n for n in ("dims", "net", "keep", "input_grads") if getattr(options, n) != getattr(Options(), n)]
        if given:
            raise UsageError(f"{filename} is a dump: {', '.join(given)} are settled in it")
        self.text = text
        self.filename = filename
        self.options = options
        self.warnings = []
        module = load_dump(text, filename)
        if any(op.name == "cnet.window" for op in module.main.ops) or module.main.sym_name == "step":
            raise UsageError(
                Diagnostic(
                    f"{filename} holds a plan or loops, which do not say what their arguments are",
                    help=f"dumps of {', '.join(LEVELS[:5])} can be run",
                )
            )
        self.level = level_of(module)
        self._lowerings = {}
        self._lowerings["train"] = EditedLowering(module, self.level, "train", options, None)

    def phase(self, phase: Phase) -> Lowering:
        """The dump, or what its outputs need of it."""
        if phase not in self._lowerings:
            train = self._lowerings["train"]
            module = clone_module(train.graph)
            KeepOutputs().run(module)
            self._lowerings[phase] = EditedLowering(module, self.level, phase, self.options, train)
        return self._lowerings[phase]

    def with_dims(self, dims: Mapping[str, Dim]) -> EditedDump:
        """A dump has one choice of dims."""
        at = ", ".join(f"{name}={value}" for name, value in self.dims.items())
        raise UsageError(Diagnostic(f"{self.filename} was made for {at}", help="compile the net for other sizes"))


class EditedLowering(Lowering):
    """Levels from that of the dump on; ``graph`` and ``joint`` stand for the dump where it is behind them."""

    def __init__(self, module: Module, level: str, phase: Phase, options: Options, train: Lowering | None) -> None:
        super().__init__(module, phase, options, None if train is None else lambda: train.interface)
        self._first = level
        self._levels = {level: module}

    @property
    def graph(self) -> Module:
        """The dump."""
        return self._levels[self._first]

    @property
    def joint(self) -> Module:
        """Level 02, or the dump where it is behind it."""
        return self.level("joint") if self._first in ("graph", "split", "joint") else self.graph

    @cached_property
    def interface(self) -> Interface:
        """Where arguments and results live."""
        return interface_of(self.joint.main, self._like() if self._like is not None else None)

    def level(self, name: str) -> Module:
        """The module of a level; raises UsageError for one before the dump's."""
        if LEVELS.index(name) < LEVELS.index(self._first):
            raise UsageError(f"the net was read from a dump of the level {self._first}; it has no {name}")
        return super().level(name)
