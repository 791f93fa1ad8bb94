"""canonicalize, concat-algebra, cse, dce: text before and after, values unchanged bit for bit, levels kept."""

from __future__ import annotations

import re

import numpy as np
import pytest

import concatc
from concatc.frontend.cnet import load
from concatc.ir.clone import clone_module
from concatc.ir.core import Module
from concatc.ir.parser import parse_module
from concatc.ir.passes import Pass
from concatc.passes.canonicalize import Canonicalize
from concatc.passes.concat_algebra import ConcatAlgebra
from concatc.passes.cse import Cse
from concatc.passes.dce import Dce
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.verify import verify
from tests.ir_text import dedent, plain, short_text
from tests.nets.random_nets import seeded_recipe
from tests.nets.section5 import NETS
from tests.short_ir import function
from tests.small_nets import NetBuilder, data_for, run64
from tests.values import assert_same_values, bits

SIMPLIFY: tuple[Pass, ...] = (Canonicalize(), ConcatAlgebra(), Cse(), Dce())

# The types of the arguments are given; those of the operations follow from infer.
X = "%x: tensor<2x3x4xf32>"
IMAGE = "%x: tensor<2x3x4x5xf32>"
AB = "%a: tensor<2x3xf32>, %b: tensor<4x3xf32>"


def check(pass_: Pass, args: str, before: str, after: str) -> None:
    module = function(args, before)
    verify(module)
    changed = assert_same_values(module, pass_.run)
    verify(changed)
    assert _short(changed) == dedent(after)
    again = plain(changed)
    pass_.run(changed)
    assert plain(changed) == again, "a second run changes nothing"


def _short(module: Module) -> str:
    return short_text(module.main.body).replace("'", "")


CANONICALIZE = {
    "concat of one": (X, "%y = concat(%x) {axis=1}\nreturn(%y)", "return(%x)"),
    "slice of one": (X, "%y = slice(%x) {axis=1, sizes=[3]}\nreturn(%y)", "return(%x)"),
    "accumulate of one": (X, "%y = accumulate(%x)\nreturn(%y)", "return(%x)"),
    "accumulate of accumulate": (
        "%a: tensor<3xf32>, %b: tensor<3xf32>, %c: tensor<3xf32>",
        "%s = accumulate(%a, %b)\n%t = accumulate(%s, %c)\nreturn(%t)",
        "%t = accumulate(%a, %b, %c)\nreturn(%t)",
    ),
    "the order of additions is kept": (
        "%a: tensor<3xf32>, %b: tensor<3xf32>, %c: tensor<3xf32>",
        "%s = accumulate(%a, %b)\n%t = accumulate(%c, %s)\nreturn(%t)",
        "%s = accumulate(%a, %b)\n%t = accumulate(%c, %s)\nreturn(%t)",
    ),
    "an accumulate that others read": (
        "%a: tensor<3xf32>, %b: tensor<3xf32>, %c: tensor<3xf32>",
        "%s = accumulate(%a, %b)\n%t = accumulate(%s, %c)\nreturn(%t, %s)",
        "%s = accumulate(%a, %b)\n%t = accumulate(%s, %c)\nreturn(%t, %s)",
    ),
    "max_pool of relu": (
        IMAGE,
        "%r = relu(%x)\n%y, %i = max_pool(%r) {kernel=[2, 3], stride=[2, 2], pad=[0, 1]}\nreturn(%y)",
        "%y.max, %i = max_pool(%x) {kernel=[2, 3], stride=[2, 2], pad=[0, 1]}\n%y = relu(%y.max)\nreturn(%y)",
    ),
    "max_pool of a concat of relus": (
        IMAGE + ", %z: tensor<2x1x4x5xf32>",
        "%r = relu(%x)\n%s = relu(%z)\n%c = concat(%r, %s) {axis=1}\n"
        "%y, %i = max_pool(%c) {kernel=[2, 2], stride=[2, 2], pad=[1, 0]}\nreturn(%y)",
        "%c.max = concat(%x, %z) {axis=1}\n"
        "%y.max, %i = max_pool(%c.max) {kernel=[2, 2], stride=[2, 2], pad=[1, 0]}\n%y = relu(%y.max)\nreturn(%y)",
    ),
    "max_pool of a concat of not only relus": (
        IMAGE + ", %z: tensor<2x1x4x5xf32>",
        "%r = relu(%x)\n%c = concat(%r, %z) {axis=1}\n"
        "%y, %i = max_pool(%c) {kernel=[2, 2], stride=[2, 2], pad=[0, 0]}\nreturn(%y)",
        "%r = relu(%x)\n%c = concat(%r, %z) {axis=1}\n"
        "%y, %i = max_pool(%c) {kernel=[2, 2], stride=[2, 2], pad=[0, 0]}\nreturn(%y)",
    ),
    "max_pool of a concat of a relu that others read": (
        IMAGE,
        "%r = relu(%x)\n%c = concat(%r, %r) {axis=0}\n"
        "%y, %i = max_pool(%c) {kernel=[2, 2], stride=[2, 2], pad=[0, 0]}\nreturn(%y)",
        "%r = relu(%x)\n%c = concat(%r, %r) {axis=0}\n"
        "%y, %i = max_pool(%c) {kernel=[2, 2], stride=[2, 2], pad=[0, 0]}\nreturn(%y)",
    ),
    "max_pool of a concat that others read": (
        IMAGE + ", %z: tensor<2x1x4x5xf32>",
        "%r = relu(%x)\n%s = relu(%z)\n%c = concat(%r, %s) {axis=1}\n"
        "%y, %i = max_pool(%c) {kernel=[2, 2], stride=[2, 2], pad=[0, 0]}\nreturn(%y, %c)",
        "%r = relu(%x)\n%s = relu(%z)\n%c = concat(%r, %s) {axis=1}\n"
        "%y, %i = max_pool(%c) {kernel=[2, 2], stride=[2, 2], pad=[0, 0]}\nreturn(%y, %c)",
    ),
    "max_pool of a relu that others read": (
        IMAGE,
        "%r = relu(%x)\n%y, %i = max_pool(%r) {kernel=[2, 2], stride=[2, 2], pad=[0, 0]}\nreturn(%y, %r)",
        "%r = relu(%x)\n%y, %i = max_pool(%r) {kernel=[2, 2], stride=[2, 2], pad=[0, 0]}\nreturn(%y, %r)",
    ),
    "max_pool of relu whose places are read": (
        IMAGE,
        "%r = relu(%x)\n%y, %i = max_pool(%r) {kernel=[2, 2], stride=[2, 2], pad=[0, 0]}\nreturn(%y, %i)",
        "%r = relu(%x)\n%y, %i = max_pool(%r) {kernel=[2, 2], stride=[2, 2], pad=[0, 0]}\nreturn(%y, %i)",
    ),
    "max_pool of relu of empty images": (
        "%x: tensor<2x3x0x5xf32>",
        "%r = relu(%x)\n%y, %i = max_pool(%r) {kernel=[2, 2], stride=[2, 2], pad=[1, 1]}\nreturn(%y)",
        "%r = relu(%x)\n%y, %i = max_pool(%r) {kernel=[2, 2], stride=[2, 2], pad=[1, 1]}\nreturn(%y)",
    ),
    "reshape to itself": (X, "%y = reshape(%x) {shape=[2, 3, 4]}\nreturn(%y)", "return(%x)"),
    "flatten of the last axis": ("%x: tensor<2x3xf32>", "%y = flatten(%x) {axis=1}\nreturn(%y)", "return(%x)"),
    "reshape of reshape": (
        X,
        "%y = reshape(%x) {shape=[6, 4]}\n%z = flatten(%y) {axis=0}\nreturn(%z)",
        "%z = reshape(%x) {shape=[24]}\nreturn(%z)",
    ),
    "there and back": (
        X,
        "%y = flatten(%x)\n%r = relu(%y)\n%z = reshape(%y) {shape=[2, 3, 4]}\nreturn(%z, %r)",
        "%y = flatten(%x) {axis=1}\n%r = relu(%y)\nreturn(%x, %r)",
    ),
    "transpose of transpose": (
        X,
        "%y = transpose(%x) {perm=[1, 2, 0]}\n%z = transpose(%y) {perm=[0, 2, 1]}\nreturn(%z)",
        "%z = transpose(%x) {perm=[1, 0, 2]}\nreturn(%z)",
    ),
    "transpose and back": (
        X,
        "%y = transpose(%x) {perm=[1, 2, 0]}\n%z = transpose(%y) {perm=[2, 0, 1]}\nreturn(%z)",
        "return(%x)",
    ),
    "transpose of axes of size 1": (
        "%x: tensor<2x1x3x1xf32>",
        "%y = transpose(%x) {perm=[1, 0, 3, 2]}\nreturn(%y)",
        "%y = reshape(%x) {shape=[1, 2, 1, 3]}\nreturn(%y)",
    ),
    "neg of neg": (X, "%y = neg(%x)\n%z = neg(%y)\nreturn(%z)", "return(%x)"),
    "relu of relu": (X, "%y = relu(%x)\n%z = relu(%y)\nreturn(%z)", "%y = relu(%x)\nreturn(%y)"),
    "times one": (X, "%y = mul_scalar(%x) {value=1.0}\nreturn(%y)", "return(%x)"),
    "times two": (X, "%y = mul_scalar(%x) {value=2.0}\nreturn(%y)", "%y = mul_scalar(%x) {value=2.0}\nreturn(%y)"),
    "times minus one": (X, "%y = mul_scalar(%x) {value=-1.0}\nreturn(%y)", "%y = neg(%x)\nreturn(%y)"),
    "a sign into a factor": (
        X,
        "%y = neg(%x)\n%z = mul_scalar(%y) {value=0.3}\nreturn(%z)",
        "%z = mul_scalar(%x) {value=-0.3}\nreturn(%z)",
    ),
    "a sign behind a factor": (
        X,
        "%y = mul_scalar(%x) {value=0.3}\n%z = neg(%y)\nreturn(%z)",
        "%z = mul_scalar(%x) {value=-0.3}\nreturn(%z)",
    ),
    "two factors round twice": (
        X,
        "%y = mul_scalar(%x) {value=0.3}\n%z = mul_scalar(%y) {value=0.7}\nreturn(%z)",
        "%y = mul_scalar(%x) {value=0.3}\n%z = mul_scalar(%y) {value=0.7}\nreturn(%z)",
    ),
    "minus zero": (X, "%y = add_scalar(%x) {value=-0.0}\nreturn(%y)", "return(%x)"),
    "plus zero turns -0 into 0": (
        X,
        "%y = add_scalar(%x) {value=0.0}\nreturn(%y)",
        "%y = add_scalar(%x) {value=0.0}\nreturn(%y)",
    ),
    "expand of a constant": (
        X,
        "%c = constant() {shape=[], value=0.5}\n%y = expand(%c) {shape=[2, 3], axes=[0, 1]}\nreturn(%y)",
        "%y = constant() {shape=[2, 3], value=0.5, dtype=f32}\nreturn(%y)",
    ),
}


@pytest.mark.parametrize("name", CANONICALIZE)
def test_canonicalize(name: str) -> None:
    check(Canonicalize(), *CANONICALIZE[name])


@pytest.mark.parametrize("pool", ["3, stride=2, pad=1", "2", "3, stride=1, pad=1"])
@pytest.mark.parametrize("pooled", ["relu(moved)", "concat(relu(moved), relu(-moved), axis=1)"])
def test_gradients_through_max_pool_of_relu(pool: str, pooled: str) -> None:
    """The same bits where what is pooled is kept, so that all stays where it is; with ties, zeros and NaN."""
    text = f"""net pooled(n = 3) {{
        input image: f32[n, 2, 7, 6]
        param shift: f32[1, 2, 1, 1] = constant(-1)
        moved = image + shift
        r = {pooled}
        y = max_pool(r, {pool})
        loss sum(y * y)
        output y
    }}"""
    image = np.random.default_rng(0).integers(-2, 4, (3, 2, 7, 6)).astype(np.float32)
    image[2, 1, 3, 3] = np.nan
    found = []
    for keep in ([], ["r"]):
        net = concatc.compile_source(text, target="reference", keep=keep, input_grads=True)
        out = net.forward(image=image)
        found.append([bits(out["y"]), *(bits(g) for g in net.backward().values())])
    for moved, kept in zip(*found, strict=True):
        np.testing.assert_array_equal(moved, kept)


CONCAT_ALGEBRA = {
    "windows are the inputs": (
        AB,
        "%h = concat(%a, %b) {axis=0}\n%p, %q = slice(%h) {axis=0, sizes=[2, 4]}\n%r = relu(%p)\nreturn(%r, %q)",
        "%r = relu(%a)\nreturn(%r, %b)",
    ),
    "windows are the inputs, and the concat is read too": (
        AB,
        "%h = concat(%a, %b) {axis=0}\n%p, %q = slice(%h) {axis=0, sizes=[2, 4]}\nreturn(%p, %q, %h)",
        "%h = concat(%a, %b) {axis=0}\nreturn(%a, %b, %h)",
    ),
    "windows within an input": (
        AB,
        "%h = concat(%a, %b) {axis=0}\n%p, %q, %r = slice(%h) {axis=0, sizes=[2, 1, 3]}\nreturn(%p, %q, %r)",
        "%q, %r = slice(%b) {axis=0, sizes=[1, 3]}\nreturn(%a, %q, %r)",
    ),
    "windows across inputs": (
        AB,
        "%h = concat(%a, %b) {axis=0}\n%p, %q, %r = slice(%h) {axis=0, sizes=[1, 3, 2]}\nreturn(%p, %q, %r)",
        "%p, %a.part1 = slice(%a) {axis=0, sizes=[1, 1]}\n%b.part0, %r = slice(%b) {axis=0, sizes=[2, 2]}\n"
        "%q = concat(%a.part1, %b.part0) {axis=0}\nreturn(%p, %q, %r)",
    ),
    "windows across inputs of a concat that others read": (
        AB,
        "%h = concat(%a, %b) {axis=0}\n%p, %q = slice(%h) {axis=0, sizes=[3, 3]}\nreturn(%p, %q, %h)",
        "%h = concat(%a, %b) {axis=0}\n%p, %q = slice(%h) {axis=0, sizes=[3, 3]}\nreturn(%p, %q, %h)",
    ),
    "another axis": (
        AB,
        "%h = concat(%a, %b) {axis=0}\n%p, %q = slice(%h) {axis=1, sizes=[1, 2]}\nreturn(%p, %q)",
        "%h = concat(%a, %b) {axis=0}\n%p, %q = slice(%h) {axis=1, sizes=[1, 2]}\nreturn(%p, %q)",
    ),
    "an empty window": (
        AB,
        "%h = concat(%a, %b) {axis=0}\n%p, %q, %r = slice(%h) {axis=0, sizes=[2, 0, 4]}\nreturn(%p, %q, %r)",
        "%h = concat(%a, %b) {axis=0}\n%p, %q, %r = slice(%h) {axis=0, sizes=[2, 0, 4]}\nreturn(%p, %q, %r)",
    ),
    "an empty input": (
        "%a: tensor<2x3xf32>, %e: tensor<0x3xf32>, %b: tensor<4x3xf32>",
        "%h = concat(%a, %e, %b) {axis=0}\n%p, %q = slice(%h) {axis=0, sizes=[2, 4]}\nreturn(%p, %q)",
        "return(%a, %b)",
    ),
    "all windows in order": (
        X,
        "%p, %q = slice(%x) {axis=1, sizes=[1, 2]}\n%y = concat(%p, %q) {axis=1}\nreturn(%y)",
        "return(%x)",
    ),
    "all windows in order, among others": (
        X,
        "%r = relu(%x)\n%p, %q = slice(%x) {axis=1, sizes=[1, 2]}\n%y = concat(%r, %p, %q, %r) {axis=1}\nreturn(%y)",
        "%r = relu(%x)\n%y = concat(%r, %x, %r) {axis=1}\nreturn(%y)",
    ),
    "windows in another order": (
        X,
        "%p, %q = slice(%x) {axis=1, sizes=[1, 2]}\n%y = concat(%q, %p) {axis=1}\nreturn(%y)",
        "%p, %q = slice(%x) {axis=1, sizes=[1, 2]}\n%y = concat(%q, %p) {axis=1}\nreturn(%y)",
    ),
    "two of three windows, where they may yet be differentiated": (
        X,
        "%p, %q, %r = slice(%x) {axis=1, sizes=[1, 1, 1]}\n%y = concat(%q, %r, %p) {axis=1}\nreturn(%y, %q)",
        "%p, %q, %r = slice(%x) {axis=1, sizes=[1, 1, 1]}\n%y = concat(%q, %r, %p) {axis=1}\nreturn(%y, %q)",
    ),
    "nested": (
        AB,
        "%h = concat(%a, %b) {axis=0}\n%g = concat(%b, %h, %a) {axis=0}\nreturn(%g)",
        "%g = concat(%b, %a, %b, %a) {axis=0}\nreturn(%g)",
    ),
    "a nested concat that others read stays a window": (
        AB,
        "%h = concat(%a, %b) {axis=0}\n%g = concat(%h, %a) {axis=0}\nreturn(%g, %h)",
        "%h = concat(%a, %b) {axis=0}\n%g = concat(%h, %a) {axis=0}\nreturn(%g, %h)",
    ),
    "constants side by side": (
        AB,
        "%c = constant() {shape=[2, 3], value=0.0}\n%d = constant() {shape=[1, 3], value=0.0}\n"
        "%e = constant() {shape=[1, 3], value=-0.0}\n%y = concat(%a, %c, %d, %e) {axis=0}\nreturn(%y)",
        "%e = constant() {shape=[1, 3], value=-0.0, dtype=f32}\n%c = constant() {shape=[3, 3], value=0.0, dtype=f32}\n"
        "%y = concat(%a, %c, %e) {axis=0}\nreturn(%y)",
    ),
    "there and back again": (
        AB,
        "%h = concat(%a, %b) {axis=0}\n%p, %q = slice(%h) {axis=0, sizes=[3, 3]}\n%g = concat(%p, %q) {axis=0}\n"
        "%s, %t = slice(%g) {axis=0, sizes=[2, 4]}\nreturn(%t, %s)",
        "return(%b, %a)",
    ),
}


@pytest.mark.parametrize("name", CONCAT_ALGEBRA)
def test_concat_algebra(name: str) -> None:
    check(ConcatAlgebra(), *CONCAT_ALGEBRA[name])


def test_some_windows_become_one_in_the_backward_half() -> None:
    """Nothing is differentiated any more: a value with two slices gets no gradient padded with zeros."""
    t, v = "tensor<2x1x4xf32>", "tensor<2x3x4xf32>"
    module = parse_module(f"""func.func @net(%x: {v}) -> ({v}, {t}) {{
      %p, %q, %r = "cnet.slice"(%x) {{axis = 1, sizes = array<i64: 1, 1, 1>, transposes = "concat %c"}}
        : ({v}) -> ({t}, {t}, {t})
      %y = "cnet.concat"(%q, %r, %p) {{axis = 1, transposes = "slice %c"}} : ({t}, {t}, {t}) -> {v}
      func.return %y, %q : {v}, {t}
    }}""")
    changed = assert_same_values(module, ConcatAlgebra().run)
    verify(changed)
    joined = changed.main.ret.operands[0].op
    assert joined is not None
    assert [(x.name, x.shape) for x in joined.operands] == [("x.part1", (2, 2, 4)), ("p", (2, 1, 4))]
    assert all("transposes" in op.attributes for op in changed.main.ops[:-1])


CSE = {
    "equal operations": (
        X,
        "%a = exp(%x)\n%b = exp(%x)\n%c = add(%a, %b)\nreturn(%c)",
        "%a = exp(%x)\n%c = add(%a, %a)\nreturn(%c)",
    ),
    "chains": (
        X,
        "%a = exp(%x)\n%b = exp(%x)\n%c = neg(%a)\n%d = neg(%b)\nreturn(%c, %d)",
        "%a = exp(%x)\n%c = neg(%a)\nreturn(%c, %c)",
    ),
    "several results": (
        X,
        "%a, %b = slice(%x) {axis=1, sizes=[1, 2]}\n%c, %d = slice(%x) {axis=1, sizes=[1, 2]}\nreturn(%a, %b, %c, %d)",
        "%a, %b = slice(%x) {axis=1, sizes=[1, 2]}\nreturn(%a, %b, %a, %b)",
    ),
    "other attributes": (
        X,
        "%a = mul_scalar(%x) {value=0.0}\n%b = mul_scalar(%x) {value=-0.0}\nreturn(%a, %b)",
        "%a = mul_scalar(%x) {value=0.0}\n%b = mul_scalar(%x) {value=-0.0}\nreturn(%a, %b)",
    ),
    "other operands": (
        AB,
        "%a2 = add(%a, %a)\n%b2 = add(%b, %b)\nreturn(%a2, %b2)",
        "%a2 = add(%a, %a)\n%b2 = add(%b, %b)\nreturn(%a2, %b2)",
    ),
    "dropouts of two calls": (
        "%x: tensor<2x3xf32>, %r: tensor<2xi32>",
        "%a = dropout(%x, %r) {key=1}\n%b = dropout(%x, %r) {key=2}\n%c = dropout(%x, %r) {key=1}\nreturn(%a, %b, %c)",
        "%a = dropout(%x, %r) {p=0.5, key=1}\n%b = dropout(%x, %r) {p=0.5, key=2}\nreturn(%a, %b, %a)",
    ),
    "constants are made where they are read": (
        X,
        "%a = constant() {shape=[2], value=1.0}\n%b = constant() {shape=[2], value=1.0}\nreturn(%a, %b)",
        "%a = constant() {shape=[2], value=1.0, dtype=f32}\n%b = constant() {shape=[2], value=1.0, dtype=f32}\n"
        "return(%a, %b)",
    ),
}


@pytest.mark.parametrize("name", CSE)
def test_cse(name: str) -> None:
    check(Cse(), *CSE[name])


def test_cse_keeps_two_results_of_a_net() -> None:
    """Each lies in a slot of its own: what is computed once would be stored, or copied, once more."""
    module = parse_module("""
    module { func.func @f(%x: tensor<2x3xf32>) -> (tensor<3xf32> {cnet.kind = "grad", cnet.name = "p"},
        tensor<3xf32> {cnet.kind = "grad", cnet.name = "q"}) {
      %a = "cnet.sum"(%x) {axes = array<i64: 0>} : (tensor<2x3xf32>) -> tensor<3xf32>
      %b = "cnet.sum"(%x) {axes = array<i64: 0>} : (tensor<2x3xf32>) -> tensor<3xf32>
      func.return %a, %b : tensor<3xf32>, tensor<3xf32>
    } }
    """)
    Cse().run(module)
    assert [op.name for op in module.main.ops].count("cnet.sum") == 2


def test_cse_does_not_look_at_places_or_at_what_is_transposed() -> None:
    module = parse_module("""
    module { func.func @f(%x: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
      %a = "cnet.exp"(%x) : (tensor<3xf32>) -> tensor<3xf32> loc("f.cnet":1:1)
      %b = "cnet.exp"(%x) {transposes = "exp %a"} : (tensor<3xf32>) -> tensor<3xf32> loc("f.cnet":2:1)
      func.return %a, %b : tensor<3xf32>, tensor<3xf32>
    } }
    """)
    Cse().run(module)
    assert (
        short_text(module.main.body) == "%a = exp(%x)\n%a.use0, %a.use1 = split(%a) {ways=2}\nreturn(%a.use0, %a.use1)"
    )


def test_kept_blobs_have_gradients_of_their_own() -> None:
    net = NetBuilder()
    x, w = net.input("x", 2, 3), net.param("w", 2, 3)
    h = net.named("h", net.b.mul(x, w))
    g = net.named("g", net.b.mul(x, w))
    twice = net.named("twice", net.b.concat(h, axis=0))
    net.keep("h", h)
    net.keep("twice", twice)
    net.loss(net.call("sum", net.b.square(h)))
    net.loss(net.call("sum", net.b.exp(g)))
    net.loss(net.call("sum", net.b.tanh(twice)))
    graph = net.module()
    data = data_for(graph.main)
    plain_joint, simplified = (derive(graph, passes) for passes in ((), SIMPLIFY))
    assert sum(op.name == "cnet.mul" for op in simplified.main.ops if "transposes" not in op.attributes) == 2
    expected, found = (run64(m.main, data) for m in (plain_joint, simplified))
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-12, err_msg=str(key))


def derive(graph: Module, passes: tuple[Pass, ...]) -> Module:
    module = clone_module(graph)
    for pass_ in passes:
        pass_.run(module)
    InsertSplits().run(module)
    DeriveBackward().run(module)
    return module


DCE = {
    "dead chains": (X, "%a = exp(%x)\n%b = neg(%a)\n%c = relu(%x)\nreturn(%c)", "%c = relu(%x)\nreturn(%c)"),
    "one result is enough": (
        X,
        "%a, %b = slice(%x) {axis=1, sizes=[1, 2]}\nreturn(%b)",
        "%a, %b = slice(%x) {axis=1, sizes=[1, 2]}\nreturn(%b)",
    ),
}


@pytest.mark.parametrize("name", DCE)
def test_dce(name: str) -> None:
    check(Dce(), *DCE[name])


def test_dce_keeps_what_it_does_not_know_and_drops_arguments_when_asked() -> None:
    text = """
    module { func.func @f(%x: tensor<3xf32>, %y: tensor<3xf32>) -> tensor<3xf32> {
      %a = "other.op"(%y) : (tensor<3xf32>) -> tensor<3xf32>
      %b = "cnet.exp"(%x) : (tensor<3xf32>) -> tensor<3xf32>
      func.return %y : tensor<3xf32>
    } }
    """
    module = parse_module(text)
    Dce().run(module)
    assert short_text(module.main.body) == "%a = other.op(%y)\nreturn(%y)"
    assert [a.name for a in module.main.args] == ["x", "y"]
    Dce(arguments=True).run(module)
    assert [(a.name, a.index) for a in module.main.args] == [("y", 0)]


def test_splits_do_not_hide_anything_and_come_back() -> None:
    module = function(
        AB,
        "%h = concat(%a, %b) {axis=0}\n%h0, %h1 = split(%h) {ways=2}\n%p, %q = slice(%h0) {axis=0, sizes=[2, 4]}\n"
        "%r = relu(%h1)\nreturn(%p, %q, %r)",
    )
    verify(module, "split")
    changed = assert_same_values(module, ConcatAlgebra().run)
    verify(changed, "split")
    assert _short(changed) == dedent("""
        %a.use0, %a.use1 = split(%a) {ways=2}
        %b.use0, %b.use1 = split(%b) {ways=2}
        %h = concat(%a.use0, %b.use0) {axis=0}
        %r = relu(%h)
        return(%a.use1, %b.use1, %r)
        """)


def test_a_linear_graph_stays_linear() -> None:
    """%x.0 and %x.1 are read once each; after cse %a is read twice, and has its split."""
    module = function(
        X,
        "%x0, %x1 = split(%x) {ways=2}\n%a = exp(%x0)\n%b = exp(%x1)\n%c = relu(%b)\nreturn(%a, %c)",
    )
    Cse().run(module)
    verify(module, "split")
    assert _short(module) == dedent("""
        %a = exp(%x)
        %a.use0, %a.use1 = split(%a) {ways=2}
        %c = relu(%a.use0)
        return(%a.use1, %c)
        """)


@pytest.mark.parametrize("pass_", SIMPLIFY, ids=lambda p: p.name)
@pytest.mark.parametrize("name", NETS)
def test_nets_at_every_level(name: str, pass_: Pass) -> None:
    """Graph, split and joint: values as before (float64), what the level promises as before."""
    graph = NETS[name]()
    data = data_for(graph.main)
    expected = run64(graph.main, data)
    pass_.run(graph)
    verify(graph)
    _compare(run64(graph.main, data), expected)
    InsertSplits().run(graph)
    pass_.run(graph)
    verify(graph, "split")
    _compare(run64(graph.main, data), expected)
    if not graph.main.returned("total"):
        return
    DeriveBackward().run(graph)
    expected = run64(graph.main, data)
    pass_.run(graph)
    verify(graph, "joint")
    _compare(run64(graph.main, data), expected)


def _compare(found: dict[tuple[str, str], np.ndarray], expected: dict[tuple[str, str], np.ndarray]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=str(key))


KEPT = {
    "windows of a kept concat": """
        h = concat(x, y, axis=0)
        p, q = slice(h, axis=0, sizes=[2, 2])
        loss sum(p ^ 2) as one
        loss sum(exp(q) + exp(q)) as two
        """,
    "a concat of kept windows": """
        h, k = slice(x, axis=1, sizes=[1, 2])
        g = concat(h, k, axis=1)
        loss sum(g ^ 2) as one
        """,
    "past a kept reshape": """
        h = reshape(x, [3, 2])
        g = reshape(h, [6])
        k = -g
        f = -k
        loss sum(f ^ 2) as one
        loss sum(exp(h)) as two
        """,
    "equal blobs": """
        h = x * y
        g = x * y
        k = transpose(g, [1, 0])
        f = transpose(k, [1, 0])
        loss sum(f ^ 2) as one
        loss sum(exp(h)) as two
        """,
}


@pytest.mark.parametrize("name", KEPT)
def test_gradients_of_kept_blobs(name: str) -> None:
    body = KEPT[name]
    keep = [blob for blob in "hgkf" if f"{blob} = " in body or f", {blob} = " in body]
    source = f"net f() {{\n param x: f64[2, 3]\n param y: f64[2, 3]\n{body}\n}}"
    graph, _ = load(source, "kept.cnet", keep=keep)
    _assert_same_gradients(graph, 0)


@pytest.mark.parametrize("keeps", [False, True], ids=["nothing kept", "all kept"])
@pytest.mark.parametrize("seed", range(20))
def test_simplified_nets_have_the_same_gradients(seed: int, keeps: bool) -> None:
    source = seeded_recipe(seed).source()
    graph, _ = load(source, "random.cnet", dtype="f64")
    names = [v.name for op in graph.main.ops for v in op.results if v.name.isidentifier()]
    if keeps:
        named = [n for n in names if re.search(rf"^ *(\w+, )*{n}(, \w+)* = ", source, re.MULTILINE)]
        graph, _ = load(source, "random.cnet", dtype="f64", keep=named)
    _assert_same_gradients(graph, seed)


def _assert_same_gradients(graph: Module, seed: int) -> None:
    data = data_for(graph.main, seed)
    expected, found = (run64(derive(graph, passes).main, data) for passes in ((), SIMPLIFY))
    assert list(found) == list(expected)
    for key, value in expected.items():
        scale = max(float(np.max(np.abs(value), initial=0)), 1.0)
        np.testing.assert_allclose(found[key], value, atol=1e-9 * scale, rtol=0, err_msg=str(key))
