"""One blob's path through a level: what makes and reads it and its gradient, and nothing else.

// .. 3 operations
%h = "cnet.concat"(%ha, %hb) {axis = 0} : ..
%logits.linear = "cnet.linear"(%h, %logits.weight) : ..
// .. 4 operations
// ---- backward ----
// .. 3 operations
%h.grad = "cnet.linear"(%logits.grad.use1, %logits.weight) {transpose} : ..
%ha.grad, %hb.grad = "cnet.slice"(%h.grad) {axis = 0} : ..
// .. 5 operations
"""

from __future__ import annotations

import re

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.ir.printer import Style, print_excerpt
from concatc.op import is_op


def path_text(module: Module, blob: str, style: Style) -> str:
    """The operations on the path of ``blob``, in the order of the level.  Raises UsageError for an unknown blob."""
    for function in module.functions:
        if _values_of(function, blob):
            return print_excerpt(function, path(function, blob), style)
    known = [value.name for function in module.functions for value in _values(function) if _is_blob(value)]
    hint = did_you_mean(blob, known) or "what is not needed is not in every level; the graph has each blob"
    raise UsageError(Diagnostic(f"this level of the net has no blob `{blob}`", help=hint))


def has_blob(module: Module, blob: str) -> bool:
    """Whether a function of the module holds a value of the blob."""
    return any(_values_of(function, blob) for function in module.functions)


def path(function: FuncOp, blob: str) -> dict[Operation, None]:
    """The operations that make or read the blob, its gradient, or what a split or an accumulate makes of them.

    A kernel that computes the blob inside of it makes it.
    """
    family = dict.fromkeys(_values_of(function, blob))
    for op in function.ops:
        if is_op(op, "split") and op.operands[0] in family:
            family.update(dict.fromkeys(op.results))
    # The contributions to its gradient: an accumulate of accumulates stands behind them.
    for op in reversed(function.ops):
        if is_op(op, "accumulate") and op.result in family:
            family.update(dict.fromkeys(op.operands))
    found: dict[Operation, None] = {}
    for op in function.ops:
        inside = [y for inner in op.walk() for y in inner.results]
        if op is not function.ret and any(v in family for v in (*op.operands, *op.results, *inside)):
            found[op] = None
    return found


def _values_of(function: FuncOp, blob: str) -> list[Value]:
    # `fuse` names what a kernel holds with a line below.
    named = re.compile(rf"{re.escape(blob)}(?:\.use\d+|\.grad|\.again)*_?\Z")
    return [value for value in _values(function) if named.match(value.name)]


def _values(function: FuncOp) -> list[Value]:
    made = [y for op in function.walk() for y in op.results]
    return [*function.args, *made]


def _is_blob(value: Value) -> bool:
    return not re.search(r"\.(?:use\d+|grad|vjp\d+)|_\Z", value.name)
