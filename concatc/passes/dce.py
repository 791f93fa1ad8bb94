"""``dce``: remove operations that nothing depends on.

    %a = "cnet.relu"(%x)
    %b = "cnet.exp"(%x)          ->    %a = "cnet.relu"(%x)
    func.return %a                     func.return %a

Invariant: every operation has an effect, or a result that is read.  An operation with an effect (`Op.effect`) and one
that concatc does not know stay.  Arguments of the net are its interface and stay too, unless ``arguments`` asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from concatc.ir.core import FuncOp, Module, Operation
from concatc.ir.verifier import TERMINATORS
from concatc.op import DIALECT, load_all_ops_once


@dataclass(frozen=True)
class Dce:
    """Remove what is dead; with ``arguments`` also arguments that nothing reads."""

    arguments: bool = False

    name = "dce"

    def run(self, module: Module) -> None:
        """Rewrite every function of the module in place."""
        for func in module.functions:
            dce(func)
            if self.arguments and func.declared is None:
                _drop_arguments(func)


def dce(func: FuncOp) -> int:
    """Remove dead operations from ``func``, and return how many."""
    kept: list[Operation] = []
    # From the last to the first: whoever read an operation's results has been decided on before.
    for op in reversed(func.ops):
        if has_effect(op) or any(result.uses for result in op.results):
            kept.append(op)
            continue
        op.block = None
        op.erase()
    removed = len(func.ops) - len(kept)
    func.body.ops = kept[::-1]
    return removed


def has_effect(op: Operation) -> bool:
    """Whether the operation does more than make its results."""
    if op.name in TERMINATORS:
        return True
    if op.name == "cnet.kernel":
        return any(has_effect(inner) for inner in op.regions[0].block.ops[:-1])
    dialect, _, short = op.name.partition(".")
    if dialect in ("arith", "math"):
        return False
    if dialect + "." != DIALECT or short not in load_all_ops_once():
        return True
    return load_all_ops_once()[short].effect


def _drop_arguments(func: FuncOp) -> None:
    func.body.args = [arg for arg in func.args if arg.uses]
    for index, arg in enumerate(func.args):
        arg.index = index
