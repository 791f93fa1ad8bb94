"""The pattern rewriter, the pass manager, and pipelines as text."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from concatc.diagnostics import ConcatcError, UsageError
from concatc.ir.core import FuncOp, Module, Operation
from concatc.ir.parser import parse_module
from concatc.ir.passes import PassManager
from concatc.ir.printer import PLAIN
from concatc.ir.rewrite import Pattern, Rewriter, apply_patterns
from concatc.ir.types import F32
from concatc.ir.verifier import verify
from concatc.passes.registry import load_all_passes, parse_pipeline
from concatc.passes.verify import verify as verify_ops
from tests.ir_text import dedent, short_text

CHAIN = """
func.func @f(%x: f32) -> f32 {
  %a = "t.inc"(%x) : (f32) -> f32
  %b = "t.inc"(%a) : (f32) -> f32
  %c = "t.inc"(%b) : (f32) -> f32
  func.return %c : f32
}
"""


def parse(text: str) -> Module:
    return parse_module("module @m {" + text + "}")


class Pair(Pattern):
    """``inc(inc(x)) -> add(x, two)``"""

    roots = ("t.inc",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        inner = rw.maker(op.operands[0])
        if inner is None or inner.name != "t.inc":
            return False
        two = rw.create(op, "t.two", [], [F32], result_names=["two"])
        made = rw.create(op, "t.add", [inner.operands[0], two.result], [F32])
        rw.replace(op, made.results)
        return True


class Forever(Pattern):
    """``inc(x) -> inc(x)``: undoes itself"""

    roots = ("t.inc",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        rw.replace(op, rw.create(op, "t.inc", op.operands, [F32]).results)
        return True


class Expand(Pattern):
    """``two() -> add(one(), one())``: what a pattern makes is rewritten too"""

    roots = ("t.two",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        ones = [rw.create(op, "t.one", [], [F32], result_names=["one"]).result for _ in range(2)]
        rw.replace(op, rw.create(op, "t.add", ones, [F32]).results)
        return True


def pure(op: Operation) -> bool:
    return op.name != "func.return"


def test_rewrite() -> None:
    module = parse(CHAIN)
    assert apply_patterns(module.main, [Pair()], removable=pure) == 1
    verify(module)
    assert short_text(module.main.body) == dedent("""
        %two = t.two()
        %b = t.add(%x, %two)
        %c = t.inc(%b)
        return(%c)
        """)


def test_made_operations_are_visited_and_stand_in_order() -> None:
    module = parse(CHAIN)
    apply_patterns(module.main, [Pair(), Expand()], removable=pure)
    verify(module)
    assert short_text(module.main.body) == dedent("""
        %one = t.one()
        %one = t.one()
        %two = t.add(%one, %one)
        %b = t.add(%x, %two)
        %c = t.inc(%b)
        return(%c)
        """)


def test_without_leave_nothing_dead_is_removed() -> None:
    module = parse(CHAIN)
    apply_patterns(module.main, [Pair()])
    assert [op.name for op in module.main.ops].count("t.inc") == 2
    verify(module)


def test_opaque_values_keep_makers_and_readers() -> None:
    module = parse(CHAIN)
    a, b = (op.result for op in module.main.ops[:2])
    assert apply_patterns(module.main, [Pair()], removable=pure, opaque=[b]) == 0
    assert apply_patterns(module.main, [Pair()], removable=pure, opaque=[a]) == 1
    assert short_text(module.main.body) == dedent("""
        %a = t.inc(%x)
        %two = t.two()
        %c = t.add(%a, %two)
        return(%c)
        """)


def test_patterns_that_do_not_end() -> None:
    with pytest.raises(ConcatcError, match="rewriting @f does not end; the last pattern is Forever"):
        apply_patterns(parse(CHAIN).main, [Forever()])


def test_a_long_chain_takes_linear_time() -> None:
    func = FuncOp("f", [F32], ["x"])
    value = func.args[0]
    for _ in range(20_000):
        value = func.body.append(Operation("t.inc", [value], [F32])).result
    func.body.append(Operation("func.return", [value]))
    assert apply_patterns(func, [Pair()], removable=pure) == 10_000
    assert [op.name for op in func.ops[:2]] == ["t.two", "t.add"]


def test_types_may_not_change() -> None:
    module = parse('func.func @f(%x: f32, %n: index) -> f32 { %a = "t.inc"(%x) : (f32) -> f32 func.return %a : f32 }')
    with pytest.raises(AssertionError, match="f32 is replaced by index"):
        Rewriter(module.main).replace(module.main.ops[0], [module.main.args[1]])


def test_every_pattern_states_its_equation() -> None:
    def subclasses(cls: type[Pattern]) -> list[type[Pattern]]:
        return [sub for direct in cls.__subclasses__() for sub in (direct, *subclasses(direct))]

    load_all_passes()
    ours = [cls for cls in subclasses(Pattern) if cls.__module__.startswith("concatc.")]
    assert len(ours) > 15
    for cls in ours:
        assert "->" in (cls.__doc__ or ""), f"{cls.__name__} has no equation"


# -- the pass manager --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rename:
    to: str = "relu"

    name = "rename"

    def run(self, module: Module) -> None:
        module.main.ops[0].name = f"cnet.{self.to}"


@dataclass(frozen=True)
class Nothing:
    name = "nothing"

    def run(self, module: Module) -> None:
        pass


TANH = """
func.func @f(%x: tensor<3xf32>) -> tensor<3xf32> {
  %y = "cnet.tanh"(%x) : (tensor<3xf32>) -> tensor<3xf32>
  func.return %y : tensor<3xf32>
}
"""


def test_print_after() -> None:
    written: list[str] = []
    manager = PassManager([Nothing(), Rename()], print_after=["rename"], style=PLAIN, write=written.append)
    manager.run(parse(TANH))
    assert "".join(written).startswith("// after rename\nmodule @m {\n")
    assert '"cnet.relu"' in written[0]


def test_print_after_all_shows_differences() -> None:
    written: list[str] = []
    PassManager([Nothing(), Rename()], print_after_all=True, style=PLAIN, write=written.append).run(parse(TANH))
    assert "".join(written) == (
        "// nothing changes nothing\n"
        "--- before\n"
        "+++ after rename\n"
        "@@ -2,3 +2,3 @@\n"
        "   func.func @f(%x: tensor<3xf32>) -> tensor<3xf32> {\n"
        '-    %y = "cnet.tanh"(%x) : (tensor<3xf32>) -> tensor<3xf32>\n'
        '+    %y = "cnet.relu"(%x) : (tensor<3xf32>) -> tensor<3xf32>\n'
        "     func.return %y : tensor<3xf32>\n"
    )


def test_verify_each_names_the_pass() -> None:
    manager = PassManager([Rename("rellu"), Nothing()], verify=verify_ops, verify_each=True)
    with pytest.raises(ConcatcError) as error:
        manager.run(parse(TANH))
    assert [d.message for d in error.value.diagnostics] == [
        "the IR is broken after rename",
        "unknown op cnet.rellu; did you mean `relu`?",
    ]


def test_unknown_pass_to_print_after() -> None:
    with pytest.raises(
        UsageError, match=re.escape("there is no pass `renam` in this pipeline\nhelp: did you mean `rename`?")
    ):
        PassManager([Rename()], print_after=["renam"]).run(parse(TANH))


def test_time_passes() -> None:
    written: list[str] = []
    manager = PassManager([Nothing(), Rename()], time_passes=True, write=written.append)
    manager.run(parse(TANH))
    assert [t.name for t in manager.timings] == ["nothing", "rename"]
    rows = written[0].splitlines()
    assert [row.split()[0] for row in rows] == ["nothing", "rename", "total"]
    assert all(re.fullmatch(r"\w+ +\d+\.\d\d ms +\d+\.\d %", row) for row in rows)


# -- pipelines as text -------------------------------------------------------------------------------------------------


def test_pipeline() -> None:
    passes = parse_pipeline(
        "insert-splits, fuse{max_ops=8, prologues=true},derive-backward{freeze=[a.w b.w],input_grads=x}"
    )
    assert [repr(p).partition("(")[0] for p in passes] == ["InsertSplits", "Fuse", "DeriveBackward"]
    assert (passes[1].max_ops, passes[1].prologues) == (8, True)  # type: ignore[attr-defined]
    assert (passes[2].freeze, passes[2].input_grads) == (("a.w", "b.w"), ("x",))  # type: ignore[attr-defined]
    assert parse_pipeline("") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inser-splits", "there is no pass `inser-splits`\nhelp: did you mean `insert-splits`?"),
        ("fuse{max_op=8}", "fuse has no option `max_op`\nhelp: did you mean `max_ops`?"),
        ("cse{x=8}", "cse has no option `x`\nhelp: it has no options"),
        ("fuse{max_ops=many}", "fuse: `max_ops` must be an integer, not 'many'"),
        ("fuse{max_ops=0}", "fuse: `max_ops` must be 1 or more, not 0"),
        ("fuse{max_nodes=-1}", "fuse: `max_nodes` must be 1 or more, not -1"),
        ("choose-recompute{parts=-2}", "choose-recompute: `parts` must be 0 or more, not -2"),
        ("fuse{max_ops}", "fuse: expected an option such as `max_ops=1`, found `max_ops`"),
        ("fuse dce", "expected passes such as `insert-splits,dce`, found `fuse dce`"),
        ("Fuse", "expected passes such as `insert-splits,dce`, found `Fuse`"),
    ],
)
def test_errors_of_pipelines(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_pipeline(text)
    assert str(error.value) == f"error: {message}"


def test_passes_are_listed_where_none_has_a_near_name() -> None:
    with pytest.raises(UsageError) as error:
        parse_pipeline("foo")
    assert str(error.value) == f"error: there is no pass `foo`\nhelp: passes are {', '.join(load_all_passes())}"


def test_passes_are_found_by_name() -> None:
    passes = load_all_passes()
    assert {"insert-splits", "derive-backward", "canonicalize", "concat-algebra", "cse", "dce", "fuse"} <= set(passes)
    assert list(passes) == sorted(passes)
    for name, cls in passes.items():
        spelled = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()
        assert spelled == name, "one concept, one spelling"
