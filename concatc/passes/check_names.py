"""Attributes of the dialect that nothing reads: a dump that says `cnet.lrr = 0.0` means something, and gets nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from concatc.diagnostics import Diagnostic, did_you_mean
from concatc.ir.core import Attr, FuncOp, Operation
from concatc.loops.declaration import BASE, CHOICES, DIMS, NET, OFFSET, STRIDES
from concatc.op import DIALECT

INTERFACE = ("cnet.kind", "cnet.name")
PARAMETER = ("cnet.init", "cnet.fan_in", "cnet.lr", "cnet.decay")
PLACE = (OFFSET, BASE, STRIDES)
KERNEL = ("cnet.noalias", "cnet.same", "cnet.scratch", "cnet.expected")  # arguments of functions that are kernels
OF_FUNCTIONS = (NET, DIMS, *CHOICES, "cnet.kernel")
OF_ARGUMENTS = (*INTERFACE, *PARAMETER, DIMS, "cnet.index", *PLACE, *KERNEL)
OF_RESULTS = (*INTERFACE, "cnet.weight", *PLACE)
OF_OPERATIONS = ("cnet.phase", "cnet.kernel")  # of calls in loops


def unknown_attributes(function: FuncOp) -> Iterator[Diagnostic]:
    """The attributes `cnet.NAME` of a function, its arguments, results and operations that have no meaning there."""
    for name, help in _unknown(function.attributes, OF_FUNCTIONS):
        yield Diagnostic(f"unknown attribute `{name}` of @{function.sym_name}", function.loc, help=help)
    for arg in function.args:
        for name, help in _unknown(arg.attrs, OF_ARGUMENTS):
            where = f"argument %{arg.name} of @{function.sym_name}"
            yield Diagnostic(f"{where} has the unknown attribute `{name}`", function.loc, help=help)
    for k, attrs in enumerate(function.result_attrs):
        for name, help in _unknown(attrs, OF_RESULTS):
            where = f"result {k} of @{function.sym_name}"
            yield Diagnostic(f"{where} has the unknown attribute `{name}`", function.loc, help=help)
    if function.declared is None:
        yield from _of_operations(function.ops)


def _of_operations(operations: Iterable[Operation]) -> Iterator[Diagnostic]:
    for op in operations:
        for name, help in _unknown(op.attributes, OF_OPERATIONS):
            yield Diagnostic(f"{op.name} has the unknown attribute `{name}`", op.loc, help=help)
        for region in op.regions:
            yield from _of_operations(region.block.ops)


def _unknown(given: Mapping[str, Attr], known: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in given:
        if name.startswith(DIALECT) and name not in known:
            # The prefix, which all of them have, makes none of them alike.
            near = did_you_mean(name.removeprefix(DIALECT), [other.removeprefix(DIALECT) for other in known])
            yield name, near.replace("`", f"`{DIALECT}", 1) if near else f"there are {', '.join(known)}"
