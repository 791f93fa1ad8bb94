"""The axes that ops map independently: what the pieces show, and what they must not claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Ref
from concatc.loops.independence import AxisMap, independent_axes
from concatc.loops.pieces import Piece
from concatc.op import axis_maps, f32, i32, load_all_ops

OPS = load_all_ops()


def maps(name: str, *types: TensorType, **attributes: Any) -> list[tuple[tuple[int | None, ...], tuple[int, ...]]]:
    return [(m.operands, m.results) for m in axis_maps(OPS[name].from_attrs(attributes), types)]


def test_elementwise_ops_map_every_axis() -> None:
    assert maps("relu", f32(2, 3)) == [((0,), (0,)), ((1,), (1,))]
    assert maps("add", f32(2, 3), f32(2, 3)) == [((0, 0), (0,)), ((1, 1), (1,))]


def test_what_is_repeated_is_shared() -> None:
    assert maps("add", f32(2, 3), f32(1, 3)) == [((0, None), (0,)), ((1, 1), (1,))]
    assert maps("bias", f32(2, 3), f32(3), axis=1) == [((0, None), (0,)), ((1, 0), (1,))]
    assert maps("mul", f32(2, 3), f32()) == [((0, None), (0,)), ((1, None), (1,))]


def test_linear_maps_rows_of_data_and_rows_of_weights() -> None:
    assert maps("linear", f32(5, 4), f32(3, 4)) == [((0, None), (0,)), ((None, 0), (1,))]


def test_reductions_map_what_they_keep() -> None:
    assert maps("sum", f32(2, 3, 4), axes=[1]) == [((0,), (0,)), ((2,), (1,))]
    assert maps("softmax", f32(2, 3, 4), axis=1) == [((0,), (0,)), ((2,), (2,))]
    assert maps("softmax_loss", f32(2, 3), i32(2)) == []


def test_concat_maps_the_other_axes() -> None:
    assert maps("concat", f32(2, 3), f32(2, 4), axis=1) == [((0, 0), (0,))]


def test_slice_maps_the_other_axes_of_all_results() -> None:
    assert maps("slice", f32(2, 7), axis=1, sizes=[3, 4]) == [((0,), (0, 0))]


def test_transpose_moves_the_axis() -> None:
    assert maps("transpose", f32(2, 3, 4), perm=[2, 0, 1]) == [((2,), (0,)), ((0,), (1,)), ((1,), (2,))]


def test_flatten_maps_the_batch() -> None:
    assert maps("flatten", f32(2, 3, 4)) == [((0,), (0,))]


def test_gathers_map_the_indices_and_the_columns() -> None:
    assert maps("embedding", i32(5), f32(7, 4)) == [((0, None), (0,)), ((None, 1), (1,))]


def test_a_hash_of_the_index_is_not_independent() -> None:
    assert maps("dropout", f32(4, 5), i32(2), key=1) == []
    assert maps("iota", n=4) == []


def test_a_count_in_the_formula_is_not_independent() -> None:
    """Rows of the gradient of a mean look independent; the number of rows stands in a literal."""
    given = (f32(4, 5), i32(4), f32())
    assert maps("softmax_loss_grad", *given, reduction="mean") == []
    assert maps("softmax_loss_grad", *given, reduction="sum") == [((0, 0, None), (0,))]
    assert maps("softmax_loss_grad", *given, reduction="valid", ignore=3) == []


def test_a_shape_in_an_attribute_is_not_independent() -> None:
    assert maps("expand", f32(3), shape=[2, 3], axes=[0]) == []


X, R, J = Ref("operand", 0, f32(3, 3)), Axis("i", 3), Axis("j", 3)
Y = Ref("result", 0, f32(3, 3))


@pytest.mark.parametrize(
    "piece",
    [
        Piece(Y, (R, J), (R, J), X[R, J] + X[J, R]),
        Piece(Y, (R, J), (R, J), X[R, R] + X[J, J]),
        Piece(Y, (R, J), (R, J), X.load((R, J), where=R <= J)),
        Piece(Y, (R, J), (R, J), X[R, J], where=R < J),
        Piece(Y, (R, J), (R, R), X[R, J]),
    ],
    ids=["both ways", "diagonal", "guard", "where", "target"],
)
def test_entangled_axes_are_left_out(piece: Piece) -> None:
    assert independent_axes(lambda types: ([piece], [f32(3, 3)]), [f32(3, 3)]) == []


@pytest.mark.parametrize(("by_row", "want"), [(True, [AxisMap((0,), (0,))]), (False, [])])
def test_stages_must_agree(by_row: bool, want: list[AxisMap]) -> None:
    """A temporary that is filled by rows and read by columns ties the rows together."""

    def lower(types: Sequence[TensorType]) -> tuple[list[Piece], list[TensorType]]:
        (type_,) = types
        i, j, k = Axis("i", type_.shape[0]), Axis("j", type_.shape[1]), Axis("k", type_.shape[1], "reduce")
        x, y, row = Ref("operand", 0, type_), Ref("result", 0, type_), Ref("temp", 0, f32(type_.shape[0]))
        stage = Piece(row, (i, k), (i,), x[i, k], "add")
        return [stage, Piece(y, (i, j), (i, j), x[i, j] * row[i if by_row else j])], [type_]

    assert independent_axes(lower, [f32(3, 3)]) == want
