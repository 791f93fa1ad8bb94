"""Level 06: plans lowered to loops, run by the loop interpreter; what the loops look like; other tools read them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.ir.parser import parse_module
from concatc.ir.printer import MACHINE, PLAIN, print_module
from concatc.ir.types import FLOATS, MemRefType, TensorType
from concatc.loops.memory import view
from concatc.loops.plan import Launch, Plan, Window
from concatc.op import Builder, Sample, load_all_ops
from concatc.passes.lower_to_loops import lower_to_loops, scratch_bytes
from concatc.passes.verify import verify
from concatc.targets.reference.loop_interpreter import run_loops
from tests.kernel_plans import CANARY, Bump, fresh_arena, op_kernel, plan_of, untouched
from tests.test_every_op import CASES, IDS, assert_close, data_of, pieces_of

load_all_ops()
STANDARD = ("func.", "arith.", "math.", "scf.", "memref.", "builtin.module")
T = TensorType


def kernel(name: str, types: Sequence[TensorType], body: Callable[..., Any]) -> FuncOp:
    """A kernel from a function that builds ops."""
    function = FuncOp(name, types, [f"x{k}" for k in range(len(types))])
    made = body(Builder(function.body), *function.args)
    function.body.append(Operation("func.return", made if isinstance(made, list | tuple) else [made]))
    return function


def dense_plan(*kernels: FuncOp, gap: int = 0, add: bool = False) -> Plan:
    """One launch a kernel."""
    bump, launches = Bump(), []
    for k in kernels:
        reads = [bump.window(a.tensor, gap) for a in k.args]
        writes = [bump.window(v.tensor, gap) for v in k.ret.operands]
        adds = tuple(add and v.dtype in FLOATS for v in k.ret.operands)
        launches.append(Launch(k.sym_name, tuple(reads), tuple(writes), adds))
    return plan_of(launches, kernels, bump.used)


def loops_of(*kernels: FuncOp) -> str:
    """The text of the kernels' loops, without ``@step``."""
    module = lower_to_loops(dense_plan(*kernels))
    text = print_module(module, PLAIN)
    return text[text.index("func.func private") :]


def run(plan: Plan, inputs: Sequence[Sequence[np.ndarray]], old: float = 0.0) -> list[list[np.ndarray]]:
    """Run all launches in the loop interpreter; returns the results of each."""
    arena = fresh_arena(plan)
    for launch, arrays in zip(plan.launches, inputs, strict=True):
        for window, x in zip(launch.reads, arrays, strict=True):
            view(arena, window)[...] = x
        for window, add in zip(launch.writes, launch.add, strict=True):
            if add:
                view(arena, window)[...] = old
    run_loops(lower_to_loops(plan), {"arena": arena})
    np.testing.assert_array_equal(untouched(arena, plan), CANARY)
    return [[view(arena, w).copy() for w in launch.writes] for launch in plan.launches]


# -- every op --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", CASES, ids=IDS)
def test_loops_of_every_op_are_equal_to_the_reference(sample: Sample) -> None:
    pieces, _ = pieces_of(sample.op, sample.types)
    terms = max([1, *(math.prod(a.extent for a in (*p.reduce, *p.sequential)) for p in pieces)])
    xs = data_of(sample, "f32")
    plan = dense_plan(op_kernel("k", sample.op, sample.types), gap=2, add=True)
    (got,) = run(plan, [xs], old=1.0)
    for y, want in zip(got, sample.op.reference(*xs), strict=True):
        assert_close(y, np.asarray(want + want.dtype.type(1) if want.dtype.kind == "f" else want), terms, "f32")


def all_ops_module() -> Module:
    """Every sample's kernel in one module."""
    kernels = [op_kernel("k_" + name.replace("-", "_"), s.op, s.types) for name, s in zip(IDS, CASES, strict=True)]
    return lower_to_loops(dense_plan(*kernels, gap=1))


def test_loops_hold_standard_dialects_only() -> None:
    module = all_ops_module()
    verify(module)
    assert {op.name for op in module.walk() if not op.name.startswith(STANDARD)} == set()


def test_text_of_loops_is_a_fixed_point() -> None:
    text = print_module(all_ops_module(), MACHINE)
    assert print_module(parse_module(text), MACHINE) == text


@pytest.mark.peers
def test_xdsl_reads_the_loops_of_every_op() -> None:
    pytest.importorskip("xdsl", reason="xDSL is not installed")
    from xdsl.context import Context
    from xdsl.dialects import get_all_dialects
    from xdsl.parser import Parser

    context = Context(allow_unregistered=True)
    for name, factory in get_all_dialects().items():
        context.register_dialect(name, factory)
    module = Parser(context, print_module(all_ops_module(), PLAIN)).parse_module()
    module.verify()


@pytest.mark.peers
def test_mlir_reads_the_loops_of_every_op() -> None:
    mlir = pytest.importorskip("jaxlib.mlir.ir", reason="jaxlib is not installed (the extra `peers`)")
    from jaxlib.mlir._mlir_libs import _jax_mlir_ext as extension
    from jaxlib.mlir.dialects import arith, func, memref, scf  # noqa: F401  (importing registers them)

    with mlir.Context() as context:
        registry = mlir.DialectRegistry()
        extension.register_dialects(registry)
        context.append_dialect_registry(registry)
        context.load_all_available_dialects()
        context.allow_unregistered_dialects = True
        assert mlir.Module.parse(print_module(all_ops_module(), PLAIN)).operation.verify()


# -- composition -----------------------------------------------------------------------------------------------------


def test_epilogue_is_in_the_nest_of_the_contraction() -> None:
    x, w, c = T((4, 6)), T((3, 6)), T((3,))
    text = loops_of(kernel("k", [x, w, c], lambda b, x, w, c: b.relu(b.bias(b.linear(x, w), c, axis=1))))
    assert len(re.findall("scf.for", text)) == 3
    assert len(re.findall("memref.store", text)) == 1
    assert text.index("scf.yield") < text.index("arith.maximumf") < text.index("memref.store")


def test_prologue_stands_inside_the_guard() -> None:
    """bn(beta != 0) -> relu -> conv(pad=1): the halo is 0, not relu(beta)."""
    types = [T((2, 3, 4, 4)), T((3,)), T((2, 3, 3, 3))]
    made = kernel("k", types, lambda b, x, beta, w: b.conv(b.relu(b.bias(x, beta, axis=1)), w, pad=(1, 1)))
    text = loops_of(made)
    guarded = text[text.index("scf.if") : text.index("} else {")]
    assert "arith.maximumf" in guarded and "memref.load" in guarded
    rng = np.random.default_rng(0)
    x, beta, w = (rng.normal(size=t.shape).astype(np.float32) for t in types)
    beta = np.abs(beta) + 1
    (got,) = run(dense_plan(made), [[x, beta, w]])
    padded = np.pad(np.maximum(x + beta[:, None, None], 0), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    np.testing.assert_allclose(got[0], np.einsum("ncijab,ocab->noij", windows, w), rtol=1e-4, atol=1e-4)


def test_a_value_that_is_returned_and_read_is_not_read_back() -> None:
    """y is added into memory that holds something; z = relu(y) must not see it."""
    made = kernel("k", [T((3, 4))], lambda b, x: (y := b.mul_scalar(x, value=2.0), b.relu(y)))
    x = np.arange(12, dtype=np.float32).reshape(3, 4) - 6
    (got,) = run(dense_plan(made, add=True), [[x]], old=100.0)
    np.testing.assert_array_equal(got[0], 2 * x + 100)
    np.testing.assert_array_equal(got[1], np.maximum(2 * x, 0) + 100)


def test_a_reduction_that_is_returned_and_read() -> None:
    made = kernel("k", [T((3, 4))], lambda b, x: (s := b.sum(x, axes=(1,)), b.relu(s)))
    x = np.arange(12, dtype=np.float32).reshape(3, 4) - 6
    (got,) = run(dense_plan(made, add=True), [[x]], old=1.0)
    np.testing.assert_array_equal(got[0], x.sum(1) + 1)
    np.testing.assert_array_equal(got[1], np.maximum(x.sum(1), 0) + 1)


def test_returned_arguments_are_copied() -> None:
    made = kernel("k", [T((3, 4))], lambda b, x: (x, x))
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    (got,) = run(dense_plan(made), [[x]])
    np.testing.assert_array_equal(got[0], x)
    np.testing.assert_array_equal(got[1], x)


def test_stages_of_softmax_share_the_loop_over_rows_and_need_no_memory() -> None:
    made = kernel("k", [T((4, 6))], lambda b, x: b.softmax(x, axis=1))
    assert scratch_bytes(made) == 0
    assert loops_of(made).count("%begin to %end") == 1


def test_stages_over_an_inner_axis_live_in_scratch_without_the_shared_axis() -> None:
    made = kernel("k", [T((5, 3, 7))], lambda b, x: b.softmax(x, axis=1))
    assert scratch_bytes(made) == 2 * 64, "two rows of 7 floats, not 5 of them"
    text = loops_of(made)
    assert text.count("cnet.scratch") == 2


def test_a_kernel_may_overwrite_what_it_reads() -> None:
    made = kernel("k", [T((6,)), T((6,))], lambda b, x, y: (b.add(x, y), b.mul(x, y)))
    window, other, out = (Window("arena", 64 * k, (6,), (1,), "f32") for k in (1, 2, 3))
    plan = plan_of([Launch("k", (window, other), (window, out), (False, False))], [made], 64 * 5)
    arena = fresh_arena(plan)
    x, y = np.arange(6, dtype=np.float32), np.arange(6, dtype=np.float32) + 10
    view(arena, window)[...], view(arena, other)[...] = x, y
    run_loops(lower_to_loops(plan), {"arena": arena})
    np.testing.assert_array_equal(view(arena, window), x + y)
    np.testing.assert_array_equal(view(arena, out), x * y)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_what_is_overwritten_is_read_before(order: tuple[int, ...]) -> None:
    """One result lies over x; another reads x too, with a sum of other shape before, between or behind them."""

    def body(b: Builder, x: Value, z: Value) -> list[Value]:
        makers = [lambda: b.mul_scalar(x, value=2.0), lambda: b.sum(z, axes=(0,)), lambda: b.add_scalar(x, value=1.0)]
        made = {k: makers[k]() for k in order}
        return [made[k] for k in range(3)]

    made = kernel("k", [T((3, 4)), T((5, 6))], body)
    bump = Bump()
    x, z = bump.window(T((3, 4)), 1), bump.window(T((5, 6)))
    launch = Launch("k", (x, z), (x, bump.window(T((6,))), bump.window(T((3, 4)), 2)), (False,) * 3)
    plan = plan_of([launch], [made], bump.used)
    arena = fresh_arena(plan)
    rng = np.random.default_rng(0)
    for window in launch.reads:
        view(arena, window)[...] = rng.normal(size=window.shape)
    before, other = (view(arena, w).copy() for w in launch.reads)
    run_loops(lower_to_loops(plan), {"arena": arena})
    for window, want in zip(launch.writes, (2 * before, other.sum(0), before + 1), strict=True):
        np.testing.assert_allclose(view(arena, window), want, rtol=1e-6)


def test_an_overwrite_that_cannot_wait_is_refused() -> None:
    made = kernel("k", [T((4, 4))], lambda b, x: (b.mul_scalar(x, value=2.0), b.sum(x, axes=(0,))))
    window = Window("arena", 64, (4, 4), (4, 1), "f32")
    plan = plan_of([Launch("k", (window,), (window, Window("arena", 192, (4,), (1,))), (False, False))], [made], 256)
    module = lower_to_loops(plan)
    arena = fresh_arena(plan)
    view(arena, window)[...] = np.arange(16).reshape(4, 4)
    run_loops(module, {"arena": arena})
    np.testing.assert_array_equal(view(arena, plan.launches[0].writes[1]), np.arange(16).reshape(4, 4).sum(0))
    transposed = kernel("k", [T((4, 4))], lambda b, x: b.transpose(x, perm=(1, 0)))
    with pytest.raises(AssertionError, match="is overwritten by"):
        lower_to_loops(plan_of([Launch("k", (window,), (window,), (False,))], [transposed], 256))


# -- kernels that are equal, and their arguments -----------------------------------------------------------------------


def relu_kernel(name: str, *shape: int) -> FuncOp:
    return kernel(name, [T(shape)], lambda b, x: b.relu(x))


def test_kernels_of_equal_structure_are_one_function() -> None:
    module = lower_to_loops(
        dense_plan(relu_kernel("a", 3, 4), relu_kernel("b", 5, 7), relu_kernel("c", 2, 3, 4), gap=1)
    )
    assert [f.sym_name for f in module.functions] == ["step", "a", "c"]
    calls = [op for op in module.main.ops if op.name == "func.call"]
    assert [op.attributes.get("cnet.kernel") for op in calls] == [None, "b", None]


def test_dense_pointwise_kernels_of_any_shape_are_one_function() -> None:
    module = lower_to_loops(dense_plan(relu_kernel("a", 3, 4), relu_kernel("b", 7), relu_kernel("c", 2, 3, 4)))
    assert [f.sym_name for f in module.functions] == ["step", "a"]
    assert print_module(module, PLAIN).count("scf.for") == 1


def test_axes_merge_where_all_windows_lie_as_one() -> None:
    """Channels 2..5 of a buffer with 8: the pixels of an image are one row, the channels are not."""
    made = kernel("k", [T((2, 3, 4, 5)), T((3,))], lambda b, x, c: b.relu(b.bias(x, c, axis=1)))
    bump = Bump()
    wide = bump.window(T((2, 8, 4, 5)))
    launch = Launch(
        "k", (wide.sub((0, 2, 0, 0), (2, 3, 4, 5)), bump.window(T((3,)))), (bump.window(T((2, 3, 4, 5))),), (False,)
    )
    plan = plan_of([launch], [made], bump.used)
    function = lower_to_loops(plan).functions[1]
    assert [a.type.rank for a in function.args if isinstance(a.type, MemRefType)] == [3, 1, 3]
    arena = fresh_arena(plan)
    rng = np.random.default_rng(0)
    for window in launch.reads:
        view(arena, window)[...] = rng.normal(size=window.shape)
    run_loops(lower_to_loops(plan), {"arena": arena})
    x, c = (view(arena, w) for w in launch.reads)
    np.testing.assert_array_equal(view(arena, launch.writes[0]), np.maximum(x + c[:, None, None], 0))


@pytest.mark.parametrize(
    ("body", "wanted", "ranks"),
    [
        (lambda b, x: b.sum(x, axes=(2, 3)), lambda x: x.sum((2, 3)), [2, 1]),
        (lambda b, x: b.transpose(b.sum(x, axes=(2, 3)), perm=(1, 0)), lambda x: x.sum((2, 3)).T, [3, 2, 2]),
        (lambda b, x: b.transpose(x, perm=(2, 3, 0, 1)), lambda x: x.transpose(2, 3, 0, 1), [2, 2]),
        (lambda b, x: b.sum(x, axes=(1, 2)), lambda x: x.sum((1, 2)), [3, 2]),
        (lambda b, x: b.reshape(x, shape=(6, 20)), lambda x: x.reshape(6, 20), [2, 2]),
    ],
    ids=["reduce", "reduce-transpose", "transpose", "reduce-inner", "reshape"],
)
def test_axes_merge_where_every_statement_runs_over_both(
    body: Callable[..., Any], wanted: Callable[[np.ndarray], np.ndarray], ranks: list[int]
) -> None:
    made = kernel("k", [T((2, 3, 4, 5))], body)
    function = lower_to_loops(dense_plan(made)).functions[1]
    assert [a.type.rank for a in function.args if isinstance(a.type, MemRefType)] == ranks
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    (got,) = run(dense_plan(made), [[x]])
    np.testing.assert_allclose(got[0], wanted(x), rtol=1e-5)


def test_the_number_of_an_element_merges_and_stays_the_same() -> None:
    made = kernel("k", [T((3, 4, 5)), T((2,), "i32")], lambda b, x, r: b.dropout(x, r, p=0.5, key=7))
    x, random = np.ones((3, 4, 5), np.float32), np.array([17, -3], np.int32)
    dense, gaps = dense_plan(made), dense_plan(made, gap=1)
    ranks = [
        [a.type.rank for a in lower_to_loops(p).functions[1].args if isinstance(a.type, MemRefType)]
        for p in (dense, gaps)
    ]
    assert ranks == [[1, 1, 1], [3, 1, 3]]
    np.testing.assert_array_equal(run(dense, [[x, random]])[0][0], run(gaps, [[x, random]])[0][0])


def test_another_batch_size_gives_the_same_kernels() -> None:
    def kernels(n: int) -> str:
        x, w, c = T((n, 16)), T((8, 16)), T((8,))
        first = kernel("k0", [x, w, c], lambda b, x, w, c: b.relu(b.bias(b.linear(x, w), c, axis=1)))
        second = kernel("k1", [T((n, 8)), x], lambda b, dy, x: b.linear_weight_grad(dy, x))
        third = kernel("k2", [T((n, 3, 6, 6)), T((8, 3, 3, 3))], lambda b, x, w: b.conv(x, w, pad=(1, 1)))
        return loops_of(first, second, third)

    assert kernels(4) == kernels(96) == kernels(1)


def test_strides_of_one_are_part_of_the_type() -> None:
    made = relu_kernel("k", 3, 4)
    types = []
    for order in (None, (1, 0)):
        bump = Bump()
        windows = [bump.window(T((3, 4)), 2, order) for _ in range(2)]
        plan = plan_of([Launch("k", (windows[0],), (windows[1],), (False,))], [made], bump.used)
        memrefs = [a.type for a in lower_to_loops(plan).functions[1].args if isinstance(a.type, MemRefType)]
        types.append([m.strides for m in memrefs])
    assert types == [[(None, 1)] * 2, [(1, None)] * 2]


def test_a_kernel_launched_with_two_layouts_is_two_functions() -> None:
    made = relu_kernel("k", 3, 4)
    bump = Bump()
    rows = [bump.window(T((3, 4)), 2) for _ in range(2)]
    columns = [bump.window(T((3, 4)), 2, (1, 0)) for _ in range(2)]
    launches = [Launch("k", (w[0],), (w[1],), (False,)) for w in (rows, columns, rows)]
    module = lower_to_loops(plan_of(launches, [made], bump.used))
    assert [f.sym_name for f in module.functions] == ["step", "k", "k.2"]


def test_results_say_what_else_lies_where_they_are_stored() -> None:
    made = relu_kernel("k", 3, 4)
    bump = Bump()
    x, y = bump.window(T((3, 4))), bump.window(T((3, 4)))

    def marks(*windows: Window) -> list[dict[str, object]]:
        plan = plan_of([Launch("k", (windows[0],), (windows[1],), (False,))], [made], bump.used)
        function = lower_to_loops(plan).functions[1]
        memory = [a for a in function.args if isinstance(a.type, MemRefType)]
        assert memory[0].index == 2  # behind %begin and %end: all 12 elements are one axis
        return [dict(a.attrs) for a in memory]

    assert marks(x, y) == [{}, {"cnet.noalias": True}]
    assert marks(x, x) == [{}, {"cnet.same": 2}]


def test_chunks_cut_the_outermost_loop() -> None:
    made = relu_kernel("k", 6, 4)
    plan = dense_plan(made, gap=1)
    module = lower_to_loops(plan)
    (call,) = [op for op in module.main.ops if op.name == "func.call"]
    begin, end = (v.op for v in call.operands[:2])
    assert begin is not None and end is not None
    assert (begin.attributes["value"], end.attributes["value"]) == (0, 6)
    _set_bounds(call, 2, 5)
    arena = fresh_arena(plan)
    view(arena, plan.launches[0].reads[0])[...] = 1.0
    view(arena, plan.launches[0].writes[0])[...] = 7.0
    run_loops(module, {"arena": arena})
    np.testing.assert_array_equal(view(arena, plan.launches[0].writes[0])[:, 0], [7, 7, 1, 1, 1, 7])


def _set_bounds(call: Operation, begin: int, end: int) -> None:
    bounds: list[Value] = []
    assert call.block is not None
    for k in (begin, end):
        made = Operation("arith.constant", (), [call.operands[0].type], {"value": k})
        call.block.insert_before(call, made)
        bounds.append(made.result)
    call.set_operands([*bounds, *call.operands[2:]])
