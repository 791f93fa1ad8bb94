"""Where formulas bend: ties, NaN, infinities, kinks, labels that do not count or are out of range, empty batches.

Each case holds for the reference and for the pieces of the op, which every target compiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from concatc.ir.types import NUMPY_DTYPES, TensorType
from concatc.loops.evaluate import evaluate
from concatc.loops.expr import Ref
from concatc.op import REGISTRY, load_all_ops

load_all_ops()

NAN, INF = np.nan, np.inf
NAMES = {dtype: name for name, dtype in NUMPY_DTYPES.items()}


def check(name: str, xs: list[Any], want: Any, **attributes: Any) -> None:
    """The one result of an op, by reference and by pieces, in f64 and f32; lists of ints become i32."""
    for dtype in (np.float64, np.float32):
        arrays = [np.asarray(x) for x in xs]
        arrays = [a.astype(np.int32 if a.dtype.kind == "i" else dtype) for a in arrays]
        op = REGISTRY[name].from_attrs(attributes)
        types = [TensorType(a.shape, NAMES[a.dtype]) for a in arrays]
        results = op.infer(types)
        refs = [[Ref(kind, k, t) for k, t in enumerate(ts)] for kind, ts in (("operand", types), ("result", results))]
        with np.errstate(all="ignore"):
            made = [op.reference(*arrays), evaluate(list(op.lower(*refs)), arrays, results)]
        for values in made:
            np.testing.assert_allclose(values[0], np.asarray(want, dtype), rtol=2e-6, atol=1e-7)


# -- ties and NaN --------------------------------------------------------------------------------------------------


def test_max_gives_ties_to_the_first_and_nan_to_its_source() -> None:
    a, b = [1.0, 2.0, NAN, 1.0, NAN, -0.0], [1.0, 1.0, 0.0, NAN, NAN, 0.0]
    check("max", [a, b], [1.0, 2.0, NAN, NAN, NAN, 0.0])
    dy = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    check("max_grad", [a, b, dy], [1.0, 2.0, 3.0, 0.0, 5.0, 6.0], operand="a")
    check("max_grad", [a, b, dy], [0.0, 0.0, 0.0, 4.0, 0.0, 0.0], operand="b")


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh", "elu", "gelu", "neg", "exp", "log", "sqrt"])
def test_nan_stays_nan(name: str) -> None:
    check(name, [[NAN]], [NAN])


def test_kinks_at_zero() -> None:
    check("relu_grad", [[0.0], [3.0]], [0.0])
    check("leaky_relu", [[0.0, -0.0, -INF, INF]], [0.0, 0.0, -INF, INF], negative_slope=0.1)
    check("leaky_relu_grad", [[0.0], [3.0]], [0.3], negative_slope=0.1)
    check("elu", [[0.0, -INF, INF]], [0.0, -2.0, INF], alpha=2.0)
    check("elu_grad", [[0.0, -2.0], [3.0, 3.0]], [6.0, 0.0], alpha=2.0)


def test_large_scores_do_not_overflow() -> None:
    check("sigmoid", [[-1e4, 1e4, -INF, INF]], [0.0, 1.0, 0.0, 1.0])
    check("softmax", [[[1e30, 0.0], [-1e30, -1e30]]], [[1.0, 0.0], [0.5, 0.5]])
    check("log_softmax", [[[1e4, 0.0]]], [[0.0, -1e4]])
    check("softmax_loss", [[[1e4, 0.0]], [1]], 1e4)
    check("sigmoid_loss", [[-1e4, 1e4], [1.0, 1.0]], 5e3)
    check("sigmoid_loss_grad", [[-1e4, 1e4], [1.0, 1.0], 2.0], [-1.0, 0.0])


def test_softmax_of_infinities() -> None:
    check("softmax", [[[-INF, 0.0], [-INF, -INF], [NAN, 0.0]]], [[0.0, 1.0], [NAN, NAN], [NAN, NAN]])
    check("softmax_loss", [[[-INF, 0.0]], [1]], 0.0)
    check("softmax_loss", [[[NAN, 0.0]], [1]], NAN)


def test_powers() -> None:
    x = [-2.0, 0.0, NAN, INF]
    check("pow_scalar", [x], [1.0, 1.0, 1.0, 1.0], value=0.0)
    check("pow_scalar", [x], [-8.0, 0.0, NAN, INF], value=3.0)
    check("pow_scalar", [x], [-0.5, INF, NAN, 0.0], value=-1.0)
    check("pow_scalar", [x], [NAN, 0.0, NAN, INF], value=0.5)
    check("pow_scalar", [x], [NAN, 0.0, NAN, INF], value=1.5)


def test_division_by_zero() -> None:
    check("div", [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]], [INF, -INF, NAN])
    check("rdiv_scalar", [[0.0]], [INF], value=1.0)
    check("log", [[0.0, -1.0]], [-INF, NAN])


# -- labels --------------------------------------------------------------------------------------------------------

SCORES = [[0.0, 0.0], [0.0, 0.0], [NAN, 0.0]]
HALF = float(np.log(2.0))


@pytest.mark.parametrize(("reduction", "want"), [("sum", 2 * HALF), ("mean", 2 * HALF / 3), ("valid", HALF)])
def test_ignored_rows_add_nothing_even_where_they_are_nan(reduction: str, want: float) -> None:
    check("softmax_loss", [SCORES, [0, 1, -1]], want, reduction=reduction, ignore=-1)


@pytest.mark.parametrize(("reduction", "n"), [("sum", 1), ("mean", 3), ("valid", 2)])
def test_ignored_rows_have_no_gradient(reduction: str, n: int) -> None:
    want = np.array([[-0.5, 0.5], [0.5, -0.5], [0.0, 0.0]]) / n
    check("softmax_loss_grad", [SCORES, [0, 1, -1], 1.0], want, reduction=reduction, ignore=-1)


def test_loss_of_no_valid_rows_is_zero() -> None:
    for reduction in ("sum", "mean", "valid"):
        check("softmax_loss", [SCORES, [7, 7, 7]], 0.0, reduction=reduction, ignore=7)
        check("softmax_loss", [np.zeros((0, 2)), np.zeros(0, np.int64)], 0.0, reduction=reduction)
    check("softmax_loss_grad", [SCORES, [7, 7, 7], 1.0], np.zeros((3, 2)), reduction="valid", ignore=7)


@pytest.mark.parametrize("label", [-1, 2, 2**31 - 1, -(2**31)])
def test_label_out_of_range_reads_no_memory(label: int) -> None:
    # The run-time check reports it; the evaluator raises IndexError where a piece would read past the end.
    check("softmax_loss", [[[0.0, 0.0]], [label]], HALF)
    check("softmax_loss_grad", [[[0.0, 0.0]], [label], 1.0], [[0.5, 0.5]])
    op = REGISTRY["softmax_loss"].from_attrs({"ignore": 9})
    assert op.index_bounds([TensorType((1, 2)), TensorType((1,), "i32")]) == {1: (2, 9)}


def test_accuracy_breaks_ties_by_class_and_counts_nan_as_wrong() -> None:
    tied = [[1.0, 1.0, 0.0]] * 3
    check("accuracy", [tied, [0, 1, 2]], 1 / 3)
    check("accuracy", [tied, [0, 1, 2]], 2 / 3, top=2)
    check("accuracy", [[[NAN, 1.0], [NAN, 1.0]], [0, 1]], 0.0)
    check("accuracy", [[[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], [1, 0, -1]], 0.5, ignore=-1)
    check("accuracy", [np.zeros((0, 2)), np.zeros(0, np.int64)], 0.0)


# -- losses and reductions -----------------------------------------------------------------------------------------


def test_contrastive_loss_has_no_push_without_direction() -> None:
    a = [[1.0, 2.0], [1.0, 2.0]]
    check("contrastive_loss", [a, a, [0, 1]], 0.25)
    check("contrastive_loss_grad", [a, a, [0, 1], 1.0], np.zeros((2, 2)))


def test_contrastive_loss_beyond_the_margin_is_zero() -> None:
    check("contrastive_loss", [[[0.0, 0.0]], [[3.0, 4.0]], [0]], 0.0)
    check("contrastive_loss", [[[0.0, 0.0]], [[3.0, 4.0]], [0]], 0.5, margin=6.0)
    check("contrastive_loss", [[[0.0, 0.0]], [[3.0, 4.0]], [1]], 12.5)


def test_reductions_of_nothing_are_zero() -> None:
    empty = np.zeros((0, 3))
    check("sum", [empty], np.zeros(3), axes=[0])
    check("mean", [empty], np.zeros(3), axes=[0])
    check("mean", [empty], 0.0, axes=[0, 1])
    check("mse_loss", [empty, empty], 0.0)


def test_sum_keeps_nan_and_infinity() -> None:
    check("sum", [[[NAN, 1.0], [INF, 1.0], [INF, -INF]]], [NAN, INF, NAN], axes=[1])
