"""What calls of ops mean, and what is said where one is wrong: texts pinned, ``{0}`` stands for the first blob."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import concatc
from concatc.diagnostics import ConcatcError
from concatc.ir.types import TensorType
from concatc.op import ShapeError, f32, i32, load_all_ops, op_of
from tests.calls import Call

OPS = load_all_ops()
F64 = np.float64


def x(*shape: int) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=F64).reshape(shape)


def names(call: Call) -> list[str]:
    """The ops that a call makes."""
    return [op_of(operation).name for operation in call.block.ops]


# -- what a call means ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"sizes": [2, 2, 2]}, {"at": [2, 4]}, {"parts": 3}], ids=["sizes", "at", "parts"])
def test_three_ways_to_slice(how: dict[str, Any]) -> None:
    call = Call("slice", x(1, 6), axis=1, **how)
    assert [call.value(v).tolist() for v in call.results] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert names(call) == ["slice"]


def test_slice_at_the_ends_and_twice_makes_empty_windows() -> None:
    call = Call("slice", x(3), axis=0, at=[0, 2, 2, 3])
    assert [call.value(v).tolist() for v in call.results] == [[], [0, 1], [], [2], []]


def test_slice_into_one_is_a_value() -> None:
    assert len(Call("slice", x(2, 3), parts=1).results) == 1


def test_reductions_take_all_axes_by_default() -> None:
    call = Call("sum", x(2, 3))
    assert call.result == 15.0
    assert op_of(call.block.ops[0]).attrs() == {"axes": (0, 1), "keepdims": False}
    assert Call("mean", x(2, 3), axes=[1], keepdims=True).result.tolist() == [[1.0], [4.0]]


def test_reshape_fills_what_is_left() -> None:
    call = Call("reshape", x(2, 3, 4), shape=[4, -1])
    assert op_of(call.block.ops[0]).attrs() == {"shape": (4, 6)}


def test_dropout_is_there_in_training_only() -> None:
    assert names(Call("dropout", x(2, 3))) == ["dropout"]
    assert names(Call("dropout", x(2, 3), train=False)) == []
    assert names(Call("dropout", x(2, 3), p=0.0)) == []


def test_scale_has_a_bias_unless_told() -> None:
    assert names(Call("scale", x(2, 3))) == ["scale", "bias"]
    call = Call("scale", x(2, 3), without=["bias"])
    assert names(call) == ["scale"]
    assert list(call.params) == ["weight"]


def test_iota_counts() -> None:
    assert Call("iota", n=4).result.tolist() == [0, 1, 2, 3]


def test_labels_have_bounds() -> None:
    op = OPS["softmax_loss"].from_attrs({"axis": 1, "ignore": 255})
    assert op.index_bounds([f32(2, 5, 3), i32(2, 3)]) == {1: (5, 255)}
    assert OPS["accuracy"].from_attrs({}).index_bounds([f32(2, 5), i32(2)]) == {1: (5, None)}


def test_derivatives_do_not_grow() -> None:
    """The operations that a gradient takes; a step more is a kernel more where it does not fuse."""
    for name, made in {"relu": 1, "sigmoid": 1, "neg": 1, "softmax": 1, "log": 1, "flatten": 1, "sum": 1}.items():
        call = Call(name, 1.0 + x(2, 3))
        before = len(call.block.ops)
        call.gradients(np.ones(call.results[0].shape))
        assert len(call.block.ops) - before == made, name


# -- errors --------------------------------------------------------------------------------------------------------


def refused(name: str, types: list[TensorType], **attributes: Any) -> tuple[str, str | None]:
    with pytest.raises(ShapeError) as caught:
        OPS[name].from_attrs(attributes).infer(types)
    return caught.value.message, caught.value.help


@pytest.mark.parametrize(
    ("name", "types", "attributes", "message", "help"),
    [
        (
            "add",
            [f32(2, 3), f32(2, 4)],
            {},
            "add needs equal shapes, or axes of size 1 at equal rank: {0} is tensor<2x3xf32>, {1} is tensor<2x4xf32>",
            None,
        ),
        (
            "mul",
            [f32(2, 3), f32(3)],
            {},
            "mul needs equal shapes, or axes of size 1 at equal rank: {0} is tensor<2x3xf32>, {1} is tensor<3xf32>",
            "reshape {1} to [1, 3]",
        ),
        (
            "sub",
            [f32(4), f32(4, 4)],
            {},
            "sub needs equal shapes, or axes of size 1 at equal rank: {0} is tensor<4xf32>, {1} is tensor<4x4xf32>",
            "reshape {0} to 2 axes, with 1 where it repeats",
        ),
        (
            "div",
            [f32(2), TensorType((2,), "f64")],
            {},
            "div needs operands of one element type: {0} is tensor<2xf32>, {1} is tensor<2xf64>",
            None,
        ),
        ("max", [f32(2), i32(2)], {}, "max works on floats; {1} is tensor<2xi32>", None),
        ("exp", [i32(2)], {}, "exp works on floats; {0} is tensor<2xi32>", None),
        (
            "leaky_relu",
            [f32(2)],
            {"negative_slope": -1.0},
            "leaky_relu: `negative_slope` must be at least 0, not -1.0",
            None,
        ),
        ("elu", [f32(2)], {"alpha": -1.0}, "elu: `alpha` must be at least 0, not -1.0", None),
        (
            "pow_scalar",
            [f32(2)],
            {"value": 100.0},
            "whole powers go from -64 to 64; {0} ^ 100 does not",
            None,
        ),
        (
            "bias",
            [f32(2, 3), f32(2)],
            {"axis": 1},
            "bias along axis 1 of {0}, tensor<2x3xf32>, needs 3 numbers, not tensor<2xf32>",
            None,
        ),
        (
            "scale",
            [f32(2, 3), f32(2)],
            {"axis": 1},
            "scale along axis 1 of {0}, tensor<2x3xf32>, needs 3 weights, not tensor<2xf32>",
            None,
        ),
        (
            "sum",
            [f32(2, 3)],
            {"axes": [2]},
            "sum has no axis 2: {0} is tensor<2x3xf32>, its axes are 0 to 1",
            None,
        ),
        (
            "mean",
            [f32(2, 3)],
            {"axes": [-1]},
            "mean has no axis -1: {0} is tensor<2x3xf32>, its axes are 0 to 1",
            "axis=1 is the same axis counted from the front",
        ),
        ("mean", [f32(2, 3)], {"axes": [0, 0]}, "mean: an axis stands twice in [0, 0]", None),
        ("sum", [i32(2)], {"axes": [0]}, "sum works on floats; {0} is tensor<2xi32>", None),
        (
            "softmax",
            [f32()],
            {},
            "softmax has no axis 1: {0} is tensor<f32>, it has no axes",
            None,
        ),
        (
            "log_softmax",
            [f32(4)],
            {},
            "log_softmax has no axis 1: {0} is tensor<4xf32>, its only axis is 0",
            None,
        ),
        (
            "softmax_loss",
            [f32(4, 10), i32(5)],
            {},
            "softmax_loss over axis 1 needs one label a row: {0} is tensor<4x10xf32>, so labels are tensor<4xi32>; "
            "{1} is tensor<5xi32>",
            None,
        ),
        (
            "softmax_loss",
            [f32(10, 4), i32(4)],
            {},
            "softmax_loss over axis 1 needs one label a row: {0} is tensor<10x4xf32>, so labels are tensor<10xi32>; "
            "{1} is tensor<4xi32>",
            "axis=0 would take these labels",
        ),
        (
            "softmax_loss",
            [f32(4, 10), i32(4, 1)],
            {},
            "softmax_loss over axis 1 needs one label a row: {0} is tensor<4x10xf32>, so labels are tensor<4xi32>; "
            "{1} is tensor<4x1xi32>",
            "reshape {1} to [4]",
        ),
        (
            "softmax_loss",
            [f32(4, 10), f32(4)],
            {},
            "softmax_loss needs integer labels; {1} is tensor<4xf32>",
            "declare the labels as i32",
        ),
        (
            "accuracy",
            [f32(4, 10), i32(4)],
            {"top": 11},
            "accuracy: `top` is 1 to 10, the classes of {0}, not 11",
            None,
        ),
        (
            "mse_loss",
            [f32(4), f32(4, 1)],
            {},
            "mse_loss needs operands of one shape: {0} is tensor<4xf32>, {1} is tensor<4x1xf32>",
            None,
        ),
        (
            "sigmoid_loss",
            [f32(4), i32(4)],
            {},
            "sigmoid_loss works on floats; {1} is tensor<4xi32>",
            None,
        ),
        (
            "contrastive_loss",
            [f32(4, 2, 2), f32(4, 2, 2), f32(4)],
            {},
            "contrastive_loss takes vectors, [n, features]; {0} is tensor<4x2x2xf32>",
            "flatten them first",
        ),
        (
            "contrastive_loss",
            [f32(4, 2), f32(4, 2), f32(4, 1)],
            {},
            "contrastive_loss needs one label a pair, tensor<4xf32> or integers; {2} is tensor<4x1xf32>",
            None,
        ),
        (
            "contrastive_loss",
            [f32(4, 2), f32(4, 2), f32(4)],
            {"margin": 0.0},
            "contrastive_loss: `margin` must be positive, not 0",
            None,
        ),
        (
            "total_loss",
            [f32(4), f32(1)],
            {},
            "a loss is one number; {0} is tensor<4xf32>",
            "take the mean or the sum of it",
        ),
        ("total_loss", [f32(), f32(2)], {}, "total_loss of 1 losses needs as many weights, not tensor<2xf32>", None),
        (
            "dropout",
            [f32(4), i32(2)],
            {"p": 1.0, "key": 0},
            "dropout: `p` is the probability to drop an element, 0 <= p < 1, not 1",
            None,
        ),
        (
            "slice",
            [f32(2, 6)],
            {"axis": 1, "sizes": [2, 3]},
            "slice: sizes [2, 3] sum to 5, but axis 1 of {0}, tensor<2x6xf32>, has 6",
            None,
        ),
        (
            "slice",
            [f32(6)],
            {"axis": 0, "sizes": [-1, 7]},
            "slice: sizes [-1, 7] must be one or more, none of them negative",
            None,
        ),
        (
            "reshape",
            [f32(2, 3)],
            {"shape": [4, 2]},
            "reshape: {0} is tensor<2x3xf32>, of 6 elements; [4, 2] has 8",
            None,
        ),
        (
            "transpose",
            [f32(2, 3)],
            {"perm": [1, 1]},
            "transpose: `perm` holds each axis of {0}, tensor<2x3xf32>, once; [1, 1] does not",
            "[1, 0] reverses the axes",
        ),
        (
            "flatten",
            [f32(2)],
            {"axis": 1},
            "flatten has no axis 1: {0} is tensor<2xf32>, its only axis is 0",
            None,
        ),
        ("iota", [], {"n": -1}, "iota: `n` must be at least 0, not -1", None),
        ("constant", [], {"shape": [2], "value": 0.5, "dtype": "i32"}, "constant: 0.5 is no i32", None),
        (
            "expand",
            [f32(2)],
            {"shape": [2, 3], "axes": [0]},
            "expand of {0}, tensor<2xf32>, to [2, 3] along axes [0] does not fit",
            None,
        ),
    ],
)
def test_wrong_operands(
    name: str, types: list[TensorType], attributes: dict[str, Any], message: str, help: str | None
) -> None:
    assert refused(name, types, **attributes) == (message, help)


@pytest.mark.parametrize(
    ("name", "shape", "attributes", "message"),
    [
        ("slice", (2, 6), {}, "slice needs one of `sizes`, `at` and `parts`, and has none"),
        ("slice", (2, 6), {"parts": 2, "at": [1]}, "slice needs one of `sizes`, `at` and `parts`, and has 2"),
        ("slice", (2, 6), {"parts": 4}, "slice: axis 1 of {0}, tensor<2x6xf64>, has 6, which is not 4 equal parts"),
        ("slice", (2, 6), {"parts": 0}, "slice: `parts` must be at least 1, not 0"),
        (
            "slice",
            (2, 6),
            {"at": [4, 2]},
            "slice: the cuts [4, 2] must rise within 0 to 6, the size of axis 1 of {0}, tensor<2x6xf64>",
        ),
        (
            "slice",
            (2, 6),
            {"at": [7]},
            "slice: the cuts [7] must rise within 0 to 6, the size of axis 1 of {0}, tensor<2x6xf64>",
        ),
        ("reshape", (2, 3), {"shape": [-1, -1]}, "reshape: only one size can be -1, not 2 of [-1, -1]"),
        (
            "reshape",
            (2, 3),
            {"shape": [4, -1]},
            "reshape: {0} is tensor<2x3xf64>, of 6 elements, which no size for -1 in [4, -1] gives",
        ),
        ("dropout", (2,), {"p": -0.1}, "dropout: `p` is the probability to drop an element, 0 <= p < 1, not -0.1"),
        ("l2_normalize", (2,), {"axis": 1}, "l2_normalize has no axis 1: {0} is tensor<2xf64>, its only axis is 0"),
        ("bias", (2, 3), {"without": ["bias"]}, "bias without `bias` does nothing"),
        ("scale", (2, 3), {"without": ["weight"]}, "scale has no meaning without `weight`"),
    ],
)
def test_wrong_calls(name: str, shape: tuple[int, ...], attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError) as caught:
        Call(name, x(*shape), **attributes)
    assert caught.value.message == message


def test_accuracy_is_no_loss() -> None:
    call = Call("accuracy", x(2, 3), np.zeros(2, np.int32))
    with pytest.raises(ShapeError, match="accuracy has no gradient"):
        call.gradients(np.array(1.0))


def test_accuracy_is_no_loss_in_a_net() -> None:
    source = (
        "net t(n = 4) {\n    input x: f32[n, 8]\n    input label: i32[n]\n    loss accuracy(linear(x, 3), label)\n}\n"
    )
    with pytest.raises(ConcatcError) as caught:
        concatc.compile_source(source, filename="t.cnet").ir("joint")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.message == "accuracy has no gradient, and a loss depends on it"
    assert diagnostic.loc is not None and diagnostic.loc.line == 4
