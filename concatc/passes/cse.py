"""``cse``: compute once what is computed twice.

    %a = "cnet.channel_stats"(%x)
    %b = "cnet.channel_stats"(%x)          %a = "cnet.channel_stats"(%x)
    %y = "cnet.normalize"(%x, %a)    ->    %y = "cnet.normalize"(%x, %a)
    %z = "cnet.normalize"(%x, %b)          %z = "cnet.normalize"(%x, %a)

Two operations compute the same where name, operands, attributes and types are the same; where they stand in the
source, and what they transpose, does not matter.  Invariant: no two operations are the same, but for constants,
operations with an effect, results of the net (each lies in a place of its own: one would be copied to the other), and,
before the backward pass is derived, kept blobs, which have gradients of their own.
Random operations carry the key of their call as an attribute, so two dropouts of one blob stay two.
"""

from __future__ import annotations

from dataclasses import dataclass

from concatc.ir.attributes import dict_text
from concatc.ir.core import Attr, FuncOp, Module, Operation, Value
from concatc.op import DIALECT, load_all_ops_once
from concatc.passes.dce import has_effect
from concatc.passes.free_of_splits import free_of_splits
from concatc.passes.patterns import kept_blobs

# Cheaper to make again, inside the kernel that reads them, than to keep.
CHEAP = ("cnet.constant", "cnet.iota")

Key = tuple[str, tuple[int, ...], str]


@dataclass(frozen=True)
class Cse:
    """Merge equal operations."""

    name = "cse"

    def run(self, module: Module) -> None:
        """Rewrite every function of the module in place."""
        for func in module.functions:
            with free_of_splits(func):
                cse(func)


def cse(func: FuncOp) -> int:
    """Merge equal operations of ``func``, which holds no splits, and return how many are gone."""
    first: dict[Key, Operation] = {}
    own_gradients = kept_blobs(func)
    kept: list[Operation] = []
    numbers: dict[Value, int] = {}
    for op in func.ops:
        merges = not (has_effect(op) or op.regions or op.name in CHEAP or any(r in own_gradients for r in op.results))
        same = first.setdefault(_key(op, numbers), op) if merges else None
        if same is None or same is op or (_in_slot(op, func) and _in_slot(same, func)):
            kept.append(op)
            continue
        for old, new in zip(op.results, same.results, strict=True):
            old.replace_all_uses_with(new)
        op.block = None
        op.erase()
    removed = len(func.ops) - len(kept)
    func.body.ops = kept
    return removed


def _in_slot(op: Operation, func: FuncOp) -> bool:
    """Whether a result of the operation is one of the net (of another function results have no places)."""
    return any(func.result_attrs) and any(use.op is func.ret for result in op.results for use in result.uses)


def _key(op: Operation, numbers: dict[Value, int]) -> Key:
    operands = tuple(numbers.setdefault(value, len(numbers)) for value in op.operands)
    return op.name, operands, dict_text(_meaning(op))


def _meaning(op: Operation) -> dict[str, Attr]:
    """The attributes that decide on the results, in one order, defaults filled in."""
    cls = load_all_ops_once().get(op.name.removeprefix(DIALECT))
    if cls is None:
        return dict(sorted(op.attributes.items()))
    return cls.from_attrs(op.attributes).attrs()
