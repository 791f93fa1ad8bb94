"""IR text: a fixed point of printing and parsing, names, styles, pinned dumps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concatc.compiler import compile_net
from concatc.diagnostics import Loc
from concatc.frontend.cnet import load_file
from concatc.ir.core import Block, FuncOp, Module, Operation, Region, SymbolRef, Value
from concatc.ir.parser import parse_module
from concatc.ir.printer import MACHINE, PLAIN, READING, Style, print_module, print_operation
from concatc.ir.types import F32, I1, INDEX, MemRefType, ScalarType, TensorType, Type
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.dumps import READING as SHORT
from concatc.passes.dumps import dump_text, load_dump
from concatc.passes.insert_splits import InsertSplits
from tests.std_module import every_op

ROOT = Path(__file__).parent.parent
DUMPS = Path(__file__).parent / "dumps"
PREFIX = "module @m {\n"


def texts(module: Module) -> dict[str, str]:
    return {name: print_module(module, style) for name, style in STYLES.items()}


STYLES: dict[str, Style] = {"plain": PLAIN, "machine": MACHINE}

HANDWRITTEN = {
    "empty": "module {\n}\n",
    "declaration": """\
module @m attributes {cnet.arena_bytes = 64 : i64} {
  func.func private @k(memref<2x?xf32, strided<[?, 1], offset: ?>>, index) -> (f32, i64) attributes {cnet.kernel}
  func.func private @"a b/c"()
}
""",
    "attributes": r"""module @m {
  func.func @f() {
    "cnet.x"() {a = 1 : i64, b = -2.5 : f64, c, d = false, e = none, f = "a\"b\\\0A\C3\A9", g = @f} : () -> ()
    "cnet.x"() {a = array<i64>, b = array<i64: 1, -2>, c = array<f64: 0.5, 1.0e-30>, d = [true, false]} : () -> ()
    "cnet.x"() {a = ["x", 1 : i64, [array<i64: 1>]], b = {k = "v", "odd key" = 1 : i64}, c = tensor<2x3xi32>} : () -> ()
    "cnet.x"() {a = 0x7FF8000000000000 : f64, b = 0xFFF0000000000000 : f64, c = -0.0 : f64, d = (f32) -> i1} : () -> ()
    func.return
  }
}
""",
    "regions": """\
module @m {
  func.func @f(%x: tensor<2x3xf32> {cnet.kind = "input", cnet.name = "x"}) -> (tensor<2x3xf32> {cnet.kind = "output"}) {
    %y = "cnet.kernel"(%x) ({
    ^bb0(%x_: tensor<2x3xf32>):
      %y_ = "cnet.relu"(%x_) : (tensor<2x3xf32>) -> tensor<2x3xf32>
      "cnet.yield"(%y_) : (tensor<2x3xf32>) -> ()
    }) {sym_name = "k0_relu"} : (tensor<2x3xf32>) -> tensor<2x3xf32>
    %z = "cnet.kernel"(%y) ({
    ^bb0(%x_: tensor<2x3xf32>):
      "cnet.yield"(%x_) : (tensor<2x3xf32>) -> ()
    }) {sym_name = "k1"} : (tensor<2x3xf32>) -> tensor<2x3xf32>
    "cnet.two"() ({
    }, {
      "cnet.inner"() : () -> ()
    }) : () -> ()
    func.return %z : tensor<2x3xf32>
  }
}
""",
    "numbers as names": """\
module @m {
  func.func @f(%0: index) {
    %4 = arith.constant 4 : index
    %1 = arith.addi %0, %4 : index
    func.return
  }
}
""",
}


@pytest.mark.parametrize("name", HANDWRITTEN)
def test_handwritten_text_is_a_fixed_point(name: str) -> None:
    assert print_module(parse_module(HANDWRITTEN[name]), PLAIN) == HANDWRITTEN[name]


def test_every_operation_of_mlir_is_a_fixed_point() -> None:
    once = print_module(parse_module(every_op()), PLAIN)
    assert print_module(parse_module(once), PLAIN) == once
    # Nothing is lost on the way: but for the two printed otherwise, each line stands in the result.
    lines = {line.strip() for line in once.splitlines()}
    given = [line.strip() for line in every_op().splitlines() if "= arith." in line or "= math." in line]
    lost = [line for line in given if line not in lines and "remf" not in line and "index_castui" not in line]
    assert lost == []


def test_locations_come_back() -> None:
    text = """\
module @m {
  func.func @f() {
    "cnet.x"() : () -> () loc("a \\"b.cnet":3:4)
    "cnet.y"() : () -> () loc(unknown)
    func.return loc("f.cnet":5:6)
  } loc("f.cnet":1:1)
}
"""
    module = parse_module(text)
    assert module.main.ops[0].loc == Loc('a "b.cnet', 3, 4)
    assert module.main.ops[1].loc is None
    assert module.main.loc == Loc("f.cnet", 1, 1)
    assert parse_module(print_module(module, MACHINE)).main.ops[0].loc == Loc('a "b.cnet', 3, 4)


def test_an_operation_without_location_gets_its_place_in_the_text() -> None:
    text = 'module @m {\n  func.func @f() {\n    "cnet.x"() : () -> ()\n    func.return\n  }\n}\n'
    assert parse_module(text, "dump.mlir").main.ops[0].loc == Loc("dump.mlir", 3, 5)
    assert parse_module(text).main.ops[0].loc is None


def test_mlirs_own_way_of_writing_is_read() -> None:
    module = parse_module(
        """
    #ignored
    """.replace("#ignored", "")
        + """
    builtin.module {
      func.func public @f(%x: f32) -> (f32, f32) {
        %r:2 = call @g(%x) : (f32) -> (f32, f32)
        %y = "cnet.x"(%r#1) <{a = 3 : i32}> {b = 4} : (f32) -> f32
        return %r#0, %y : f32, f32
      }
      func.func private @g(f32) -> (f32, f32)
    }
    """
    )
    call, x, ret = module.main.ops
    assert x.operands == (call.results[1],)
    assert x.attributes == {"a": 3, "b": 4}
    assert ret.operands == (call.results[0], x.result)


def function(names: Sequence[str], type: Type = F32) -> FuncOp:
    func = FuncOp("f")
    for name in names:
        func.body.append(Operation("cnet.x", (), [type], result_names=[name]))
    func.body.append(Operation("func.return"))
    return func


def result_names(func: FuncOp) -> list[str]:
    lines = print_module(Module("m", [func]), PLAIN).splitlines()
    return [line.split()[0] for line in lines if "cnet.x" in line]


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        (["h", "h", "h"], ["%h", "%h.1", "%h.2"]),
        (["h", "h.1", "h"], ["%h", "%h.1", "%h.2"]),
        (["", "0", "", "2"], ["%1", "%0", "%3", "%2"]),
        (["0", "0"], ["%0", "%1"]),
        (["ha.weight", "inception_3a/1x1.weight"], ["%ha.weight", "%inception_3a_1x1.weight"]),
        (["3x", "größe", "a b", "a_b"], ["%_3x", "%gr__e", "%a_b", "%a_b.1"]),
    ],
)
def test_names_are_unique(given: list[str], printed: list[str]) -> None:
    assert result_names(function(given)) == printed


def test_many_equal_names_take_linear_time() -> None:
    names = result_names(function(["h"] * 3000))
    assert len(set(names)) == 3000
    assert names[-1] == "%h.2999"


def test_regions_beside_each_other_use_the_same_names() -> None:
    assert HANDWRITTEN["regions"].count("^bb0(%x_:") == 2
    inner = Block([F32], ["x"])
    func = function(["x"])
    func.body.ops.insert(0, Operation("cnet.k", regions=[Region([inner])]))
    # The region's %x may not hide the one of the function, even though that is defined below.
    assert "^bb0(%x.1: f32)" in print_module(Module("m", [func]), PLAIN)


def test_print_operation() -> None:
    module = parse_module(HANDWRITTEN["numbers as names"])
    assert print_operation(module.main.ops[1]) == "%1 = arith.addi %0, %4 : index"
    stranger = Operation("cnet.x", [module.main.ops[0].result])
    assert print_operation(stranger).startswith('"cnet.x"(%<4>)')


# -- reading form ------------------------------------------------------------------------------------------------------

BACKWARD = """\
module @m {
  func.func @f(%x: tensor<64x9xf32>, %g: tensor<64x9xf32>) -> (tensor<64x9xf32>, tensor<64x9xf32>) {
    %y = "cnet.relu"(%x) : (tensor<64x9xf32>) -> tensor<64x9xf32> loc("nets/a.cnet":3:4)
    %d = "cnet.relu_grad"(%y, %g) {transposes = "relu %y"} : (tensor<64x9xf32>, tensor<64x9xf32>) -> tensor<64x9xf32>
    func.return %y, %d : tensor<64x9xf32>, tensor<64x9xf32>
  }
}
"""


def test_reading_form() -> None:
    assert (
        print_module(parse_module(BACKWARD), READING)
        == """\
!t64x9 = tensor<64x9xf32>
module @m {
  func.func @f(%x: !t64x9, %g: !t64x9) -> (!t64x9, !t64x9) {
    %y = "cnet.relu"(%x) : (!t64x9) -> !t64x9  // a.cnet:3  2.2 KiB
    // ---- backward ----
    %d = "cnet.relu_grad"(%y, %g) {transposes = "relu %y"} : (!t64x9, !t64x9) -> !t64x9  // 2.2 KiB
    func.return %y, %d : !t64x9, !t64x9
  }
}
"""
    )


@pytest.mark.parametrize("net", ["thread", "nets/inception", "nets/two_tower", "nets/two_task", "nets/siamese"])
def test_reading_form_holds_the_same_module(net: str) -> None:
    module = joint(f"examples/{net}.cnet")
    text = dump_text(module)
    assert print_module(load_dump(text, "x.mlir"), PLAIN) == print_module(module, PLAIN)
    assert max(map(len, text.splitlines())) < 110


@pytest.mark.parametrize(
    ("bytes_", "text"), [((10,), "40 B"), ((96, 10), "3.8 KiB"), ((64, 128), "32 KiB"), ((512, 1024), "2 MiB")]
)
def test_bytes_are_for_people(bytes_: tuple[int, ...], text: str) -> None:
    func = FuncOp("f")
    func.body.append(Operation("cnet.x", (), [TensorType(bytes_)], result_names=["x"]))
    func.body.append(Operation("func.return"))
    assert print_module(Module("m", [func]), READING).splitlines()[2].endswith(f"// {text}")


def joint(path: str) -> Module:
    module, _ = load_file(ROOT / path)
    InsertSplits().run(module)
    DeriveBackward().run(module)
    return module


@pytest.mark.parametrize("level", ["01-split", "02-joint"])
def test_dumps_of_the_thread(level: str, pinned_file: Callable[[Path, str], None]) -> None:
    module, _ = load_file(ROOT / "examples" / "thread.cnet")
    InsertSplits().run(module)
    if level == "02-joint":
        DeriveBackward().run(module)
    text = dump_text(module, SHORT)
    pinned_file(DUMPS / f"thread.{level}.mlir", text)
    assert max(map(len, text.splitlines())) < 110
    # One slide each.
    assert len(text.splitlines()) <= {"01-split": 40, "02-joint": 58}[level]


@pytest.mark.parametrize(("level", "lines"), [("split", 40), ("joint", 58), ("optimized", 58)])
def test_levels_of_the_compiled_thread_fit_one_slide(level: str, lines: int) -> None:
    path = ROOT / "examples" / "thread.cnet"
    text = compile_net(path.read_text(encoding="utf-8"), str(path)).phase("train").dump(level)
    assert len(text.splitlines()) <= lines
    assert max(map(len, text.splitlines())) < 110


def test_printing_twice_gives_the_same_bytes() -> None:
    assert dump_text(joint("examples/thread.cnet")) == dump_text(joint("examples/thread.cnet"))


# -- random modules ----------------------------------------------------------------------------------------------------

dtypes = st.sampled_from(["f32", "f64", "i32", "i64", "i1", "i8"])
extents = st.integers(0, 5)
tensors = st.builds(TensorType, st.lists(extents, max_size=4).map(tuple), dtypes)


@st.composite
def memrefs(draw: st.DrawFn) -> MemRefType:
    shape = tuple(draw(st.lists(st.none() | extents, max_size=3)))
    if not draw(st.booleans()):
        return MemRefType(shape, draw(dtypes))
    strides = tuple(draw(st.none() | st.integers(-9, 99)) for _ in shape)
    return MemRefType(shape, draw(dtypes), strides, draw(st.none() | st.integers(0, 99)))


types = tensors | memrefs() | dtypes.map(ScalarType) | st.just(INDEX)
names = st.sampled_from(["", "x", "x.1", "h", "7", "0", "a-b", "$p", "Z_9.grad.use1", "über", "1x1", "a/b"])
texts_ = st.text(st.characters(codec="utf-8"), max_size=8)
leaves: Any = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | texts_
    | types
    | st.builds(SymbolRef, st.sampled_from(["f", "k0.relu", "a b"]))
)
keys = st.sampled_from(["axis", "cnet.kind", "transposes", "a b", "größe", "true"])
attributes_ = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=6,
)
locs = st.none() | st.builds(Loc, texts_, st.integers(1, 10**6), st.integers(1, 500))


@st.composite
def blocks(draw: st.DrawFn, depth: int, visible: list[Value], args: Sequence[Type]) -> Block:
    block = Block(args, [draw(names) for _ in args])
    visible = visible + block.args
    for _ in range(draw(st.integers(0, 4))):
        operands = draw(st.lists(st.sampled_from(visible), max_size=3)) if visible else []
        regions = []
        if depth and draw(st.booleans()):
            regions = [Region([draw(blocks(depth - 1, visible, draw(st.lists(types, max_size=2))))])]
        results = draw(st.lists(types, max_size=2))
        op = Operation(
            draw(st.sampled_from(["cnet.x", "cnet.slice", "my.op_2"])),
            operands,
            results,
            draw(st.dictionaries(keys, attributes_, max_size=3)),
            regions,
            draw(locs),
            [draw(names) for _ in results],
        )
        block.append(op)
        visible = visible + op.results
    return block


@st.composite
def modules(draw: st.DrawFn) -> Module:
    module = Module(
        draw(st.sampled_from(["", "net", "a b"])), attributes=draw(st.dictionaries(keys, attributes_, max_size=2))
    )
    for k in range(draw(st.integers(0, 2))):
        block = draw(blocks(2, [], draw(st.lists(types, max_size=3))))
        func = FuncOp(f"f{k}", loc=draw(locs), private=draw(st.booleans()))
        func.regions = []
        func.add_region(Region([block]))
        for arg in block.args:
            arg.attrs = draw(st.dictionaries(keys, attributes_, max_size=2))
        returned = draw(st.lists(st.sampled_from(block.args), max_size=2)) if block.args else []
        block.append(Operation("func.return", returned, loc=draw(locs)))
        func.result_attrs = [draw(st.dictionaries(keys, attributes_, max_size=2)) for _ in returned]
        module.add(func)
    return module


def same(a: Any, b: Any) -> bool:
    """Equality of attributes in which NaN is NaN and True is not 1."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return type(a) is type(b) and a == b


def assert_same_operation(a: Operation, b: Operation) -> None:
    assert (a.name, a.loc) == (b.name, b.loc)
    assert same(a.attributes, b.attributes), (a.attributes, b.attributes)
    assert [v.type for v in (*a.operands, *a.results)] == [v.type for v in (*b.operands, *b.results)]
    assert len(a.regions) == len(b.regions)
    for left, right in zip(a.regions, b.regions, strict=True):
        for one, two in zip(left.blocks, right.blocks, strict=True):
            assert [v.type for v in one.args] == [v.type for v in two.args]
            for x, y in zip(one.ops, two.ops, strict=True):
                assert_same_operation(x, y)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(modules())
def test_random_modules_come_back(module: Module) -> None:
    machine = print_module(module, MACHINE)
    back = parse_module(machine)
    assert print_module(back, MACHINE) == machine
    for a, b in zip(module.functions, back.functions, strict=True):
        assert (a.sym_name, a.private, a.loc) == (b.sym_name, b.private, b.loc)
        assert_same_operation(a, b)
    plain = print_module(module, PLAIN)
    assert print_module(parse_module(plain), PLAIN) == plain


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(modules())
def test_random_modules_in_reading_form(module: Module) -> None:
    back = parse_module(print_module(module, READING))
    assert print_module(back, PLAIN) == print_module(module, PLAIN)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.floats() | st.floats(width=32), st.sampled_from(["f32", "f64"]))
def test_float_constants_come_back(value: float, type: str) -> None:
    if type == "f32":
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
    func = FuncOp("f")
    func.body.append(Operation("arith.constant", (), [ScalarType(type)], {"value": value}, result_names=["c"]))
    func.body.append(Operation("func.return"))
    back = parse_module(print_module(Module("m", [func]), PLAIN)).main.ops[0]
    assert same(back.attributes["value"], value)
    assert back.result.type == ScalarType(type)


def test_true_is_written_alone_only_where_mlir_takes_it() -> None:
    func = FuncOp("f", [I1], ["t"])
    func.body.append(Operation("cnet.x", (), (), {"a": True, "b": False}))
    func.body.append(Operation("scf.if", [func.args[0]], (), {"cnet.a": True}, [Region([Block()])]))
    func.regions[0].block.ops[-1].regions[0].block.append(Operation("scf.yield"))
    func.body.append(Operation("func.return"))
    text = print_module(Module("m", [func]), PLAIN)
    assert '"cnet.x"() {a, b = false}' in text
    assert "} {cnet.a = true}" in text


def test_functions_alone_are_a_module() -> None:
    """As in MLIR; aliases may stand before them."""
    functions = "func.func @f(%x: !t) -> !t { func.return %x : !t } func.func private @g()"
    alone = parse_module("!t = tensor<4xf32> " + functions)
    inside = parse_module("!t = tensor<4xf32> module { " + functions + " }")
    assert alone.sym_name == "" and [f.sym_name for f in alone.functions] == ["f", "g"]
    assert print_module(alone) == print_module(inside)
