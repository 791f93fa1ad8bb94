"""Sliding windows along one axis: sizes, and which elements meet which windows, as index expressions with guards.

    window o covers the inputs  o * stride - pad + k * dilation,  k in 0..kernel

Convolutions and pooling are written with these in both directions: from a window to its inputs (:meth:`Slide.source`)
and from an input to the windows that cover it (:meth:`Slide.window`, :meth:`Slide.covering`).  Bounds that
cannot be passed are left out of a guard, so that an unpadded loop has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from concatc.loops.expr import Const, Expr, Ref, all_of, maximum, minimum


def window_count(size: int, kernel: int, stride: int, pad: int, dilation: int = 1, ceil: bool = False) -> int:
    """How many windows there are, as PyTorch counts them; 0 or less where none fits.

    Floor: ``(size + 2 pad - span) // stride + 1`` with ``span = dilation (kernel - 1) + 1``.  With ``ceil`` the
    division rounds up, and a last window that would start at or beyond ``size + pad`` is dropped.
    """
    free = size + 2 * pad - (dilation * (kernel - 1) + 1)
    if not ceil:
        return free // stride + 1
    count = -(-free // stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad else count


@dataclass(frozen=True)
class Slide:
    """``count`` windows of ``kernel`` elements over an axis of ``size`` elements, padded by ``pad`` on both sides."""

    size: int
    kernel: int
    stride: int
    pad: int
    dilation: int
    count: int

    def source(self, o: Expr, k: Expr) -> tuple[Expr, Expr | None]:
        """The input that tap ``k`` of window ``o`` reads, and the guard that it is not padding."""
        i = o * self.stride + k * self.dilation - self.pad
        last = (self.count - 1) * self.stride + (self.kernel - 1) * self.dilation - self.pad
        return i, all_of(i >= 0 if self.pad > 0 else None, i < self.size if last >= self.size else None)

    def window(self, i: Expr, k: Expr) -> tuple[Expr, Expr | None]:
        """The window whose tap ``k`` reads input ``i``, and the guard that there is one."""
        reach = (self.kernel - 1) * self.dilation
        ahead = (self.size - 1 + self.pad) // self.stride >= self.count
        if self.stride == 1:
            o = i + self.pad - k * self.dilation
            return o, all_of(o >= 0 if reach > self.pad else None, o < self.count if ahead else None)
        # `rem` and `floordiv` take no negative numbers: shift by whole strides, then back.
        strides = max(0, -(-(reach - self.pad) // self.stride))
        shifted = i + (self.pad + strides * self.stride) - k * self.dilation
        o = shifted // self.stride - strides
        return o, all_of(
            (shifted % self.stride).eq(0),
            o >= 0 if strides > 0 else None,
            o < self.count if ahead else None,
        )

    @property
    def overlap(self) -> int:
        """How many windows cover one input at most (without dilation)."""
        return 1 if self.count == 1 else -(-self.kernel // self.stride)

    def covering(self, i: Expr, r: Expr) -> tuple[Expr, Expr | None]:
        """The ``r``-th window that may cover input ``i``, last first, ``r`` in ``0..overlap``; a guard that it exists.

        Without dilation.  Whether it does cover the input :meth:`reaches` says.
        """
        assert self.dilation == 1
        if self.count == 1:
            return Const(0, "index"), None
        o = (i + self.pad) // self.stride - r
        return o, all_of(
            o >= 0 if self.pad // self.stride < self.overlap - 1 else None,
            o < self.count if (self.size - 1 + self.pad) // self.stride >= self.count else None,
        )

    def reaches(self, o: Expr, i: Expr) -> Expr | None:
        """Whether input ``i`` lies within window ``o``, one of those of :meth:`covering`; None where all do.

        It stands apart from the guard, because a window may be read that does not reach the input: so the lanes of a
        vector that reads windows are masked at the ends of the image alone.
        """
        beyond = self.size - 1 + self.pad >= self.kernel if self.count == 1 else self.kernel % self.stride != 0
        return i + self.pad - o * self.stride < self.kernel if beyond else None

    def extent_of(self, o: int, include_pad: bool) -> int:
        """How many elements window ``o`` has: cut off at the image, or at the padded image."""
        start = o * self.stride - self.pad
        if include_pad:
            return min(self.kernel, self.size + self.pad - start)
        return min(start + self.kernel, self.size) - max(start, 0)

    def extent(self, o: Expr, include_pad: bool) -> Expr:
        """:meth:`extent_of` as an expression; a literal where all windows agree."""
        extents = list(dict.fromkeys(self.extent_of(k, include_pad) for k in range(self.count)))
        if len(extents) == 1:
            return Const(extents[0], "index")
        start = o * self.stride - self.pad
        if include_pad:
            return minimum(self.size + self.pad - start, self.kernel)
        return minimum(start + self.kernel, self.size) - maximum(start, 0)


def guarded(ref: Ref, lead: Sequence[Expr], at: Sequence[tuple[Expr, Expr | None]], other: float = 0) -> Expr:
    """``ref[lead.., at..]`` where all guards of ``at`` hold, else ``other``."""
    indices = (*lead, *(i for i, _ in at))
    return ref.load(indices, all_of(*(guard for _, guard in at)), other)
