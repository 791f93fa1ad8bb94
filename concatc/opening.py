"""Opens a net to be run: off the cache where it may lie there, else compiled.  What either needs is imported then."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.options import Options
from concatc.stages import stage

if TYPE_CHECKING:
    from concatc.cached_net import CachedNet
    from concatc.compiler import Compilation

VARIABLE = "CONCATC_CACHE"
KEPT = ("nets", "objects")


def keeps_nets() -> bool:
    """Whether whole nets are kept: ``CONCATC_CACHE=objects`` keeps object code only, for who works on passes.

    Raises :class:`UsageError` for what is neither that nor ``nets``.
    """
    chosen = os.environ.get(VARIABLE) or "nets"
    if chosen not in KEPT:
        help = did_you_mean(chosen, KEPT) or "CONCATC_CACHE_DIR says where the cache is"
        raise UsageError(Diagnostic(f"{VARIABLE} is `nets` (the default) or `objects`, not {chosen!r}", help=help))
    return chosen == "nets"


def open_net(text: str, filename: str, options: Options) -> Compilation | CachedNet:
    """A net to be run.

    Raises :class:`ConcatcError` with all errors of the text, and :class:`UsageError` where no plan keeps the budget or
    ``CONCATC_CACHE`` is nonsense.
    """
    keeps = keeps_nets()
    is_shown = options.verify_each or options.verify_plan or options.print_after or options.print_after_all
    if options.target == "cpu" and not is_shown and keeps:
        with stage("imports"):
            from concatc.cached_net import cached_net
        return cached_net(text, filename, options)
    with stage("imports"):
        from concatc.compiler import compile_to_run
    return compile_to_run(text, filename, options)
