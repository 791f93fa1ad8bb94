"""Lets a convolution of small images run over packed rows as if they were one long row.

    p[c, u, v]   3 x 34 x 34, packed with its halo          p[c, u * 34 + v]
    y[n, o, i, j] += p[c, i + a, j + b] * w[o, c, a, b]  ->   r[o, q] += p[c, q + a * 34 + b] * w[o, c, a, b]
                                                              y[n, o, i, j] = r[o, i * 34 + j]

Vectors that lie along a row of 7, 8 or 14 elements are half empty.  Along all rows of an image they are full, but for
the few sums across the end of a row that nobody reads.  Needs windows that move by one element (stride 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from concatc.loops.affine import Affine, affine_of
from concatc.loops.expr import Axis, Expr, Load, Ref, axes_of, loads, rebuild
from concatc.loops.pieces import pointwise
from concatc.loops.program import Buffer, Program, Statement

# Elements of a vector, at the most; the vectors of a target may be shorter.
LANES = 16
WORTH = 0.95  # vectors over rows alone, times this, are more than vectors over all rows


@dataclass(frozen=True)
class FlatRows:
    """How a fold runs over rows: its axes over rows and columns, and the load of packed rows, with its last places."""

    row: Axis
    column: Axis
    load: Load
    places: tuple[Affine, Affine]

    @property
    def pitch(self) -> int:
        """Elements from one packed row to the next."""
        return self.load.ref.shape[-1]

    @property
    def extent(self) -> int:
        """Sums of all rows, those across the ends of rows included."""
        return (self.row.extent - 1) * self.pitch + self.column.extent


def flat_rows_of(fold: Statement, given: Load, load: Load, over: Sequence[Expr]) -> FlatRows | None:
    """How ``fold`` may run over packed rows that it reads with ``load`` instead of ``given``.

    ``over`` are its axes over rows and columns.  None where it cannot, or where it would not pay.
    """
    piece = fold.piece
    if len(load.at) < 3:
        return None
    row, column = over
    down, along = affine_of(load.at[-2]), affine_of(load.at[-1])
    if not (isinstance(row, Axis) and isinstance(column, Axis)) or down is None or along is None:
        return None
    if any(row in axes_of(e) or column in axes_of(e) for e in (*piece.at[:-2], *load.at[:-2])):
        return None
    if (down.step(row), down.step(column), along.step(row), along.step(column)) != (1, 0, 0, 1):
        return None
    rest = [term for term, _ in (*down.factors, *along.factors) if term is not row and term is not column]
    if any(row in axes_of(term) or column in axes_of(term) for term in rest):
        return None
    if not any(axis.extent > 1 for term in rest for axis in axes_of(term)):
        return None  # a single tap: rows lie one behind the other as they are
    others = [other for other in loads(piece.value) if other != given]
    if any(row in axes_of(i) or column in axes_of(i) for other in others for i in other.at):
        return None
    found = FlatRows(row, column, load, (down, along))
    # Taps of a weight gradient are rows and columns, too, of which most sums would be dropped.
    if 2 * column.extent <= found.pitch:
        return None
    by_rows = row.extent * -(-column.extent // LANES)
    return found if -(-found.extent // LANES) < WORTH * by_rows else None


def flatten_rows(program: Program, fold: Statement, flat: FlatRows) -> None:
    """Let the fold run over long rows, and put a statement behind it that reads the sums within rows."""
    q = run_over_rows(fold, flat)
    shape = (*fold.target.type.shape[:-2], flat.extent)
    sums_read_behind(
        program,
        fold,
        (shape, (*fold.piece.at[:-2], q)),
        lambda x, *i: x[(*i[:-2], i[-2] * flat.pitch + i[-1])],
    )


def run_over_rows(fold: Statement, flat: FlatRows) -> Axis:
    """Let what the fold reads be packed as long rows, and run over one of its places at a time; that axis."""
    packed = fold.buffer(flat.load.ref)
    (writer,) = packed.writers
    lead = packed.type.shape[:-2]
    packed.type = packed.type.with_shape((*lead, packed.type.shape[-2] * flat.pitch))
    made = Ref("result", 0, packed.type)
    *outer, u, v = writer.piece.at
    writer.piece = replace(writer.piece, target=made, at=(*outer, u * flat.pitch + v))

    q = Axis("q", flat.extent)
    read = replace(flat.load.ref, type=packed.type)
    place: Expr = flat.places[0].without(flat.row) * flat.pitch + flat.places[1].without(flat.column) + q
    load = read[(*flat.load.at[:-2], place)]
    axes = tuple(q if a is flat.row else a for a in fold.piece.axes if a is not flat.column)
    value = rebuild(fold.piece.value, lambda e: load if e == flat.load else None)
    fold.piece = replace(fold.piece, axes=axes, value=value)
    fold.static = [a for a in fold.static if a is not flat.row and a is not flat.column] + [q]
    return q


def sums_read_behind(
    program: Program, fold: Statement, into: tuple[tuple[int, ...], tuple[Expr, ...]], read: Callable[..., Expr]
) -> None:
    """Let the fold sum ``into`` scratch memory of a shape, at a place; a statement behind it stores what it made.

    ``read(x, *i)`` is the element of that memory ``x`` that becomes element ``i`` of the result.
    """
    target, (shape, at) = fold.target, into
    sums = Buffer(target.type.with_shape(shape), f"{target.name}_rows")
    result = replace(fold.piece.target, type=sums.type)
    fold.piece = replace(fold.piece, target=result, at=at)
    fold.refs = {**fold.refs, (result.kind, result.index): sums}
    fold.target, sums.writers = sums, [fold]

    x, y = Ref("operand", 0, sums.type), Ref("result", 0, target.type)
    store = Statement(pointwise(y, lambda *i: read(x, *i)), target, {("operand", 0): sums, ("result", 0): target})
    target.writers, target.inlined = [store], True
    after = program.statements.index(fold) + 1
    program.statements.insert(after, store)
    # The fold keeps its loop over channels for itself, so that sums of several channels share what is loaded.
    kept = [s for s in program.statements[after:] if s.target.results or not s.target.inlined]
    kept[0].apart = True
    if fold.outer is not None and target.results:
        store.outer = store.piece.axes[0]
