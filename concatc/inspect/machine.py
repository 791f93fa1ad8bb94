"""Whether a net fits the machine that it is looked at on: sizes that it does not hold are said before it is run."""

from __future__ import annotations

from concatc.diagnostics import Diagnostic
from concatc.ir.comments import bytes_text
from concatc.ir.core import FuncOp
from concatc.ir.types import TensorType
from concatc.loops.free_memory import machine_bytes

_HELP = "smaller dims need less: --dim n=64, or dims={..}"


def beyond_machine(need_bytes: int) -> str | None:
    """``more than the 15.6 GiB of this machine``; None where it has that much."""
    here = machine_bytes()
    return f"more than the {bytes_text(here)} of this machine" if need_bytes > here else None


def least_bytes(net: FuncOp) -> int:
    """The bytes of arguments and results of a graph: a phase needs no less, whatever its plan is."""
    values = [*net.args, *net.ret.operands]
    return sum(value.type.size_bytes for value in values if isinstance(value.type, TensorType))


def size_warning(what: str, need_bytes: int) -> Diagnostic | None:
    """The warning that ``what`` needs more than the machine has."""
    beyond = beyond_machine(need_bytes)
    if beyond is None:
        return None
    return Diagnostic(f"{what} {bytes_text(need_bytes)}, {beyond}", help=_HELP, severity="warning")
