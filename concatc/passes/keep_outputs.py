"""``keep-outputs``: let a net compute its outputs only, as inference needs it.

    func @thread(%a, %b, %label, %fc.weight, %loss_weights)     func @thread(%a, %b, %fc.weight)
      %h = "cnet.concat"(%a, %b)                                  %h = "cnet.concat"(%a, %b)
      %logits = "cnet.linear"(%h, %fc.weight)              ->     %logits = "cnet.linear"(%h, %fc.weight)
      %l = "cnet.softmax_loss"(%logits, %label)                   return %logits
      return %logits, %l, ..

Invariant: every result is an output, every operation and argument is one that an output depends on.
"""

from __future__ import annotations

from dataclasses import dataclass

from concatc.ir.core import FuncOp, Module, Operation, Value


@dataclass(frozen=True)
class KeepOutputs:
    """Drop losses, kept blobs and new states, and what only they need."""

    name = "keep-outputs"

    def run(self, module: Module) -> None:
        """Rewrite the net's function in place."""
        keep_outputs(module.main)


def keep_outputs(func: FuncOp) -> None:
    """Rewrite ``func``."""
    pairs = [
        (attrs, value)
        for attrs, value in zip(func.result_attrs, func.ret.operands, strict=True)
        if attrs.get("cnet.kind") == "output"
    ]
    func.result_attrs = [attrs for attrs, _ in pairs]
    func.ret.set_operands([value for _, value in pairs])
    needed: set[Value] = set(func.ret.operands)
    kept: list[Operation] = [func.ret]
    for op in reversed(func.ops[:-1]):
        if any(result in needed for result in op.results):
            needed.update(op.operands)
            kept.append(op)
        else:
            op.set_operands([])
            op.block = None
    func.body.ops = kept[::-1]
    func.body.args = [arg for arg in func.args if arg in needed]
    for index, arg in enumerate(func.args):
        arg.index = index
