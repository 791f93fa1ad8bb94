"""Runs 3 x 3 convolutions of stride 1, and their gradients, by Winograd's algorithms.

    y[n, o, i, j] += x[n, c, i + a - 1, j + b - 1] * w[o, c, a, b]                      over c, a, b
    ->
    u[xi, c, o] = G w Gt                                                               once a launch
    for n:
      p[u, v, c] = x[n, c, u - 1, v - 1]                                               channels innermost, halo 0
      for blocks of tiles:
        d[xi, t, c] = Bt p B                                                           of tile t
        m[xi, t, o] += d[xi, t, c] * u[xi, c, o]                                       over c: 16 or 36 products
        z[i, j, o] = At m A
        y[o, i, j] = z[i, j, o]                                                        planar again

Channels lie in the lanes of vectors, so tiles need no shuffles and images may be of any size; packing transposes in
registers.  A kernel of one image has no loop over images: packing, blocks and what stands behind are loops of their
own, which threads share (`cut_axes.py`).  Prologues run where an image is packed, epilogues read the planar result.
The gradient of the image is the same over flipped filters.  The gradient of the weight is summed over tiles and images,
and transformed once:

    s[xi, c, o] += d[xi, t, c] * (A dy At)[xi, t, o]                                    over n, t
    dw = Gt s G
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain

from concatc.ir.types import ELEMENT_BYTES, TensorType
from concatc.loops.expr import Axis, Const, Expr, Load, Ref, all_of, rebuild, walk
from concatc.loops.outer_loop import leave_outer_loop, share_outer_loop
from concatc.loops.pieces import Piece, pointwise
from concatc.loops.program import Buffer, Program, Statement
from concatc.loops.sliding import Windows, WindowSums, window_sums_of, windows_of
from concatc.loops.sums_in_turn import Sums, parts_for
from concatc.loops.tiles import Tiles
from concatc.loops.winograd_algorithms import TAPS, Algorithm, Matrix, transform, transposed
from concatc.loops.winograd_cost import is_admissible, tiles_for


def run_by_tiles(program: Program, fold: Statement, algorithm: Algorithm) -> bool:
    """Let a convolution run by an algorithm; False, and nothing is changed, where it cannot."""
    found = share_images(program, fold)
    if found is None:
        return False
    tiled = _Tiled(program, fold, algorithm, tiles_for(found, algorithm))
    if isinstance(found, Windows):
        tiled.convolve(found)
    else:
        tiled.sum(found)
    return True


def share_images(program: Program, fold: Statement) -> Windows | WindowSums | None:
    """Let a convolution and what reads it run image by image, where tiles can be made of it; None where it cannot."""
    windows = windows_of(fold.piece)
    if windows is not None and is_admissible(windows):
        return windows if share_outer_loop(program, fold, windows.image, 1) else None
    sums = window_sums_of(fold.piece)
    if sums is None or not is_admissible(sums) or any(s.outer for s in program.statements):
        return None
    program.block = 1
    return sums


class _Tiled:
    """Writes the statements of one convolution, in order, around the fold that becomes its products."""

    def __init__(self, program: Program, fold: Statement, algorithm: Algorithm, tiles: Tiles) -> None:
        self.program, self.fold, self.algorithm, self.tiles = program, fold, algorithm, tiles
        self.name = fold.target.name
        self.dtype = fold.target.type.dtype
        self.planes = algorithm.tile**2
        self.one_image = False
        self._place = program.statements.index(fold)

    def convolve(self, found: Windows) -> None:
        """Forward, or the gradient of the image."""
        if found.image.extent == 1:
            self.one_image = leave_outer_loop(self.program)
        n, o, c = (
            self._image(found.image.extent),
            Axis("o", found.channel.extent),
            Axis("c", found.reduce.extent, "reduce"),
        )
        tiles, target = self.tiles, self.fold.target
        filters = self._filters(found)
        packed = self._packed(found.x, found.low, TAPS - 1)
        inputs = self._transformed(packed, self.algorithm.inputs, self.algorithm.tile, "tiles")
        products = self._buffer((self.planes, found.image.extent, tiles.blocks, tiles.pitch, o.extent), "products")
        block, xi, t = Axis("block", tiles.blocks), Axis("xi", self.planes), Axis("t", tiles.count)
        d, u = Ref("operand", 0, inputs.type), Ref("operand", 1, filters.type)
        value = d[xi, n, block, t, c] * u[xi, c, o]
        self._becomes((*_axes(n), block, xi, t, o, c), products, (xi, n, block, t, o), value, (inputs, filters))
        planar = self._planar(self._results(products), found.rows[1].extent)
        self._read_behind(target, planar, lambda x, at: x[at[0], at[1], at[2] * target.type.shape[3] + at[3]])
        if target.results and not self.one_image:
            (store,) = target.writers
            store.outer = store.piece.axes[0]

    def sum(self, found: WindowSums) -> None:
        """The gradient of the weight."""
        n, tiles = Axis("n", found.image.extent), self.tiles
        o, c = (Axis(name, axis.extent) for name, axis in zip("oc", found.channels, strict=True))
        target = self.fold.target
        image = self._packed(found.x, found.low, TAPS - 1)
        gradient = self._packed(found.dy, (0, 0), 0)
        inputs = self._transformed(image, self.algorithm.inputs, self.algorithm.tile, "tiles")
        results = transposed(self.algorithm.results)
        gradients = self._transformed(gradient, results, self.algorithm.outputs, "grads")
        shape = (self.planes, c.extent | 1, o.extent)
        self.program.parts = parts_for(math.prod(shape) * ELEMENT_BYTES[self.dtype], (found.x, found.dy))
        sums = Sums(self.program, f"{self.name}_sums", shape, self.dtype)
        block, xi, t = Axis("block", tiles.blocks), Axis("xi", self.planes), Axis("t", tiles.count, "reduce")
        d, dy = Ref("operand", 0, inputs.type), Ref("operand", 1, gradients.type)
        value = d[xi, n, block, t, c] * dy[xi, n, block, t, o]
        self._becomes((n, block, xi, c, o, t), sums.buffer, (xi, c, o), value, (inputs, gradients))
        sums.add_up(self.fold, (xi, c, o))
        self._place = self.program.statements.index(self.fold) + 1
        made = self._buffer((c.extent, TAPS, TAPS, o.extent), "taps")
        tile = self._square(
            self.algorithm.tile, lambda r, q: sums.total((Const(r * self.algorithm.tile + q, "index"), c, o))
        )
        for r, row in enumerate(transform(transposed(self.algorithm.filters), tile)):
            for q, element in enumerate(row):
                at = (c, Const(r, "index"), Const(q, "index"), o)
                self._add(Piece(Ref("result", 0, made.type), (c, o), at, element), made, sums.buffer, first=r + q == 0)
        self._read_behind(target, made, lambda x, at: x[at[1], at[2], at[3], at[0]])

    # -- stages ------------------------------------------------------------------------------------------------------
    def _filters(self, found: Windows) -> Buffer:
        """``u[xi, c, o]`` from ``w``, whose taps come to lie one behind the other, and channels in lanes."""
        c, o = Axis("c", found.reduce.extent), Axis("o", found.channel.extent)
        a, b = Axis("a", TAPS), Axis("b", TAPS)
        by: dict[Expr, Expr] = {found.reduce: c, found.channel: o, found.taps[0]: a, found.taps[1]: b}
        w = found.w
        taps = self._buffer((c.extent, TAPS * TAPS, o.extent), "taps")
        axes = tuple(rebuild(index, by.get) for index in w.at)
        parallel = tuple(axis for axis in axes if isinstance(axis, Axis))
        x = Ref("operand", 0, w.ref.type)
        piece = Piece(Ref("result", 0, taps.type), parallel, (c, a * TAPS + b, o), x[axes])
        self._add(piece, taps, self.fold.buffer(w.ref))
        filters = self._buffer((self.planes, c.extent | 1, o.extent), "filters")
        t = Ref("operand", 0, taps.type)
        last = TAPS * TAPS - 1
        tile = self._square(
            TAPS, lambda r, q: t[c, Const(last - r * TAPS - q if found.flipped else r * TAPS + q, "index"), o]
        )
        for k, element in enumerate(chain(*transform(self.algorithm.filters, tile))):
            at = (Const(k, "index"), c, o)
            self._add(Piece(Ref("result", 0, filters.type), (c, o), at, element), filters, taps, first=k == 0)
        return filters

    def _packed(self, load: Load, low: tuple[int, int], beyond: int) -> Buffer:
        """``p[n, u, v, c]``: the image from ``low`` on, as far as tiles reach, and 0 outside."""
        source = self.fold.buffer(load.ref)
        n, c = self._image(load.ref.shape[0]), Axis("c", load.ref.shape[1])
        u, v = Axis("u", self.tiles.height + beyond), Axis("v", self.tiles.width + beyond)
        packed = self._buffer((load.ref.shape[0], u.extent, v.extent, c.extent), "packed", source.name)
        places = (u + low[0], v + low[1])
        by: dict[Expr, Expr] = dict(zip(load.at[2:], places, strict=True))
        guard = rebuild(load.where, by.get) if load.where is not None else None
        known = list(walk(guard)) if guard is not None else []
        ends = zip(places, low, (u, v), load.ref.shape[2:], strict=True)
        over = [place < size for place, start, axis, size in ends if start + axis.extent > size]
        guard = all_of(guard, *(condition for condition in over if condition not in known))
        x = Ref("operand", 0, load.ref.type)
        axes = (u, c, v) if self.one_image else (*_axes(n), c, u, v)
        piece = Piece(Ref("result", 0, packed.type), axes, (n, u, v, c), x.load((n, c, *places), guard))
        self._add(piece, packed, source, outer=n)
        return packed

    def _transformed(self, packed: Buffer, matrix: Matrix, reach: int, suffix: str) -> Buffer:
        """``matrix p matrix^T`` of each tile, which reads ``reach`` rows and columns: ``[xi, n, block, tile, c]``."""
        tiles, size = self.tiles, len(matrix)
        n, c = self._image(packed.type.shape[0]), Axis("c", packed.type.shape[3])
        b, i, j = Axis("block", tiles.blocks), Axis("ti", tiles.rows), Axis("tj", tiles.columns)
        top, left = b * tiles.block_height + i * tiles.outputs, j * tiles.outputs
        p = Ref("operand", 0, packed.type)
        tile = self._square(reach, lambda r, q: p[n, top + r, left + q, c])
        shape = (size * size, packed.type.shape[0], tiles.blocks, tiles.pitch, c.extent)
        made = self._buffer(shape, suffix, packed.name)
        for k, element in enumerate(chain(*transform(matrix, tile))):
            at = (Const(k, "index"), n, b, i * tiles.columns + j, c)
            piece = Piece(Ref("result", 0, made.type), (*_axes(n), b, i, j, c), at, element)
            self._add(piece, made, packed, outer=n, inner=b, first=k == 0)
        return made

    def _results(self, products: Buffer) -> Buffer:
        """``At m A`` of each tile, side by side: ``[n, block, i, j, o]``."""
        tiles, size = self.tiles, self.algorithm.tile
        n, o = self._image(products.type.shape[1]), Axis("o", products.type.shape[4])
        b, i, j = Axis("block", tiles.blocks), Axis("ti", tiles.rows), Axis("tj", tiles.columns)
        m = Ref("operand", 0, products.type)
        tile = self._square(size, lambda r, q: m[r * size + q, n, b, i * tiles.columns + j, o])
        shape = (products.type.shape[1], tiles.blocks, tiles.block_height, tiles.width, o.extent)
        made = self._buffer(shape, "results")
        for r, row in enumerate(transform(self.algorithm.results, tile)):
            for q, element in enumerate(row):
                at = (n, b, i * tiles.outputs + r, j * tiles.outputs + q, o)
                piece = Piece(Ref("result", 0, made.type), (*_axes(n), b, i, j, o), at, element)
                self._add(piece, made, products, outer=n, inner=b, first=r + q == 0)
        return made

    def _planar(self, results: Buffer, width: int) -> Buffer:
        """``[n, o, i * width + j]``: planar, in whole blocks of rows."""
        images, *extents = results.type.shape
        n = self._image(images)
        block, i, _, o = (Axis(name, extent) for name, extent in zip(("block", *"ijo"), extents, strict=True))
        j = Axis("j", width)
        made = self._buffer((images, o.extent, block.extent * i.extent * width), "planar")
        x = Ref("operand", 0, results.type)
        at = (n, o, (block * i.extent + i) * width + j)
        piece = Piece(Ref("result", 0, made.type), (*_axes(n), block, o, i, j), at, x[n, block, i, j, o])
        self._add(piece, made, results, outer=n, inner=block)
        return made

    # -- statements --------------------------------------------------------------------------------------------------
    def _image(self, extent: int) -> Axis | Const:
        """The loop over images, or the only one."""
        return Const(0, "index") if self.one_image else Axis("n", extent)

    def _buffer(self, shape: Sequence[int], suffix: str, name: str | None = None) -> Buffer:
        return Buffer(TensorType(tuple(shape), self.dtype), f"{name or self.name}_{suffix}")

    @staticmethod
    def _square(size: int, element: Callable[[int, int], Expr]) -> list[list[Expr]]:
        return [[element(r, q) for q in range(size)] for r in range(size)]

    def _add(
        self,
        piece: Piece,
        target: Buffer,
        source: Buffer,
        outer: Axis | Const | None = None,
        inner: Axis | None = None,
        first: bool = True,
    ) -> None:
        """A statement before the ones behind the fold; all but the ``first`` of a transform share its loops."""
        refs = {("operand", 0): source, ("result", 0): target}
        outer = outer if isinstance(outer, Axis) else None
        # Channels and tiles are part of the code: which tile of registers is best depends on them.
        static = [axis for axis in piece.axes if axis is not outer]
        statement = Statement(piece, target, refs, static=static, outer=outer, inner=inner, apart=first)
        target.writers.append(statement)
        self.program.statements.insert(self._place, statement)
        self._place += 1

    def _becomes(
        self, axes: tuple[Axis, ...], target: Buffer, at: tuple[Expr, ...], value: Expr, sources: Sequence[Buffer]
    ) -> None:
        """Make the fold the sum of products, between the loops over images and blocks."""
        fold = self.fold
        fold.piece = Piece(Ref("result", 0, target.type), axes, at, value, combine="add")
        fold.refs = {("operand", k): source for k, source in enumerate(sources)}
        fold.refs["result", 0] = target
        fold.outer, fold.inner, fold.static = axes[0], axes[1], list(axes[1:])
        if self.one_image:
            fold.outer, fold.inner, fold.static = None, axes[0], list(axes)
        fold.target, target.writers = target, [fold]
        self._place = self.program.statements.index(fold) + 1

    def _read_behind(self, target: Buffer, made: Buffer, read: Callable[[Ref, tuple[Expr, ...]], Expr]) -> None:
        """Let what read the fold's result read ``made``, where that is; what comes next has loops of its own."""
        x, y = Ref("operand", 0, made.type), Ref("result", 0, target.type)
        piece = pointwise(y, lambda *at: read(x, at))
        store = Statement(piece, target, {("operand", 0): made, ("result", 0): target})
        target.writers, target.inlined = [store], True
        self.program.statements.insert(self._place, store)
        behind = self.program.statements[self._place :]
        next(s for s in behind if s.target.results or not s.target.inlined).apart = True


def _axes(n: Axis | Const) -> tuple[Axis, ...]:
    """The axis of the loop over images, if there is one."""
    return (n,) if isinstance(n, Axis) else ()
