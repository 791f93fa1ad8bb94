"""``merge-branches``: one contraction where branches of one blob, or one layer on several blobs, would be several.

    %p = "cnet.conv"(%x, %v)  1x1, 96 channels         %w = "cnet.concat"(%v, %u) {axis = 0}
    %q = "cnet.conv"(%x, %u)  1x1, 16 channels   ->    %y = "cnet.conv"(%x, %w)   1x1, 112 channels
                                                       %p, %q = "cnet.slice"(%y) {axis = 1}

    %ya = "cnet.linear"(%a, %w)                        %h = "cnet.concat"(%a, %b) {axis = 0}
    %yb = "cnet.linear"(%b, %w)                  ->    %y = "cnet.linear"(%h, %w)
                                                       %ya, %yb = "cnet.slice"(%y) {axis = 0}

*Branches*: f(x, concat(v, u)) = concat(f(x, v), f(x, u)) along channels, where v and u are parameters and f is a
convolution of equal kernel, stride, padding and dilation without groups, or a linear.  *Layers*: f(concat(a, b), w) =
concat(f(a, w), f(b, w)) along axis 0, where f maps rows one by one (derived from its pieces).  What follows alike moves
along: biases and activations of branches, and of layers everything that maps rows.

What decides are bytes that do not depend on the sizes of batches, so that every batch size has one graph:

- slices are windows: what a concat, a reshape of rows or a result of the net would copy from one is left apart;
- joined weights are copied, and so are their gradients; that must be less than reading the blob of one image once a
  branch, forward and for the weights' gradients, and adding to its gradient once a branch;
- joined rows cost no copy, as in `join-rows`: inputs, or what is made by operations and lies in no other place;
- all joined rows, and their gradients, are alive at once: for batches of eight rows they are no larger than the weight,
  which is what is read less often (``larger`` allows any).  So layers of products are merged, where the weight is most
  of what is read, and convolutions of large images, which read it over and over anyway, are not.

Invariant: no two such operations read one blob, or one weight, where these conditions hold.  Values are the same but
for rounding.  The net says what was merged: ``cnet.joined``.  For graphs without a backward half; splits do not hide
anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from concatc.ir.core import Block, FuncOp, Module, Operation, Value
from concatc.op import Builder, axis_maps, is_op
from concatc.passes.free_of_splits import free_of_splits
from concatc.passes.graph import is_backward, short_name
from concatc.passes.iteration import Iterations
from concatc.passes.patterns import kept_blobs
from concatc.passes.rows import is_known, row_operand, rule_of, say

PRODUCTS = ("conv", "linear")
SMALL_BATCH = 8  # rows of a batch that, joined, take no more memory than the weight
Level = tuple[Operation, ...]  # one operation a branch


@dataclass(frozen=True)
class MergeBranches:
    """Merge contractions.

    ``branches`` of one blob, ``layers`` on several.  ``keeps``: what they make is kept for a backward pass.
    ``larger``: joined rows may need more memory.
    """

    branches: bool = True
    layers: bool = True
    keeps: bool = True
    larger: bool = False

    name = "merge-branches"

    def run(self, module: Module) -> None:
        """Rewrite every forward function of the module in place."""
        for func in module.functions:
            if func.declared is None and not any(is_backward(op) for op in func.ops):
                with free_of_splits(func):
                    _Merging(self, func).run()


class _Merging:
    """One function, free of splits."""

    def __init__(self, options: MergeBranches, func: FuncOp) -> None:
        self.options = options
        self.func = func
        self.opaque = kept_blobs(func)
        self.iterations = Iterations()
        self.lines: list[str] = []

    def run(self) -> None:
        """Merge what may be merged, branches first: a merged branch may be a layer on several blobs."""
        if self.options.branches:
            for x, ops in _groups(self.func, by=0):
                self._branches(x, [op for op in ops if is_op(op, *PRODUCTS)])
        if self.options.layers:
            for _, ops in _groups(self.func, by=1):
                self._layers([op for op in ops if op.block is not None])  # what another one took along is gone
        if self.lines:
            _put_makers_first(self.func)
            say(self.func, self.lines)

    # -- branches of one blob ------------------------------------------------------------------------------------------
    def _branches(self, x: Value, ops: list[Operation]) -> None:
        for group in _alike(ops, self._branch_key):
            levels = self._levels_of_branches(tuple(group))
            if levels and self._pays(x, levels[0]):
                self._merge_branches(levels)

    def _branch_key(self, op: Operation) -> object:
        """What branches must have in common; None for what is no branch."""
        weight = op.operands[1]
        rule = rule_of(op)
        if weight.op is not None or op.result in self.opaque or getattr(rule, "groups", 1) > 1:
            return None
        axis = _weight_axis(op)
        return repr(rule), *(n for d, n in enumerate(weight.shape) if d != axis)

    def _levels_of_branches(self, first: Level) -> list[Level]:
        """The operations of branches, level by level, as far as they are alike; empty where fewer than two may move.

        What is read by a concat or returned would be copied: that branch stays apart.
        """
        while len(first) > 1:
            levels = [first]
            axis = _channel_axis(first[0])
            while (following := self._following_branches(levels[-1], axis)) is not None:
                levels.append(following)
            free = [
                k for k, op in enumerate(levels[-1]) if _may_be_a_window(op.result, ("concat", "reshape", "flatten"))
            ]
            if len(free) == len(first):
                return levels
            first = tuple(first[k] for k in free)
        return []

    def _following_branches(self, level: Level, axis: int) -> Level | None:
        """What reads a level, where that is one bias along ``axis`` or one map of elements in each branch."""
        following = _only_readers(level)
        if following is None or any(result in self.opaque for op in following for result in op.results):
            return None
        op = following[0]
        if is_op(op, "bias"):
            alike = all(o.operands[1].op is None and rule_of(o) == rule_of(op) for o in following)
            return following if alike and op.attributes.get("axis", 1) == axis else None
        if len(op.operands) != 1 or len(op.results) != 1 or rule_of(op).effect:
            return None
        if self.iterations.of(op).kind != "pointwise" or op.result.type != op.operands[0].type:
            return None
        maps = axis_maps(rule_of(op), (op.operands[0].tensor,))
        if not any(found.operands == (axis,) and found.results == (axis,) for found in maps):
            return None
        return following if all(rule_of(o) == rule_of(op) for o in following) else None

    def _pays(self, x: Value, products: Level) -> bool:
        """Whether the joined weights are fewer bytes than what one image of the blob saves."""
        passes = 4 if self.options.keeps else 1  # forward, weights' gradient, and the blob's: read and written
        copies = 4 if self.options.keeps else 2  # read and written: the weights, and their gradients
        weights = sum(op.operands[1].tensor.numel for op in products)
        return copies * weights <= passes * (len(products) - 1) * _row_numel(x)

    def _merge_branches(self, levels: list[Level]) -> None:
        first, last = levels[0], levels[-1]
        axis = _channel_axis(first[0])
        b = Builder(Block(), first[0].loc)
        weight = _concat(b, [op.operands[1] for op in first], _weight_axis(first[0]))
        (y,) = b.emit(rule_of(first[0]), [first[0].operands[0], weight], [_name(first)])
        for level in levels[1:]:
            b.loc = level[0].loc
            others = [_concat(b, [op.operands[1] for op in level], 0)] if is_op(level[0], "bias") else []
            (y,) = b.emit(rule_of(level[0]), [y, *others], [_name(level)])
        self._cut(b, y, last, axis, levels)
        blob = first[0].operands[0].name
        self._say(first, f"of %{blob} is one product over the joined channels")

    # -- one layer on several blobs ------------------------------------------------------------------------------------
    def _layers(self, ops: list[Operation]) -> None:
        for group in _alike(ops, self._layer_key):
            if len(group) < 2 or len(dict.fromkeys(op.operands[0] for op in group)) < len(group):
                continue
            if not _are_apart(group) or any(self._lies_elsewhere(op.operands[0]) for op in group):
                continue
            levels = self._levels_of_layers(tuple(group))
            if levels:
                self._merge_layers(levels)

    def _layer_key(self, op: Operation) -> object:
        """What calls of one layer must have in common; None for what is no such call."""
        if op.result in self.opaque or rule_of(op).effect or self.iterations.of(op).kind != "contraction":
            return None
        if row_operand(op) != 0:
            return None
        return repr(rule_of(op)), op.operands[0].shape[1:]

    def _levels_of_layers(self, first: Level) -> list[Level]:
        """The operations of the calls, level by level; they end where slices of the joined rows are windows."""
        levels: list[Level] = [first]
        best = most = 0
        # Rows of an input have no gradient, and lie in memory all at once anyway.
        made = [op.operands[0] for op in first if op.operands[0].op is not None]
        while True:
            results = [op.results[0] for op in levels[-1]]
            if self.iterations.of(levels[-1][0]).kind == "contraction" and len(levels[-1][0].operands) > 1:
                most = levels[-1][0].operands[1].tensor.numel // (SMALL_BATCH * len(first))
            if not self.options.larger and max(map(_row_numel, (results[0], *made))) > most:
                break
            made = [results[0]]
            if all(_may_be_a_window(result, ("concat",)) for result in results):
                best = len(levels)
            following = self._following_layers(levels[-1])
            if following is None:
                break
            levels.append(following)
        return levels[:best]

    def _following_layers(self, level: Level) -> Level | None:
        """What reads a level, where that maps rows alike in each call, with the same other operands."""
        following = _only_readers(level)
        if following is None or any(result in self.opaque for op in following for result in op.results):
            return None
        op = following[0]
        if is_op(op, "concat", "slice", "split") or rule_of(op).effect or row_operand(op) != 0:
            return None
        if any(result.uses for o in following for result in o.results[1:]):
            return None
        alike = all(o.operands[1:] == op.operands[1:] and rule_of(o) == rule_of(op) for o in following)
        return (
            following if alike and all(o.operands[0].shape[1:] == op.operands[0].shape[1:] for o in following) else None
        )

    def _lies_elsewhere(self, part: Value) -> bool:
        """Whether a blob would have to be copied to be joined."""
        if part in self.opaque or any(is_op(use.op, "concat") or _is_return(use.op) for use in part.uses):
            return True
        if part.op is None:
            return part.attrs.get("cnet.kind", "input") != "input"
        if is_op(part.op, "reshape", "flatten"):
            return self._lies_elsewhere(part.op.operands[0])
        return is_op(part.op, "slice", "transpose", "constant", "expand", "concat")

    def _merge_layers(self, levels: list[Level]) -> None:
        first = levels[0]
        b = Builder(Block(), first[0].loc)
        y = _concat(b, [op.operands[0] for op in first], 0)
        for level in levels:
            b.loc = level[0].loc
            names = [_name(level), *("" for _ in level[0].results[1:])]
            y = b.emit(rule_of(level[0]), [y, *level[0].operands[1:]], names)[0]
        self._cut(b, y, levels[-1], 0, levels)
        weight = first[0].operands[1].name
        self._say(first, f"with %{weight} is one product over the joined rows")

    # -- rewriting -----------------------------------------------------------------------------------------------------
    def _cut(self, b: Builder, y: Value, last: Level, axis: int, levels: list[Level]) -> None:
        """Let windows of ``y`` stand for the results of ``last``, and what ``b`` holds for all levels."""
        sizes = tuple(op.results[0].shape[axis] for op in last)
        names = [op.results[0].name for op in last]
        parts: Sequence[Value] = b.slice(y, axis=axis, sizes=sizes, names=names)
        for op, part in zip(last, parts, strict=True):
            op.results[0].replace_all_uses_with(part)
        gone = dict.fromkeys(op for level in levels for op in level)
        body = self.func.body
        at = min(k for k, op in enumerate(body.ops) if op in gone)
        body.ops = [*body.ops[:at], *b.block.ops, *(op for op in body.ops[at:] if op not in gone)]
        for op in b.block.ops:
            op.block = body
        for level in reversed(levels):
            for op in level:
                op.block = None
                op.erase()

    def _say(self, merged: Level, what: str) -> None:
        names = ", ".join(f"%{op.result.name}" for op in merged)
        self.lines.append(f"{short_name(merged[0])} {names} {what}")


def _groups(func: FuncOp, by: int) -> Iterator[tuple[Value, list[Operation]]]:
    """The operations that read a value as operand ``by`` (of two), by value, in the order of the function."""
    found: dict[Value, list[Operation]] = {}
    for op in func.ops[:-1]:
        if len(op.operands) == 2 and len(op.results) == 1:
            found.setdefault(op.operands[by], []).append(op)
    yield from ((value, ops) for value, ops in found.items() if len(ops) > 1)


def _alike(ops: Sequence[Operation], key_of: object) -> list[list[Operation]]:
    """The operations by what they have in common; those without a key are left out."""
    assert callable(key_of)
    groups: dict[object, list[Operation]] = {}
    for op in ops:
        if (key := key_of(op)) is not None:
            groups.setdefault((op.name, key), []).append(op)
    return [group for group in groups.values() if len(group) > 1]


def _only_readers(level: Level) -> Level | None:
    """The one operation that reads the first result of each, as its first operand, of one kind; None where not so."""
    results = [op.results[0] for op in level]
    if any(len(r.uses) != 1 or r.uses[0].index != 0 for r in results):
        return None
    readers = tuple(r.uses[0].op for r in results)
    if _is_return(readers[0]) or any(op.name != readers[0].name for op in readers):
        return None
    return readers if len(dict.fromkeys(readers)) == len(readers) and is_known(readers[0]) else None


def _may_be_a_window(value: Value, copying: tuple[str, ...]) -> bool:
    """Whether nothing that reads a value would copy it out of a larger one: none of ``copying``, and no result."""
    return not any(_is_return(use.op) or is_op(use.op, *copying) for use in value.uses)


def _is_return(op: Operation) -> bool:
    return op.name == "func.return"


def _are_apart(ops: Sequence[Operation]) -> bool:
    """Whether no operation's rows are made from what another one makes."""
    own = dict.fromkeys(ops)
    seen: dict[Operation, None] = {}
    stack = [op.operands[0].op for op in ops]
    while stack:
        maker = stack.pop()
        if maker is None or maker in seen:
            continue
        if maker in own:
            return False
        seen[maker] = None
        stack += [x.op for x in maker.operands]
    return True


def _put_makers_first(func: FuncOp) -> None:
    """Order operations so that each stands behind what it reads, and otherwise as they stand."""
    placed: dict[Operation, None] = {}
    for root in func.body.ops:
        stack = [root]
        while stack:
            op = stack[-1]
            missing = [x.op for x in op.operands if x.op is not None and x.op not in placed]
            if op in placed or not missing:
                placed[stack.pop()] = None
            else:
                stack += reversed(missing)
    func.body.ops = list(placed)


def _concat(b: Builder, values: Sequence[Value], axis: int) -> Value:
    joined: Value = b.concat(*values, axis=axis, names=[f"{values[0].name}.joined"])
    return joined


def _name(level: Level) -> str:
    return f"{level[0].results[0].name}.joined"


def _weight_axis(op: Operation) -> int:
    """The axis of a weight that counts channels of the result."""
    return 1 if is_op(op, "linear") and op.attributes.get("transpose", False) else 0


def _channel_axis(op: Operation) -> int:
    """The axis of a product's result that its channels lie along."""
    return 1 if is_op(op, "conv") else op.result.tensor.rank - 1


def _row_numel(value: Value) -> int:
    return math.prod(value.shape[1:])
