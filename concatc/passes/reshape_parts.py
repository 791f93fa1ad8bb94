"""A reshape in parts, where no strides express the whole: parts may be views though what they are parts of is none.

    %u = concat(%a, %b)                                 %a1 = reshape(%a)    %b1 = reshape(%b)
    %r = reshape(%u)   [n, 8] -> [n, 2, 4]      ->      %r = concat(%a1, %b1)

    %r = reshape(%x)   [n, 2, 4] -> [n, 8]              %x0, %x1 = slice(%x)
    %p, %q = slice(%r)                          ->      %p = reshape(%x0)    %q = reshape(%x1)

and so through transposes.  Condition: in the other shape too, the parts are ranges of one axis, with all axes before it
whole.  Half a channel shuffle is every other channel, so shuffles of concats and their gradients move nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from concatc.ir.core import Attr, Operation, Value
from concatc.op import is_op
from concatc.passes.graph import PROVENANCE
from concatc.passes.kernel_edit import KernelEdit, append_concat, append_slice
from concatc.passes.storage import Permuted, concat_parts, views_of


@dataclass(frozen=True)
class Cuts:
    """A tensor in parts: their extents along an axis."""

    axis: int
    extents: tuple[int, ...]


@dataclass(frozen=True)
class PartedViews:
    """Views that a concat flows through, or that lead to a slice, from the first to the last.

    ``cuts[0]`` are the parts of the operand of the first view, ``cuts[k]`` those of the result of view ``k - 1``.
    """

    op: Operation
    views: list[Operation]
    cuts: list[Cuts]

    def make(self, edit: KernelEdit) -> None:
        """Let views of parts come in place of the views."""
        if is_op(self.op, "concat"):
            self._join_below(edit)
            return
        self._cut_above(edit)

    def _join_below(self, edit: KernelEdit) -> None:
        last = self.views[-1]
        name = last.result.name
        ops: list[Operation] = []
        parts = [self._part(ops, k, x, f"{name}.part{k}") for k, x in enumerate(self.op.operands)]
        joined = append_concat(ops, parts, self.cuts[-1].axis, name, last)
        last.result.replace_all_uses_with(joined)
        edit.replace(last, ops)
        edit.segmented[self.op] = None

    def _cut_above(self, edit: KernelEdit) -> None:
        ops: list[Operation] = []
        cut, names = self.cuts[0], [f"{y.name}.part" for y in self.op.results]
        parts = append_slice(ops, self.views[0].operands[0], cut.axis, cut.extents, names, self.op)
        for k, (part, old) in enumerate(zip(parts, self.op.results, strict=True)):
            old.replace_all_uses_with(self._part(ops, k, part, old.name))
        edit.replace(self.op, ops)

    def _part(self, ops: list[Operation], k: int, value: Value, name: str) -> Value:
        """Append to ``ops`` the views of part ``k``, which is ``value``."""
        for view, cut in zip(self.views, self.cuts[1:], strict=True):
            shape = (*view.result.shape[: cut.axis], cut.extents[k], *view.result.shape[cut.axis + 1 :])
            provenance: dict[str, Attr] = {a: v for a, v in view.attributes.items() if a in PROVENANCE}
            own: dict[str, Attr] = {"perm": view.attributes["perm"]} if is_op(view, "transpose") else {"shape": shape}
            kind = "cnet.transpose" if is_op(view, "transpose") else "cnet.reshape"
            type = value.tensor.with_shape(shape)
            ops.append(Operation(kind, [value], [type], own | provenance, loc=view.loc, result_names=[name]))
            value = ops[-1].result
        return value


def views_below_concat(view: Operation) -> PartedViews | None:
    """The views between a concat and ``view`` that parts of the concat go through; each is the only reader."""
    chain: list[Operation] = []
    value = view.result
    while value.op is not None and _is_whole_view(value.op) and (not chain or len(value.uses) == 1):
        chain.insert(0, value.op)
        value = value.op.operands[0]
    concat = value.op
    if concat is None or not is_op(concat, "concat") or len(value.uses) != 1:
        return None
    parts = concat_parts(concat)
    cuts = [Cuts(parts[0].axis, tuple(part.extent for part in parts))]
    for op in chain:
        below = _result_cuts(op, cuts[-1])
        if below is None:
            break
        cuts.append(below)
    return PartedViews(concat, chain[: len(cuts) - 1], cuts) if len(cuts) > 1 else None


def views_above_slice(view: Operation) -> PartedViews | None:
    """The views from ``view`` to a slice, if its parts go through all of them; each is the only reader."""
    chain = [view]
    while len(chain[-1].result.uses) == 1 and _is_whole_view(chain[-1].result.uses[0].op):
        chain.append(chain[-1].result.uses[0].op)
    uses = chain[-1].result.uses
    if len(uses) != 1 or not is_op(uses[0].op, "slice"):
        return None
    cut_by = uses[0].op
    axis = cut_by.attributes["axis"]
    assert isinstance(axis, int)
    cuts = [Cuts(axis, tuple(y.shape[axis] for y in cut_by.results))]
    for op in reversed(chain):
        above = _operand_cuts(op, cuts[0])
        if above is None:
            return None
        cuts.insert(0, above)
    return PartedViews(cut_by, chain, cuts)


def _is_whole_view(op: Operation) -> bool:
    return is_op(op, "reshape", "flatten", "transpose")


def _operand_cuts(view: Operation, cuts: Cuts) -> Cuts | None:
    (step,) = views_of(view)[0].steps
    if isinstance(step, Permuted):
        return Cuts(step.axes[cuts.axis], cuts.extents)
    return _in_shape(view.result.shape, cuts, view.operands[0].shape)


def _result_cuts(view: Operation, cuts: Cuts) -> Cuts | None:
    (step,) = views_of(view)[0].steps
    if isinstance(step, Permuted):
        return Cuts(step.axes.index(cuts.axis), cuts.extents)
    return _in_shape(view.operands[0].shape, cuts, view.result.shape)


def _in_shape(shape: Sequence[int], cuts: Cuts, new_shape: Sequence[int]) -> Cuts | None:
    """The same parts of the same elements, in row-major order, in another shape."""
    outer, inner = math.prod(shape[: cuts.axis]), math.prod(shape[cuts.axis + 1 :])
    for axis in range(len(new_shape)) if 0 not in shape else ():
        unit = math.prod(new_shape[axis + 1 :])
        if math.prod(new_shape[:axis]) == outer and all(n * inner % unit == 0 for n in cuts.extents):
            return Cuts(axis, tuple(n * inner // unit for n in cuts.extents))
    return None
