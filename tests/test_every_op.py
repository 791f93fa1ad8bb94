"""What holds for every op, tested on every op's samples.  A new op is tested by being there."""

from __future__ import annotations

import math
import typing
from collections.abc import Sequence

import numpy as np
import pytest

from concatc.ir.core import Block, FuncOp, Module, Operation, Value
from concatc.ir.parser import parse_module
from concatc.ir.printer import PLAIN, print_module
from concatc.ir.types import NUMPY_DTYPES, TensorType
from concatc.loops.evaluate import evaluate, evaluate_counted
from concatc.loops.expr import Ref
from concatc.loops.pieces import Piece
from concatc.op import REGISTRY, Builder, Composite, Op, Sample, ShapeError, axis_maps, load_all_ops, op_of
from concatc.ops._pointwise import Pointwise

OPS = load_all_ops()
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CASES = [sample for cls in OPS.values() for sample in cls.samples()]
IDS = [f"{cls.name}-{k}" for cls in OPS.values() for k, _ in enumerate(cls.samples())]
every_sample = pytest.mark.parametrize("sample", CASES, ids=IDS)
every_op = pytest.mark.parametrize("cls", OPS.values(), ids=OPS)


def typed(types: Sequence[TensorType], dtype: str) -> list[TensorType]:
    """The types, with ``dtype`` in place of f32."""
    return [TensorType(t.shape, dtype) if t.dtype == "f32" else t for t in types]


def data_of(sample: Sample, dtype: str, seed: int = 0) -> list[np.ndarray]:
    """A sample's operands, floats as ``dtype``."""
    arrays = sample.operands(np.random.default_rng(seed))
    pairs = zip(arrays, typed(sample.types, dtype), strict=True)
    return [np.asarray(a, NUMPY_DTYPES[t.dtype]) for a, t in pairs]


def pieces_of(op: Op, types: Sequence[TensorType]) -> tuple[list[Piece], list[TensorType]]:
    """An op's pieces and the types of its results."""
    results = op.infer(types)
    refs = [[Ref(kind, k, t) for k, t in enumerate(ts)] for kind, ts in (("operand", types), ("result", results))]
    return list(op.lower(*refs)), results


def assert_close(got: np.ndarray, want: np.ndarray, terms: int, dtype: str) -> None:
    """|got - want| <= eps max|want| sqrt(terms), eps = 1e-5 for f32 and 1e-13 for f64; NaN and inf where they were."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    finite = np.isfinite(want)
    scale = np.max(np.abs(want[finite]), initial=0.0)
    eps = 1e-5 if dtype == "f32" else 1e-13
    np.testing.assert_allclose(got, want, rtol=0, atol=eps * scale * math.sqrt(terms) + 1e-300)


SUMS = [s for s in CASES if s.op.row_factor(s.types) is not None and s.types[0].shape[0] > 1]


@pytest.mark.parametrize("sample", SUMS, ids=[s.op.name for s in SUMS])
def test_a_sum_over_rows_is_the_sum_of_its_parts(sample: Sample) -> None:
    """``op(rows) / row_factor = op(part) / row_factor of the part + ..``, in float64."""
    whole = data_of(sample, "f64")
    cuts = [[x[:1] for x in whole], [x[1:] for x in whole]]

    def unscaled(arrays: list[np.ndarray]) -> float:
        types = [t.with_shape(x.shape) for t, x in zip(sample.types, arrays, strict=True)]
        factor = sample.op.row_factor(types)
        assert factor is not None
        return float(sample.op.reference(*arrays)[0]) / factor

    expected = sum(map(unscaled, cuts))
    assert abs(unscaled(whole) - expected) <= 1e-12 * max(1.0, abs(expected))


# -- the contract --------------------------------------------------------------------------------------------------


@every_op
def test_op_has_a_page_and_samples(cls: type[Op]) -> None:
    assert cls.__doc__ and not cls.__doc__.startswith(cls.__name__ + "("), f"{cls.name} has no docstring"
    if not issubclass(cls, Composite):
        assert any(True for _ in cls.samples()), f"{cls.name} has no samples"


def test_ops_without_their_rules_are_no_ops() -> None:
    """What is missing is found where the class is defined, not where a net calls it."""
    with pytest.raises(TypeError, match="op half_made lacks infer, lower, reference, samples, vjp: each op has rules"):
        type("HalfMade", (Op,), {})
    with pytest.raises(TypeError, match="op not_pointwise lacks scalar, vjp"):
        type("NotPointwise", (Pointwise,), {"reference": OPS["relu"].reference, "samples": OPS["relu"].samples})
    with pytest.raises(TypeError, match="op not_made lacks build"):
        type("NotMade", (Composite,), {})
    with pytest.raises(TypeError, match="op half_grad lacks infer, lower, reference, samples:"):
        type("HalfGrad", (Op,), {"internal": True})
    assert not {"half_made", "not_pointwise", "not_made", "half_grad"} & set(REGISTRY)


@every_op
def test_size_attribute_is_in_the_signature(cls: type[Op]) -> None:
    if not cls.internal:
        signature = cls.signature()
        assert signature.size is None or signature.size in signature.attributes


# -- shapes and values ---------------------------------------------------------------------------------------------


@every_sample
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_infer_agrees_with_reference(sample: Sample, dtype: str) -> None:
    results = sample.op.infer(typed(sample.types, dtype))
    arrays = sample.op.reference(*data_of(sample, dtype))
    assert [a.shape for a in arrays] == [t.shape for t in results]
    assert [a.dtype for a in arrays] == [NUMPY_DTYPES[t.dtype] for t in results]


@every_sample
def test_sample_data_has_the_shapes_it_says(sample: Sample) -> None:
    assert [a.shape for a in sample.operands(np.random.default_rng(0))] == [t.shape for t in sample.types]


@every_sample
def test_reference_leaves_its_operands_alone(sample: Sample) -> None:
    xs = data_of(sample, "f64")
    before = [x.copy() for x in xs]
    sample.op.reference(*xs)
    for x, old in zip(xs, before, strict=True):
        np.testing.assert_array_equal(x, old)


@every_sample
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_pieces_agree_with_reference(sample: Sample, dtype: str) -> None:
    pieces, results = pieces_of(sample.op, typed(sample.types, dtype))
    xs = data_of(sample, dtype)
    terms = max([1, *(math.prod(a.extent for a in (*p.reduce, *p.sequential)) for p in pieces)])
    for got, want in zip(evaluate(pieces, xs, results), sample.op.reference(*xs), strict=True):
        assert_close(got, want, terms, dtype)


@every_sample
def test_pieces_write_every_element_once(sample: Sample) -> None:
    pieces, results = pieces_of(sample.op, sample.types)
    for writes in evaluate_counted(pieces, data_of(sample, "f32"), results).writes:
        np.testing.assert_array_equal(writes, 1)


@every_sample
def test_pieces_are_well_formed(sample: Sample) -> None:
    pieces, _ = pieces_of(sample.op, sample.types)
    for piece in pieces:
        assert len({a.name for a in piece.axes}) == len(piece.axes), "two axes of one name"
        assert len(piece.at) == len(piece.target.shape)
        assert (piece.index is not None) == (piece.combine == "argmax")
        assert piece.target.dtype == (piece.value if piece.index is None else piece.index).dtype
        assert piece.combine != "store" or not piece.reduce


# -- gradients -----------------------------------------------------------------------------------------------------

DIFFERENTIABLE = [(s, i) for s, i in zip(CASES, IDS, strict=True) if type(s.op).vjp is not Op.vjp]
every_differentiable = pytest.mark.parametrize(
    "sample", [s for s, _ in DIFFERENTIABLE], ids=[i for _, i in DIFFERENTIABLE]
)


def flags(sample: Sample) -> list[bool]:
    """Which operands are differentiated."""
    return list(sample.differentiable or [t.is_float for t in sample.types])


class Net:
    """One op in a block, with cotangents for some of its results, and its vjp."""

    def __init__(self, sample: Sample, needs: Sequence[bool], absent: Sequence[int] = ()) -> None:
        self.types = typed(sample.types, "f64")
        self.block = Block(self.types)
        self.xs = list(self.block.args)
        builder = Builder(self.block)
        self.ys = builder.emit(sample.op, self.xs)
        self.dys: list[Value | None] = [
            self.block.add_arg(y.type, f"dy{k}") if y.tensor.is_float and k not in absent else None
            for k, y in enumerate(self.ys)
        ]
        self.dxs = sample.op.vjp(builder, self.xs, self.ys, self.dys, needs)

    def run(self, xs: Sequence[np.ndarray], dys: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """The cotangents of the operands."""
        known: dict[Value, np.ndarray] = dict(zip(self.xs, xs, strict=True))
        known |= {v: a for v, a in zip(self.dys, dys, strict=True) if v is not None}
        for operation in self.block.ops:
            results = op_of(operation).reference(*(known[v] for v in operation.operands))
            known |= zip(operation.results, results, strict=True)
        return [None if dx is None else known[dx] for dx in self.dxs]


def check_gradients(sample: Sample, absent: Sequence[int] = ()) -> None:
    """Compare a vjp with central differences in float64, along three random directions for each operand."""
    needs = flags(sample)
    net = Net(sample, needs, absent)
    if all(dy is None for dy in net.dys):
        return
    rng = np.random.default_rng(7)
    xs = data_of(sample, "f64")
    seeds = [rng.normal(size=y.shape) * (dy is not None) for y, dy in zip(net.ys, net.dys, strict=True)]
    grads = net.run(xs, seeds)
    assert len(grads) == len(xs)

    def value(k: int, x: np.ndarray) -> float:
        ys = sample.op.reference(*xs[:k], x, *xs[k + 1 :])
        return sum(float(np.sum(s * y)) for s, y, dy in zip(seeds, ys, net.dys, strict=True) if dy is not None)

    eps = 1e-5
    for k, (x, dx, need) in enumerate(zip(xs, grads, needs, strict=True)):
        if not need:
            assert dx is None, f"operand {k} needs no cotangent and has one"
            continue
        assert dx is not None, f"operand {k} has no cotangent"
        assert dx.shape == x.shape
        assert dx.dtype == x.dtype
        for _ in range(3):
            direction = rng.normal(size=x.shape)
            difference = (value(k, x + eps * direction) - value(k, x - eps * direction)) / (2 * eps)
            derivative = float(np.sum(dx * direction))
            scale = float(np.sum(np.abs(dx * direction)))
            assert abs(derivative - difference) <= 1e-6 * max(scale, 1e-3), (k, derivative, difference)


@every_differentiable
def test_vjp_agrees_with_finite_differences(sample: Sample) -> None:
    check_gradients(sample)


@every_differentiable
def test_vjp_takes_absent_cotangents(sample: Sample) -> None:
    results = sample.op.infer(sample.types)
    for k in range(len(results)):
        if len(results) > 1:
            check_gradients(sample, absent=[k])


@every_differentiable
def test_vjp_skips_what_needs_no_cotangent(sample: Sample) -> None:
    full = Net(sample, flags(sample))
    for k, flag in enumerate(flags(sample)):
        if not flag or all(dy is None for dy in full.dys):
            continue
        only = [d == k for d in range(len(sample.types))]
        net = Net(sample, only)
        assert [dx is not None for dx in net.dxs] == only
        used = {v for operation in net.block.ops for v in operation.operands} | {dx for dx in net.dxs if dx}
        dead = [r for operation in net.block.ops[1:] for r in operation.results if r not in used]
        assert not dead or any(len(operation.results) > 1 for operation in net.block.ops[1:]), f"made in vain: {dead}"


# -- attributes ----------------------------------------------------------------------------------------------------


@every_sample
def test_attributes_round_trip(sample: Sample) -> None:
    again = type(sample.op).from_attrs({**sample.op.attrs(), "transposes": "relu %h"})
    assert again == sample.op
    assert again.attrs() == sample.op.attrs()


@every_sample
def test_text_round_trips(sample: Sample) -> None:
    function = FuncOp("f", sample.types)
    results = Builder(function.body).emit(sample.op, function.args)
    function.body.append(Operation("func.return", results))
    text = print_module(Module("m", [function]), PLAIN)
    again = parse_module(text)
    assert print_module(again, PLAIN) == text
    assert op_of(again.main.ops[0]) == sample.op


@every_sample
def test_invalid_attributes_are_rejected(sample: Sample) -> None:
    cls = type(sample.op)
    for name, attribute in cls.attribute_fields().items():
        wrong: object = 1.5 if _takes_text(attribute.type) else "nonsense"
        with pytest.raises(ShapeError, match=f"`{name}` must be"):
            cls.from_attrs({**sample.op.attrs(), name: wrong})  # type: ignore[dict-item]
        if attribute.required:
            with pytest.raises(ShapeError, match=f"needs the attribute `{name}`"):
                cls.from_attrs({k: v for k, v in sample.op.attrs().items() if k != name})


def _takes_text(type_: object) -> bool:
    return type_ is str or typing.get_origin(type_) is typing.Literal


# -- axes that an op maps independently ----------------------------------------------------------------------------


@every_sample
def test_op_of_concat_is_concat_of_op(sample: Sample) -> None:
    types = typed(sample.types, "f64")
    first, second = data_of(sample, "f64", seed=1), data_of(sample, "f64", seed=2)
    for axes in axis_maps(sample.op, tuple(types)):
        mixed = [b if d is not None else a for a, b, d in zip(first, second, axes.operands, strict=True)]
        joined = [
            a if d is None else np.concatenate([a, b], d) for a, b, d in zip(first, second, axes.operands, strict=True)
        ]
        parts = zip(sample.op.reference(*first), sample.op.reference(*mixed), axes.results, strict=True)
        wanted = [np.concatenate([a, b], d) for a, b, d in parts]
        for got, want in zip(sample.op.reference(*joined), wanted, strict=True):
            assert_close(got, want, 64, "f64")
