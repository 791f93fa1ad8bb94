"""choose-recompute: what is kept, what is computed again, and values that do not change by a bit."""

from __future__ import annotations

import itertools
import random
import re

import numpy as np
import pytest

from concatc.diagnostics import UsageError
from concatc.frontend.cnet import load
from concatc.ir.clone import clone_module
from concatc.ir.core import Block, FuncOp, Module, Operation
from concatc.ir.parser import parse_module
from concatc.ir.types import NUMPY_DTYPES
from concatc.loops.bases import argument_key, result_keys
from concatc.op import is_op
from concatc.passes.canonicalize import Canonicalize
from concatc.passes.check_plan import check_plan
from concatc.passes.choose_recompute import ChooseRecompute, Mode
from concatc.passes.concat_algebra import ConcatAlgebra
from concatc.passes.cse import Cse
from concatc.passes.dce import Dce
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.fuse import Fuse
from concatc.passes.fusion import is_view
from concatc.passes.graph import is_backward
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.iteration import Iterations
from concatc.passes.minimum_cut import FlowGraph
from concatc.passes.order_kernels import OrderKernels
from concatc.passes.plan_memory import PlanMemory
from concatc.passes.registry import parse_pipeline
from concatc.passes.verify import verify
from concatc.targets.reference.interpreter import argument_name, run_function
from concatc.targets.reference.plan_interpreter import run_plan
from tests.ir_text import short_text
from tests.nets.checks import distance, random_data
from tests.nets.random_nets import seeded_recipe
from tests.nets.section5 import NETS
from tests.small_nets import joint
from tests.test_fuse import dense_net
from tests.values import assert_same_values, bits


def clones(func: FuncOp) -> list[Operation]:
    return [op for op in func.ops if "recomputes" in op.attributes]


def arena_bytes(module: Module, mode: Mode) -> int:
    module = clone_module(module)
    for step in (ChooseRecompute(mode), Fuse(), OrderKernels()):
        step.run(module)
    return PlanMemory().plan(module).bases["arena"].size_bytes


# -- the cut -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(40))
def test_minimum_cut_against_all_cuts(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(2, 7)
    edges = [(rng.randrange(count), rng.randrange(count), rng.randrange(5)) for _ in range(rng.randrange(16))]
    graph = FlowGraph(count)
    for tail, head, capacity in edges:
        graph.add_edge(tail, head, capacity)
    side = graph.sink_side(0, 1)

    def cost(sink_side: tuple[bool, ...]) -> int:
        return sum(c for tail, head, c in edges if not sink_side[tail] and sink_side[head])

    cuts = [(False, True, *rest) for rest in itertools.product((False, True), repeat=count - 2)]
    least = min(map(cost, cuts))
    smallest = min((cut for cut in cuts if cost(cut) == least), key=sum)
    assert tuple(side) == smallest


# -- what is recomputed ------------------------------------------------------------------------------------------------
X = "tensor<2x3xf32>"


def chain(middle: str, kept: str = "", dy_reader: str = "") -> Module:
    """``h = x p``; ``middle`` makes %y from %h; the gradient of ``z = y v`` reads %y, that of h reads %h.

    ``kept`` is returned too; ``dy_reader`` makes %da from %dy and whatever it wants.
    """
    extra = f", {X}" if kept else ""
    reader = dy_reader or '%da = "cnet.neg"(%dy) {transposes = "relu %y"} : (@X) -> @X'
    module = parse_module(
        f"""
        module @m {{
          func.func @net(%x: @X, %p: tensor<3x3xf32>, %w: tensor<3xf32>, %v: tensor<3x4xf32>, %r: tensor<2xi32>,
              %old: tensor<3xf32> {{cnet.kind = "state", cnet.name = "old", cnet.init = "constant(0.0)"}},
              %dz: tensor<2x4xf32> {{cnet.kind = "output_grad", cnet.name = "z"}})
              -> (tensor<2x4xf32>, tensor<3x4xf32>, @X, @X{extra}) {{
            %h = "cnet.matmul"(%x, %p) : (@X, tensor<3x3xf32>) -> @X
            {middle}
            %z = "cnet.matmul"(%y, %v) : (@X, tensor<3x4xf32>) -> tensor<2x4xf32>
            %dz.use0, %dz.use1 = "cnet.split"(%dz) {{ways = 2 : i64, transposes = "matmul %z"}}
                : (tensor<2x4xf32>) -> (tensor<2x4xf32>, tensor<2x4xf32>)
            %dv = "cnet.matmul"(%y, %dz.use0) {{transpose_a = true, transposes = "matmul %z"}}
                : (@X, tensor<2x4xf32>) -> tensor<3x4xf32>
            %dy = "cnet.matmul"(%dz.use1, %v) {{transpose_b = true, transposes = "matmul %z"}}
                : (tensor<2x4xf32>, tensor<3x4xf32>) -> @X
            {reader}
            %dh = "cnet.square"(%h) {{transposes = "matmul %h"}} : (@X) -> @X
            func.return %z, %dv, %da, %dh{f", {kept}" if kept else ""}
                : tensor<2x4xf32>, tensor<3x4xf32>, @X, @X{extra}
          }}
        }}
        """.replace("@X", X)
    )
    InsertSplits().run(module)
    return module


def apply(module: Module, mode: Mode = "auto") -> Module:
    """Run the pass, on a module whose values must stay as they are."""
    verify(module, "joint")
    changed = assert_same_values(module, ChooseRecompute(mode).run)
    verify(changed, "joint")
    return changed


def backward_text(module: Module) -> str:
    block = Block()
    block.ops = [op for op in module.main.ops if is_backward(op)]
    return re.sub(
        r", transposes=[^}]*?(?=, recomputes|})|transposes=[^}]*?(, (?=recomputes)|(?=}))", "", short_text(block)
    )


def again(middle: str, mode: Mode = "auto", kept: str = "", dy_reader: str = "") -> list[str]:
    """What is recomputed."""
    return [str(op.attributes["recomputes"]) for op in clones(apply(chain(middle, kept, dy_reader), mode).main)]


SCALE_RELU = """
            %s = "cnet.scale"(%h, %w) {axis = 1 : i64} : (@X, tensor<3xf32>) -> @X
            %y = "cnet.relu"(%s) : (@X) -> @X"""
RELU_GRAD = '%da = "cnet.relu_grad"(%y, %dy) {transposes = "relu %y"} : (@X, @X) -> @X'


def test_text() -> None:
    changed = apply(chain(SCALE_RELU, dy_reader=RELU_GRAD))
    assert (
        backward_text(changed)
        == """\
%dz.use0, %dz.use1 = split(%dz) {ways=2}
%s.again = scale(%h, %w) {axis=1, recomputes=%s}
%y.again = relu(%s.again) {recomputes=%y}
%dv = matmul(%y.again, %dz.use0) {transpose_a=True}
%dy = matmul(%dz.use1, %v) {transpose_b=True}
%s.again.2 = scale(%h, %w) {axis=1, recomputes=%s}
%y.again.2 = relu(%s.again.2) {recomputes=%y}
%da = relu_grad(%y.again.2, %dy) {}
%dh = square(%h) {}"""
    )


def test_the_forward_half_stays_as_it_is() -> None:
    module = joint(dense_net().module())
    changed = apply(module)
    assert clones(changed.main)
    forward = [
        [(op.name, [r.name for r in op.results]) for op in m.main.ops if not is_backward(op)] for m in (module, changed)
    ]
    assert forward[0] == forward[1]


def test_nothing_without_need() -> None:
    # relu has the bytes of what it reads: keeping its result costs the same and recomputes nothing.
    middle = '%y = "cnet.relu"(%h) : (@X) -> @X'
    module = chain(middle).main
    square = next(op for op in module.ops if is_op(op, "square"))
    square.set_operand(0, next(op for op in module.ops if is_op(op, "relu")).result)
    module = Module("m", [module])
    assert clones(apply(module).main) == []


def test_mode_none() -> None:
    assert again(SCALE_RELU, "none") == []


def test_what_is_returned_is_kept_anyway() -> None:
    assert again(SCALE_RELU, kept="%y") == []
    assert again(SCALE_RELU, kept="%s") == ["%y"]


def test_costly_maps_and_softmax_are_for_max_alone() -> None:
    costly = """
            %s = "cnet.gelu"(%h) : (@X) -> @X
            %u = "cnet.gelu"(%s) : (@X) -> @X
            %y = "cnet.gelu"(%u) : (@X) -> @X"""
    softmax = '%y = "cnet.softmax"(%h) {axis = 1 : i64} : (@X) -> @X'
    assert again(softmax) == []
    assert again(softmax, "max") == ["%y"]
    assert set(again(costly, "max")) == {"%s", "%u", "%y"}


def test_contractions_are_never_recomputed() -> None:
    middle = '%y = "cnet.matmul"(%h, %p) : (@X, tensor<3x3xf32>) -> @X'
    assert again(middle) == again(middle, "max") == []


IMAGE = "tensor<1x2x6x6xf32>"


def pooled(kernel: int) -> Module:
    """A blob that is kept, its maximum over windows of stride 1, and two readers of that in the backward half."""
    small = f"tensor<1x2x{7 - kernel}x{7 - kernel}xf32>"
    index = small.replace("f32", "i8")
    return parse_module(
        f"""
        module @m {{
          func.func @net(%x: {IMAGE}, %w: tensor<2x2x1x1xf32>,
              %dy: {small} {{cnet.kind = "output_grad", cnet.name = "y"}}) -> ({small}, {IMAGE}) {{
            %h = "cnet.conv"(%x, %w) {{stride = array<i64: 1, 1>, pad = array<i64: 0, 0>,
                dilation = array<i64: 1, 1>, groups = 1 : i64}} : ({IMAGE}, tensor<2x2x1x1xf32>) -> {IMAGE}
            %y, %at = "cnet.max_pool"(%h) {{kernel = array<i64: {kernel}, {kernel}>, stride = array<i64: 1, 1>,
                pad = array<i64: 0, 0>, ceil = false}} : ({IMAGE}) -> ({small}, {index})
            %dp = "cnet.max_pool_grad"(%at, %dy) {{image = array<i64: 6, 6>, kernel = array<i64: {kernel}, {kernel}>,
                stride = array<i64: 1, 1>, pad = array<i64: 0, 0>, ceil = false, transposes = "max_pool %y"}}
                : ({index}, {small}) -> {IMAGE}
            %dh = "cnet.relu_grad"(%h, %dp) {{transposes = "relu %h"}} : ({IMAGE}, {IMAGE}) -> {IMAGE}
            func.return %y, %dh : {small}, {IMAGE}
          }}
        }}
        """
    )


@pytest.mark.parametrize(("kernel", "expected"), [(2, ["%y, %at"]), (5, [])])
def test_small_windows_are_folded_again(kernel: int, expected: list[str]) -> None:
    # %h is kept for relu_grad; the places of the maxima need not be.
    assert [op.attributes["recomputes"] for op in clones(apply(pooled(kernel)).main)] == expected


def test_the_mask_of_dropout_is_the_same_again() -> None:
    middle = '%y = "cnet.dropout"(%h, %r) {p = 0.5 : f64, key = 7 : i64} : (@X, tensor<2xi32>) -> @X'
    assert again(middle) == []  # its hash costs more than keeping an element
    assert again(middle, "max") == ["%y"]


def test_an_old_state_is_not_read_again() -> None:
    # The forward half ends with the new state in the same place.
    middle = '%y = "cnet.scale"(%h, %old) {axis = 1 : i64} : (@X, tensor<3xf32>) -> @X'
    assert again(middle) == []


def test_a_concat_is_kept_or_made_again_as_a_whole() -> None:
    parts = """
            %a, %b = "cnet.slice"(%h) {axis = 1 : i64, sizes = array<i64: 1, 2>}
                : (@X) -> (tensor<2x1xf32>, tensor<2x2xf32>)
            %c = "cnet.relu"(%a) : (tensor<2x1xf32>) -> tensor<2x1xf32>
            %d = "cnet.tanh"(%b) : (tensor<2x2xf32>) -> tensor<2x2xf32>
            %y = "cnet.concat"(%c, %d) {axis = 1 : i64} : (tensor<2x1xf32>, tensor<2x2xf32>) -> @X"""
    # The slice joins %a and %b with %h, which is kept.
    assert sorted(again(parts)) == ["%c", "%d", "%y"]
    fixed = parts.replace('"cnet.tanh"(%b)', '"cnet.softmax"(%b) {axis = 1 : i64}')
    assert again(fixed) == []


def test_readers_that_compute_at_a_point_get_clones_of_their_own() -> None:
    # The matmul stores its clone; relu_grad computes its own inside its loop.
    changed = apply(chain(SCALE_RELU, dy_reader=RELU_GRAD))
    names = [r.name for op in clones(changed.main) for r in op.results]
    assert names == ["s.again", "y.again", "s.again.2", "y.again.2"]
    kernels = clone_module(changed)
    Fuse().run(kernels)
    titles = [str(op.attributes["sym_name"]).split("_", 1)[1] for op in kernels.main.ops if op.name == "cnet.kernel"]
    assert "matmul_scale_relu_relu_grad" in titles


def test_clones_stand_right_before_their_first_reader() -> None:
    func = apply(joint(dense_net(depth=3).module())).main
    index = {op: k for k, op in enumerate(func.ops)}
    for op in clones(func):
        between = func.ops[index[op] + 1 : min(index[reader] for r in op.results for reader in r.readers)]
        assert all("recomputes" in other.attributes or is_op(other, "split") for other in between)


def test_option() -> None:
    (step,) = parse_pipeline("choose-recompute{mode=max}")
    assert step == ChooseRecompute("max")
    with pytest.raises(UsageError, match="mode"):
        parse_pipeline("choose-recompute{mode=most}")


# -- values and bytes --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["auto", "max"])
@pytest.mark.parametrize("name", NETS)
def test_hard_nets(name: str, mode: Mode) -> None:
    module = NETS[name]()
    apply(joint(module) if module.main.returned("total") else module, mode)


def test_dense_memory_is_linear_in_depth() -> None:
    """The growth by four layers more stays the same, where keeping everything grows."""
    none, auto, most = (
        [arena_bytes(joint(dense_net(n=4, growth=8, depth=d, size=16, stages=1).module()), mode) for d in (4, 8, 12)]
        for mode in ("none", "auto", "max")
    )
    assert most == auto
    assert auto[2] - auto[1] <= 1.05 * (auto[1] - auto[0])
    assert none[2] - none[1] > 1.3 * (none[1] - none[0])
    assert all(a < n / 2 for a, n in zip(auto, none, strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_random_nets(seed: int) -> None:
    """Values are the same bits, recomputed operations are cheap, and the plan is right."""
    choice = ChooseRecompute("max", parts=(0, 2, 4)[seed % 3]) if seed % 2 else ChooseRecompute("auto")
    source = seeded_recipe(seed, 16).source()
    graph, _ = load(source, "random.cnet")
    module = clone_module(graph)
    InsertSplits().run(module)
    for step in (Canonicalize(), ConcatAlgebra(), Cse(), Dce(), DeriveBackward(input_grads=True)):
        step.run(module)
    for step in (Canonicalize(), ConcatAlgebra(), Cse(), Dce(), InsertSplits()):
        step.run(module)
    data = random_data(module.main, seed)
    args = [data[argument_name(a)].astype(NUMPY_DTYPES[a.dtype]) for a in module.main.args]
    before = run_function(module.main, args)
    kinds = Iterations()
    all_work = sum(kinds.of(op).work for op in module.main.ops[:-1])
    choice.run(module)
    verify(module, "joint")
    for old, new in zip(before, run_function(module.main, args), strict=True):
        np.testing.assert_array_equal(bits(new), bits(old))
    contractions = [kinds.of(op).work for op in clones(module.main) if kinds.of(op).kind == "contraction"]
    assert choice.parts or sum(contractions) * 100 <= choice.most_percent * all_work
    allowed = ("pointwise", "contraction") if choice.mode == "auto" else ("pointwise", "contraction", "staged")
    assert all(is_view(op) or kinds.of(op).kind in allowed or kinds.of(op).folds_windows for op in clones(module.main))
    for step in (Fuse(), OrderKernels()):
        step.run(module)
    plan = PlanMemory().plan(module)
    assert check_plan(plan, module.main) == []
    run = run_plan(plan, {argument_key(a): x for a, x in zip(module.main.args, args, strict=True)})
    for key, value in zip(result_keys(module.main), run_function(module.main, args), strict=True):
        assert distance(run[key], value) <= 1e-4
