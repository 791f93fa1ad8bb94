"""Winograd's algorithms: that they are exact in exact numbers, what kernels compute by them, and who chooses them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from operator import mul
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.artifact import write_module
from concatc.compiler import Options, compile_net
from concatc.diagnostics import ConcatcError, UsageError
from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import TensorType
from concatc.loops.cuts import cutting_of
from concatc.loops.program import ALGORITHM
from concatc.loops.winograd_algorithms import ALGORITHMS, F2, F4, Algorithm, Matrix
from concatc.op import Builder, load_all_ops
from concatc.passes.choose_algorithms import ChooseAlgorithms
from concatc.passes.dumps import load_dump
from concatc.passes.fit_budget import planned_bytes
from concatc.passes.lower_to_loops import lower_to_loops, scratch_bytes
from concatc.targets.cache import Cache
from concatc.targets.cpu.nest import recognize
from concatc.targets.cpu.target import CpuTarget
from tests.test_every_op import assert_close
from tests.test_packing import data, interpret, launch_of, reference, run

load_all_ops()
BOTH = pytest.mark.parametrize("algorithm", [F2, F4], ids=["f2", "f4"])


def product(a: Matrix, b: Matrix) -> Matrix:
    """The product of matrices, exact."""
    return tuple(tuple(sum(map(mul, row, column), Fraction(0)) for column in zip(*b, strict=True)) for row in a)


@BOTH
def test_an_algorithm_is_exact_in_exact_numbers(algorithm: Algorithm) -> None:
    """On every pair of unit vectors, so on all: results, and by transposition gradients."""
    for k, q in itertools.product(range(algorithm.tile), range(3)):
        d = tuple((Fraction(n == k),) for n in range(algorithm.tile))
        g = tuple((Fraction(n == q),) for n in range(3))
        made = zip(product(algorithm.inputs, d), product(algorithm.filters, g), strict=True)
        y = product(algorithm.results, tuple((a * b,) for (a,), (b,) in made))
        assert [v for (v,) in y] == [int(k == i + q) for i in range(algorithm.outputs)]


@dataclass(frozen=True)
class Case:
    """``contraction`` of a packed operand, which goes through bias and relu along axis 1, and another one."""

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    packed: int
    contraction: Callable[[Any, Value, Value], Value]
    terms: int

    def kernel(self, dtype: str, algorithm: Algorithm | None) -> FuncOp:
        """A kernel whose result goes through another relu, with the shifted operand first."""
        x, other = self.shapes[self.packed], self.shapes[1 - self.packed]
        function = FuncOp("k", [TensorType(s, dtype) for s in (x, (x[1],), other)], ["x", "beta", "w"])
        b: Any = Builder(function.body)
        image, beta, weight = function.args
        made = b.relu(b.bias(image, beta, axis=1))
        y = self.contraction(b, *((made, weight) if self.packed == 0 else (weight, made)))
        if algorithm is not None:
            y.op.attributes[ALGORITHM] = algorithm.name
        function.body.append(
            Operation("func.return", [b.leaky_relu(y, negative_slope=0.5) if y.tensor.shape[2] != 3 else y])
        )
        return function


def conv(pad: tuple[int, int]) -> Callable[[Any, Value, Value], Value]:
    """Forward."""
    return lambda b, x, w: b.conv(x, w, pad=pad)


def input_grad(image: tuple[int, int], pad: tuple[int, int]) -> Callable[[Any, Value, Value], Value]:
    """Of the image."""
    return lambda b, dy, w: b.conv_input_grad(dy, w, image=image, pad=pad)


def weight_grad(pad: tuple[int, int]) -> Callable[[Any, Value, Value], Value]:
    """Of the weight."""
    return lambda b, dy, x: b.conv_weight_grad(dy, x, kernel=(3, 3), pad=pad)


CASES = [
    Case("conv", ((2, 3, 8, 8), (5, 3, 3, 3)), 0, conv((1, 1)), 27),
    Case("conv_odd", ((3, 2, 7, 5), (18, 2, 3, 3)), 0, conv((1, 1)), 18),
    Case("conv_no_pad", ((1, 3, 9, 7), (4, 3, 3, 3)), 0, conv((0, 0)), 27),
    Case("conv_one_image", ((1, 2, 40, 6), (17, 2, 3, 3)), 0, conv((1, 1)), 18),
    Case("conv_one_image_blocks", ((1, 17, 33, 21), (16, 17, 3, 3)), 0, conv((1, 1)), 153),
    Case("conv_other_pads", ((2, 2, 5, 6), (3, 2, 3, 3)), 0, conv((2, 0)), 18),
    Case("conv_blocks", ((2, 17, 33, 21), (16, 17, 3, 3)), 0, conv((1, 1)), 153),
    Case("input_grad", ((2, 3, 7, 6), (3, 17, 3, 3)), 0, input_grad((7, 6), (1, 1)), 27),
    Case("input_grad_one_image", ((1, 3, 7, 6), (3, 17, 3, 3)), 0, input_grad((7, 6), (1, 1)), 27),
    Case("input_grad_no_pad", ((2, 3, 5, 4), (3, 4, 3, 3)), 0, input_grad((7, 6), (0, 0)), 27),
    Case("weight_grad", ((3, 4, 7, 6), (3, 17, 7, 6)), 1, weight_grad((1, 1)), 126),
    Case("weight_grad_no_pad", ((2, 4, 6, 5), (2, 5, 8, 7)), 1, weight_grad((0, 0)), 60),
    Case("weight_grad_blocks", ((2, 17, 33, 20), (2, 16, 33, 20)), 1, weight_grad((1, 1)), 1320),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# Those of several blocks are too large for the interpreter of loops.
SMALL = [case for case in CASES if not case.name.endswith("blocks")]
EACH_SMALL = pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)


@BOTH
@EACH_SMALL
def test_loops_compute_what_the_reference_computes(case: Case, algorithm: Algorithm) -> None:
    """In float64, where nothing but a wrong index shows; results are added, gaps between rows stay untouched."""
    kernel = case.kernel("f64", algorithm)
    plan, launch = launch_of(kernel, gap=2)
    arrays = data(kernel)
    # Transforms add numbers some tens of times the results: eps of f64 leaves 1e-13 with room for that.
    assert_close(run(plan, launch, arrays, interpret), reference(kernel, arrays) + 1, case.terms, "f64")


@BOTH
@EACH
def test_native_code_computes_what_the_reference_computes(case: Case, algorithm: Algorithm, tmp_path: Any) -> None:
    def native(loops: Any, arena: np.ndarray) -> None:
        CpuTarget(Cache(tmp_path)).build_loops(loops).run({"arena": arena}, "step")

    kernel = case.kernel("f32", algorithm)
    plan, launch = launch_of(kernel, gap=3)
    (function,) = [f for f in lower_to_loops(plan).functions[1:] if f.declared is None]
    assert recognize(function) is not None, "products stay in registers"
    arrays = data(kernel)
    want = reference(kernel, [x.astype("f8") for x in arrays]).astype(arrays[0].dtype)
    assert_close(run(plan, launch, arrays, native), want + 1, case.terms, "f32")


@pytest.mark.parametrize("name", ["conv_blocks", "weight_grad_blocks"])
def test_errors_are_those_that_precision_promises(name: str, tmp_path: Any) -> None:
    """Against float64, root mean square, beside the error of the direct sum.

    F(2,3) measures 0.58 and 0.42 times it (forward, gradient of the weight), F(4,3) 1.27 and 0.68 times: sums in tiles
    have fewer terms.  The bounds are what `high` and `fast` promise.
    """

    def native(loops: Any, arena: np.ndarray) -> None:
        CpuTarget(Cache(tmp_path)).build_loops(loops).run({"arena": arena}, "step")

    (case,) = (case for case in CASES if case.name == name)
    errors = []
    for algorithm in (None, F2, F4):
        kernel = case.kernel("f32", algorithm)
        plan, launch = launch_of(kernel, gap=0)
        arrays = data(kernel)
        want = reference(kernel, [x.astype("f8") for x in arrays]) + 1
        got = run(plan, launch, arrays, native).astype("f8")
        errors.append(np.sqrt(np.mean((got - want) ** 2)))
    direct, small, large = errors
    assert small < direct
    assert large < (direct if case.packed else 3 * direct)


def test_threads_share_the_blocks_of_one_image() -> None:
    """Filters, packing, blocks of tiles and what stands behind are stretches, of which none is left to one thread."""
    (case,) = (case for case in CASES if case.name == "conv_one_image_blocks")
    plan, _ = launch_of(case.kernel("f32", F2), gap=3)
    (function,) = [f for f in lower_to_loops(plan).functions[1:] if f.declared is None]
    found = cutting_of(function)
    assert found is not None and [stretch.alone for stretch in found.cut.stretches] == [False] * 5


def test_scratch_holds_one_image_whatever_the_batch() -> None:
    sizes = []
    for images in (1, 2, 9):
        case = Case("conv", ((images, 16, 20, 20), (16, 16, 3, 3)), 0, conv((1, 1)), 144)
        sizes.append(scratch_bytes(case.kernel("f32", F2)))
    assert sizes == [sizes[0]] * 3


NET = """net small(n = 2, size = 9) {
    input image: f32[n, 16, size, size]
    input label: i32[n]
    x = image |> conv(32, kernel=3, pad=1) @a |> batch_norm |> relu
    x = x |> conv(32, kernel=3, pad=1) @b |> batch_norm |> relu
    y = x |> conv(32, kernel=3, stride=2, pad=1) @c
    logits = y |> global_avg_pool |> flatten |> linear(4)
    loss softmax_loss(logits, label)
    output logits
}
"""


def batch(net: Any) -> dict[str, np.ndarray]:
    """Data for the net."""
    rng = np.random.default_rng(0)
    shape = net.signature.inputs["image"].type.shape
    image = rng.normal(size=shape).astype("f8" if net.signature.inputs["image"].type.dtype == "f64" else "f4")
    return {"image": image, "label": rng.integers(0, 4, shape[0]).astype("i4")}


def trained(**options: Any) -> tuple[Any, float, dict[str, np.ndarray]]:
    """A net, its loss and its gradients, all from the same weights."""
    net = concatc.compile_source(NET, **options)
    rng = np.random.default_rng(1)
    net.init(seed=0)
    for name in net.params:
        x = net.params[name]
        x[...] = (rng.normal(size=x.shape) / np.sqrt(max(x[0].size, 1))).astype("f4")
    losses = net.train_step(batch(net))
    return net, float(losses["loss"]), {name: np.array(g) for name, g in net.grads.items()}


@pytest.mark.parametrize(("precision", "most"), [("exact", 1e-4), ("high", 1e-4), ("fast", 2e-3)])
def test_a_net_is_as_exact_as_precision_promises(precision: str, most: float) -> None:
    """Loss and the norms of gradients, against float64."""
    _, loss, grads = trained(precision=precision)
    _, want_loss, want = trained(dtype="f64", target="reference")
    assert abs(loss - want_loss) <= most * abs(want_loss)
    scale = max(np.linalg.norm(g) for g in want.values())
    for name, g in want.items():
        norm = np.linalg.norm(g)
        if norm > 1e-6 * scale:  # batch norm leaves the bias of a convolution without a gradient
            assert abs(np.linalg.norm(grads[name].astype("f8")) - norm) <= most * norm, name


def test_precision_says_which_algorithms_are_admitted() -> None:
    found = {}
    for precision in ("exact", "high", "fast"):
        text = concatc.compile_source(NET, dims={"size": 16}, precision=precision).ir("kernels")
        found[precision] = [text.count(f'algorithm = "{name}"') for name in ALGORITHMS]
    assert found["exact"] == [0, 0]
    # Two convolutions of stride 1: forward, both gradients of @b, the weight gradient of @a.
    assert sum(found["high"]) == sum(found["fast"]) == 5
    assert found["high"][0] >= 3
    assert found["fast"][1] > found["high"][1]


def test_f4_adds_up_few_channels_where_a_result_decides_signs() -> None:
    """128 channels at `fast`: F(2,3) forward, F(4,3) for both gradients, which decide none."""
    wide = NET.replace("conv(32", "conv(128")
    module = concatc.compile_source(wide, dims={"size": 16}, precision="fast")._source.phase("train").kernels
    chosen = [op for op in module.main.walk() if ALGORITHM in op.attributes]
    found = {(op.name, op.attributes[ALGORITHM]) for op in chosen if op.operands[1].shape[1] == 128}
    assert found == {("cnet.conv", F2.name), ("cnet.conv_input_grad", F4.name), ("cnet.conv_weight_grad", F4.name)}


def test_the_choice_does_not_depend_on_the_batch() -> None:
    texts = [concatc.compile_source(NET, dims={"n": n}, precision="fast").ir("kernels") for n in (1, 64)]
    assert len({text.count("winograd") for text in texts}) == 1


def test_another_batch_runs_on_the_same_code() -> None:
    net = concatc.compile_source(NET, precision="high")
    other = concatc.compile_source(NET, dims={"n": 5}, precision="high")
    net.init(seed=0)
    other.init(seed=0)
    data_ = batch(other)
    net.train_step(batch(net))
    assert net.train_step(data_) == other.train_step(data_)
    for name, g in other.grads.items():
        np.testing.assert_array_equal(net.grads[name], g)


def need(**options: Any) -> int:
    net = concatc.compile_source(NET, dims={"size": 16}, **options)
    return planned_bytes(net._source.phase("train").plan)


def test_a_budget_keeps_algorithms_where_they_fit() -> None:
    """Their scratch memory goes first where it does not fit; nothing is computed again for it."""
    most, least = need(), need(precision="exact")
    assert least < most
    assert need(max_memory=most) == most
    tight = concatc.compile_source(NET, dims={"size": 16}, max_memory=most - 1)
    text = tight.ir("kernels")
    assert "winograd" not in text
    noted = f"limit_bytes = {most - 1}, default_bytes = {most}, need_bytes = {least}}}"
    assert noted in " ".join(text.split())
    assert "; convolutions as written" in str(tight.memory)
    exact = concatc.compile_source(NET, dims={"size": 16}, precision="exact")
    assert tight.ir("loops").startswith(exact.ir("loops").rstrip("}\n"))
    with pytest.raises(UsageError, match=r"needs .* at least; the budget is"):
        need(max_memory="1KiB")


def test_a_written_module_runs_the_same_algorithms(tmp_path: Any) -> None:
    options = Options(dims={"size": 16}, precision="fast")
    write_module(compile_net(NET, "small.cnet", options), tmp_path / "small")
    made, other = concatc.compile_source(NET, dims={"size": 16}, precision="fast"), concatc.load(tmp_path / "small")
    exact = concatc.compile_source(NET, dims={"size": 16}, precision="exact")
    nets = made, other, exact
    for n in (2, 3):
        losses = []
        for net in nets:
            net.init(seed=0)
            at = net.with_dims(n=n)
            losses.append(at.train_step(batch(at)))
        assert losses[0] == losses[1]
        grads = [{name: np.array(g) for name, g in net.grads.items()} for net in nets]
        for name, g in grads[0].items():
            np.testing.assert_array_equal(grads[1][name], g)
        assert any(not np.array_equal(grads[2][name], g) for name, g in grads[0].items())


def test_an_edited_dump_chooses_the_algorithm(tmp_path: Any) -> None:
    net = concatc.compile_source(NET, precision="exact")
    text = net.ir("kernels")
    at = text.index('cnet.conv"(')
    head = text.index("{", text.index(")", at))
    edited = text[: head + 1] + 'algorithm = "winograd f(4,3)", ' + text[head + 1 :]
    path = tmp_path / "dump.mlir"
    path.write_text(edited)
    dump = concatc.compile(path)
    dump.init(seed=0)
    net.init(seed=0)
    got, want = dump.forward(batch(net))["logits"], net.forward(batch(net))["logits"]
    assert not np.array_equal(got, want)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
    path.write_text(edited.replace("f(4,3)", "f(4,4)"))
    with pytest.raises(ConcatcError, match=r"no algorithm `winograd f\(4,4\)`"):
        concatc.compile(path).forward(batch(net))
    with pytest.raises(UsageError, match="--precision"):
        concatc.compile(path, precision="fast")


def test_what_is_no_such_convolution_is_refused() -> None:
    case = Case("stride", ((1, 2, 7, 7), (3, 2, 3, 3)), 0, lambda b, x, w: b.conv(x, w, stride=(2, 2)), 18)
    with pytest.raises(ConcatcError, match=r"cannot run by `winograd f\(2,3\)`"):
        scratch_bytes(case.kernel("f32", F2))


def test_the_pass_is_idempotent_and_changes_attributes_only() -> None:
    text = concatc.compile_source(NET, dims={"size": 16}, precision="exact").ir("kernels")
    module = load_dump(text, "dump.mlir")
    count = len(list(module.main.walk()))
    for _ in range(2):
        ChooseAlgorithms("high").run(module)
        chosen = [op for op in module.main.walk() if ALGORITHM in op.attributes]
        assert len(chosen) == 5
    for op in chosen:
        del op.attributes[ALGORITHM]
    assert len(list(module.main.walk())) == count


def test_an_unknown_precision_is_an_error() -> None:
    with pytest.raises(UsageError, match="no precision `hihg`"):
        concatc.compile_source(NET, precision="hihg")  # type: ignore[arg-type]
