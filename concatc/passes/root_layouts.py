"""In which order the elements of a block lie that nothing else places: so that reshapes of what lies there are views.

    %o = kernel(..)         [n, 4, s, 8]              %o lies in a block [n, s, 4, 8], with permuted strides
    %t = transpose(%o)      [n, s, 4, 8]      ->      %t is all of the block
    %h = reshape(%t)        [n, s, 32]                %h is a view (in a block [n, 4, s, 8] no strides express it)

Without this a value that starts a block lies in it row-major.  Each value that is all of the block, in whatever shape,
shows another order; taken is the one that leaves the fewest bytes to copies, and row-major among equals.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from concatc.ir.core import Value
from concatc.passes.storage import Part, Permuted, Place, Reshaped, Root, Step, Wish, new_root


@dataclass(frozen=True)
class Layout:
    """A value lies where ``steps`` lead from a dense block of ``shape``."""

    shape: tuple[int, ...]
    steps: tuple[Step, ...] = ()

    def place(self, root: Root) -> Place | None:
        """Where the value lies; None where strides cannot express that."""
        return Place.whole(root, self.shape).after(self.steps)


def root_layouts(parents: Mapping[Value, Wish], free: Container[Value]) -> dict[Value, Layout]:
    """The layouts of values that start a block, where row-major ones would leave more to copies.

    Arguments lie row-major, but for those that are ``free``.
    """
    below: dict[Value, list[Value]] = {}
    for child, wish in parents.items():
        if isinstance(wish.anchor, Value):
            below.setdefault(wish.anchor, []).append(child)
    found: dict[Value, Layout] = {}
    for start in below:
        if start in parents or (start.op is None and start not in free):
            continue
        tree = _Tree(start, parents, below)
        layout = tree.best_layout()
        if layout.steps:
            found[start] = layout
    return found


class _Tree:
    """What lies in the block that ``start`` starts."""

    def __init__(self, start: Value, parents: Mapping[Value, Wish], below: Mapping[Value, list[Value]]) -> None:
        self.start = start
        self.parents = parents
        self.below = below

    def best_layout(self) -> Layout:
        """The layout that leaves the fewest bytes to copies."""
        best = Layout(self.start.shape)
        least = self._lost_bytes(best)
        if least == 0:
            return best
        known = {Place.whole(new_root(self.start), self.start.shape).strides: None}
        for layout in self._others():
            place = layout.place(new_root(self.start))
            if place is None or place.strides in known:
                continue
            known[place.strides] = None
            lost = self._lost_bytes(layout)
            if lost < least:
                best, least = layout, lost
        return best

    def _lost_bytes(self, layout: Layout) -> int:
        """Bytes of the values that could not lie in the block."""
        lost = 0
        pending = [(self.start, layout.place(new_root(self.start)))]
        while pending:
            value, place = pending.pop()
            if place is None:
                lost += value.tensor.size_bytes
                place = Place.whole(new_root(value), value.shape)
            pending += [(child, place.after(self.parents[child].steps)) for child in self.below.get(value, [])]
        return lost

    def _others(self) -> Iterator[Layout]:
        """Layouts in which a value that is all of the block lies row-major."""
        pending: list[tuple[Value, tuple[Step, ...]]] = [(self.start, ())]
        while pending:
            value, back = pending.pop()
            for child in self.below.get(value, []):
                inverse = _inverse(value.shape, self.parents[child].steps)
                if inverse is None:
                    continue
                pending.append((child, (*inverse, *back)))
                yield Layout(child.shape, (*inverse, *back))


def _inverse(shape: tuple[int, ...], steps: tuple[Step, ...]) -> tuple[Step, ...] | None:
    """The steps back to ``shape``; None where a step leads to a part."""
    back: list[Step] = []
    for step in steps:
        if isinstance(step, Part):
            if step.extent != shape[step.axis]:
                return None
            continue
        if isinstance(step, Permuted):
            back.insert(0, Permuted(tuple(step.axes.index(d) for d in range(len(shape)))))
            shape = tuple(shape[d] for d in step.axes)
            continue
        assert isinstance(step, Reshaped)
        assert math.prod(step.shape) == math.prod(shape)
        back.insert(0, Reshaped(shape))
        shape = step.shape
    return tuple(back)
