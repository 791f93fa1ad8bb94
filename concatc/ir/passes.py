"""Passes and the manager that runs them.

A pass is a frozen dataclass whose fields are its options, with a ``name`` (``insert-splits``) and ``run(module)``,
which rewrites the module in place:

    PassManager([InsertSplits(), DeriveBackward()], verify=verify, verify_each=True).run(module)
"""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from concatc.collector import collector_paused
from concatc.diagnostics import ConcatcError, Diagnostic, UsageError, did_you_mean
from concatc.ir.core import Module
from concatc.ir.printer import READING, Style, print_module
from concatc.ir.verifier import verify as verify_structure


class Pass(Protocol):
    """Module -> module, in place."""

    @property
    def name(self) -> str:
        """How dumps, options and errors call it: ``insert-splits``."""
        ...

    def run(self, module: Module) -> None:
        """Rewrite the module.  Raises :class:`ConcatcError` where the net is wrong."""
        ...


def at_least(least: int, default: int) -> Any:
    """The field of a pass for a number that is ``least`` or more: ``max_ops: int = at_least(1, default=16)``.

    Pipelines that are given as text (`registry.make_pass`) are held to it.
    """
    return field(default=default, metadata={"least": least})


@dataclass(frozen=True)
class Timing:
    """How long one pass took."""

    name: str
    elapsed_ns: int


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)


@dataclass
class PassManager:
    """Runs passes in order.

    ``verify_each`` runs ``verify`` before the first pass and after each; ``print_after`` names passes after which the
    module is printed, ``print_after_all`` prints what each pass changed, as a unified diff; both go to ``write``.
    With ``time_passes`` the table of :meth:`timing_report` is written at the end.
    """

    passes: Sequence[Pass]
    verify: Callable[[Module], None] = verify_structure
    verify_each: bool = False
    print_after: Sequence[str] = ()
    print_after_all: bool = False
    time_passes: bool = False
    style: Style = READING
    write: Callable[[str], None] = _to_stderr
    timings: list[Timing] = field(default_factory=list)

    def run(self, module: Module) -> None:
        """Run all passes on ``module``, in place."""
        self._check_names()
        if self.verify_each:
            self._verify(module, "before the first pass")
        text = print_module(module, self.style) if self.print_after_all else ""
        for pass_ in self.passes:
            start = time.perf_counter_ns()
            with collector_paused():
                pass_.run(module)
            self.timings.append(Timing(pass_.name, time.perf_counter_ns() - start))
            if self.verify_each:
                self._verify(module, f"after {pass_.name}")
            if self.print_after_all:
                text = self._write_diff(text, module, pass_.name)
            if pass_.name in self.print_after:
                self.write(f"// after {pass_.name}\n{print_module(module, self.style)}")
        if self.time_passes:
            self.write(self.timing_report())

    def timing_report(self) -> str:
        """A table: milliseconds and share of each pass that has run, in order."""
        total = sum(t.elapsed_ns for t in self.timings)
        width = max([len(t.name) for t in self.timings] + [len("total")])
        rows = [
            f"{t.name:<{width}}  {t.elapsed_ns / 1e6:9.2f} ms  {100 * t.elapsed_ns / max(total, 1):5.1f} %"
            for t in [*self.timings, Timing("total", total)]
        ]
        return "\n".join(rows) + "\n"

    def _check_names(self) -> None:
        known = [p.name for p in self.passes]
        unknown = [name for name in self.print_after if name not in known]
        if unknown:
            raise UsageError(
                [Diagnostic(f"there is no pass `{n}` in this pipeline", help=did_you_mean(n, known)) for n in unknown]
            )

    def _verify(self, module: Module, when: str) -> None:
        try:
            self.verify(module)
        except ConcatcError as error:
            lead = Diagnostic(f"the IR is broken {when}", help="this is a bug of the pass, not of the net")
            raise ConcatcError([lead, *error.diagnostics], error.sources) from error

    def _write_diff(self, before: str, module: Module, name: str) -> str:
        after = print_module(module, self.style)
        diff = list(
            difflib.unified_diff(before.splitlines(), after.splitlines(), "before", f"after {name}", lineterm="", n=1)
        )
        self.write("\n".join(diff) + "\n" if diff else f"// {name} changes nothing\n")
        return after
