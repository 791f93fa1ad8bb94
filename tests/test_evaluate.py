"""The evaluator of pieces: folds, scatter, guards, chunks; and that it finds what is wrong with a piece."""

from __future__ import annotations

import numpy as np
import pytest

from concatc.ir.types import TensorType
from concatc.loops import evaluate as module
from concatc.loops.evaluate import evaluate, evaluate_counted
from concatc.loops.expr import Arith, Axis, Const, Expr, Ref, absolute, arith, cast, log1p, minimum, select
from concatc.loops.pieces import Piece, temp
from concatc.op import f32, i32


def operand(k: int, type: TensorType) -> Ref:
    return Ref("operand", k, type)


def result(type: TensorType, k: int = 0) -> Ref:
    return Ref("result", k, type)


X = operand(0, f32(3, 4))
R, J, K = Axis("i", 3), Axis("j", 4), Axis("k", 4, "reduce")
DATA = np.arange(12, dtype=np.float32).reshape(3, 4)
DATA[1, 2] = 100


def run(piece: Piece, *arrays: np.ndarray) -> np.ndarray:
    return evaluate([piece], arrays, [piece.target.type])[0]


def test_folds() -> None:
    y = result(f32(3))
    np.testing.assert_array_equal(run(Piece(y, (R, K), (R,), X[R, K], "add"), DATA), DATA.sum(1))
    np.testing.assert_array_equal(run(Piece(y, (K, R), (R,), X[R, K], "max"), DATA), DATA.max(1))
    even = arith("eq", K % 2, 0)
    np.testing.assert_array_equal(run(Piece(y, (R, K), (R,), X[R, K], "add", where=even), DATA), DATA[:, ::2].sum(1))
    np.testing.assert_array_equal(run(Piece(y, (R, K), (R,), X[R, K], "max", where=K > 3), DATA), [-np.inf] * 3)


def test_argmax_takes_the_first_and_nan_before_everything() -> None:
    data = np.array([[1, 3, 3, 0], [0, np.nan, 9, np.nan], [0, 0, 0, 0]], np.float32)
    piece = Piece(result(i32(3)), (R, K), (R,), X[R, K], "argmax", index=cast(K, "i32") + 10)
    np.testing.assert_array_equal(run(piece, data), [11, 11, 10])


def test_argmax_over_two_axes_in_their_order() -> None:
    rows, columns = Axis("r", 3, "reduce"), Axis("c", 4, "reduce")
    index = cast(rows * 4 + columns, "i32")
    piece = Piece(result(i32()), (rows, columns), (), X[rows, columns], "argmax", index=index)
    assert run(piece, DATA) == 6
    assert run(piece, np.zeros_like(DATA)) == 0


def test_scatter_adds_at_repeated_places() -> None:
    ids = operand(1, i32(3))
    s = Axis("s", 3, "sequential")
    piece = Piece(result(f32(5, 4)), (s, J), (cast(ids[s], "index"), J), X[s, J], "add")
    found = evaluate_counted([piece], [DATA, np.array([4, 1, 4], np.int32)], [f32(5, 4)])
    want = np.zeros((5, 4), np.float32)
    want[4], want[1] = DATA[0] + DATA[2], DATA[1]
    np.testing.assert_array_equal(found.results[0], want)
    np.testing.assert_array_equal(found.writes[0], 1)


def test_guarded_loads_touch_nothing() -> None:
    shifted = X.load((R, J + -1), where=J >= 1, other=7.0)
    want = np.concatenate([np.full((3, 1), 7, np.float32), DATA[:, :-1]], 1)
    np.testing.assert_array_equal(run(Piece(result(f32(3, 4)), (R, J), (R, J), shifted), DATA), want)


@pytest.mark.parametrize("at", [(R, J + 1), (R, J + -1), (R + 3, J), (R, J * 2)], ids=str)
def test_reads_out_of_range_are_errors(at: tuple[Expr, ...]) -> None:
    with pytest.raises(IndexError):
        run(Piece(result(f32(3, 4)), (R, J), (R, J), X[at]), DATA)


def test_writes_out_of_range_are_errors() -> None:
    with pytest.raises(IndexError):
        run(Piece(result(f32(3, 4)), (R, J), (R, J + 1), X[R, J]), DATA)


def test_guards_that_are_wrong_are_errors() -> None:
    with pytest.raises(IndexError):
        run(Piece(result(f32(3, 4)), (R, J), (R, J), X.load((R, J + -1), where=J >= 0)), DATA)


def test_elements_written_twice_or_never_are_counted() -> None:
    y = result(f32(3, 4))
    one = evaluate_counted([Piece(y, (R, J), (R, J), X[R, J], where=J < 3)], [DATA], [y.type])
    assert one.writes[0].tolist() == [[1, 1, 1, 0]] * 3
    assert np.isnan(one.results[0][:, 3]).all()
    flat = result(f32(3))
    two = evaluate_counted([Piece(flat, (R, J), (R,), X[R, J])], [DATA], [flat.type])
    assert two.writes[0].tolist() == [4, 4, 4]


def test_temporaries_start_poisoned() -> None:
    t = temp(0, (3,), "f32")
    assert np.isnan(run(Piece(result(f32(3)), (R,), (R,), X[R, 0]), DATA)).sum() == 0
    pieces = [Piece(t, (R,), (R,), X[R, 0], where=R < 2), Piece(result(f32(3)), (R,), (R,), t[R])]
    assert np.isnan(evaluate(pieces, [DATA], [f32(3)])[0]).tolist() == [False, False, True]


def test_diagonals_transposes_and_constants() -> None:
    square = operand(0, f32(4, 4))
    data = np.arange(16, dtype=np.float32).reshape(4, 4)
    k = Axis("j", 4)
    np.testing.assert_array_equal(run(Piece(result(f32(4)), (k,), (k,), square[k, k]), data), np.diag(data))
    np.testing.assert_array_equal(run(Piece(result(f32(4)), (k,), (k,), square[2, k]), data), data[2])
    i, j = Axis("i", 4), Axis("j", 4)
    np.testing.assert_array_equal(run(Piece(result(f32(4, 4)), (i, j), (i, j), square[j, i]), data), data.T)
    np.testing.assert_array_equal(run(Piece(result(f32(4, 4)), (i, j), (j, i), square[i, j]), data), data.T)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [Piece(result(f32(3)), (K, R), (R,), X[R, K] * 2.0, "add")]
    whole = evaluate(pieces, [DATA], [f32(3)])[0]
    monkeypatch.setattr(module, "CHUNK_POINTS", 5)
    np.testing.assert_array_equal(evaluate(pieces, [DATA], [f32(3)])[0], whole)


def test_no_points_at_all() -> None:
    none, rows = Axis("z", 0), Axis("r", 0, "reduce")
    empty = operand(0, f32(0, 4))
    assert run(Piece(result(f32(0, 4)), (none, J), (none, J), empty[none, J]), np.zeros((0, 4))).shape == (0, 4)
    total = Piece(result(f32(4)), (J, rows), (J,), empty[rows, J], "add")
    np.testing.assert_array_equal(run(total, np.zeros((0, 4), np.float32)), 0)


def test_integers_wrap_and_shift_in_zeros() -> None:
    def value(e: Expr) -> int:
        return int(run(Piece(result(i32()), (), (), e)))

    big = Const(2**31 - 1, "i32")
    assert value(big + 1) == -(2**31)
    assert value(big * 3) == (3 * (2**31 - 1) + 2**31) % 2**32 - 2**31
    assert value(arith("shr", Const(-1, "i32"), 28)) == 15
    assert value(arith("shl", Const(3, "i32"), 31)) == -(2**31)
    assert value(arith("xor", Const(-1, "i32"), 5)) == -6


def test_scalar_functions() -> None:
    x = np.array([-1.5, 0.0, 0.25, np.nan], np.float64)
    ref = Ref("operand", 0, TensorType((4,), "f64"))
    n = Axis("n", 4)

    def value(e: Expr) -> np.ndarray:
        return run(Piece(result(TensorType((4,), "f64")), (n,), (n,), e), x)

    v = ref[n]
    np.testing.assert_array_equal(value(absolute(v)), np.abs(x))
    np.testing.assert_array_equal(value(minimum(v, 0.1)), np.minimum(x, 0.1))
    np.testing.assert_array_equal(value(log1p(absolute(v))), np.log1p(np.abs(x)))
    np.testing.assert_array_equal(value(Arith("floor", (v,))), np.floor(x))
    np.testing.assert_allclose(value(Arith("erf", (v,)))[:3], [-0.9661051464753108, 0.0, 0.2763263901682369], 1e-15)
    np.testing.assert_array_equal(value(select((v > -2.0) & (v < 0.1) | v.ne(v), Const(1.0, "f64"), 0.0)), [1, 1, 0, 1])
    np.testing.assert_array_equal(value(cast(cast(v * 2.0, "i32"), "f64"))[:3], [-3, 0, 0])
