"""What the constructs of the language mean: the graph that they become, names of values, arguments and results."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from concatc.diagnostics import ConcatcError, UsageError
from concatc.frontend.cnet import load, load_file
from concatc.ir.printer import print_module
from tests.language_nets import ROOT, body, main, op, ops, params

EXAMPLES = sorted((ROOT / "examples").rglob("*.cnet"))
TINY = {
    "thread": {"x": 3, "y": 2, "features": 4, "hidden": 5, "classes": 3},
    "joined": {"x": 3, "y": 2, "features": 4, "hidden": 5, "classes": 3},
    "separate": {"x": 3, "y": 2, "features": 4, "hidden": 5, "classes": 3},
    "twice": {"x": 3, "features": 4, "hidden": 5, "classes": 3},
    "once": {"x": 3, "features": 4, "hidden": 5, "classes": 3},
    "densenet40": {"n": 2, "growth": 2, "depth": 2, "stem": 3, "size": 8, "classes": 3},
    "densenet_bc100": {"n": 2, "growth": 2, "depth": 2, "size": 8, "classes": 3},
    "densenet121": {"n": 2, "growth": 2, "depth": 1, "size": 32, "classes": 3},
    "googlenet": {"n": 1, "size": 80, "width": 8, "classes": 3},
    "growing": {"n": 1, "layers": 2, "growth": 2, "channels": 3, "size": 4},
    "inception_net": {"n": 2, "size": 6, "width": 1, "classes": 3},
    "residual": {"n": 2, "size": 8, "width": 2, "depth": 1, "classes": 3},
    "squeezenet": {"n": 1, "size": 33, "width": 4, "classes": 3},
    "unet": {"n": 1, "width": 2, "levels": 2, "size": 4},
    "siamese": {"n": 2, "size": 16, "width": 1},
    "two_tower": {"n": 3, "users": 7, "items": 6, "genres": 5, "tags": 2, "dim": 2},
    "two_task": {"n": 2, "d": 3, "width": 4},
}
# Nets whose depth is a dim.
DEEP = ("densenet40", "densenet_bc100", "densenet121", "growing", "residual", "unet")


def names_of_nets(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("net ").partition("(")[0] for line in lines if line.startswith("net ")]


NETS = [(path, net) for path in EXAMPLES for net in names_of_nets(path) if net in TINY]


# -- the function ------------------------------------------------------------------------------------------------------
def test_thread() -> None:
    module, warnings = load_file(ROOT / "examples" / "thread.cnet")
    function = module.main
    assert warnings == []
    assert function.sym_name == "thread" and function.attributes["cnet.net"] == "thread"
    dims = {"x": 64, "y": 32, "features": 64, "hidden": 128, "classes": 10}
    assert function.attributes["cnet.dims"] == dims
    assert list(function.arguments("input")) == ["a", "b", "label"]
    assert function.arguments("input")["a"].attrs["cnet.dims"] == ("x", "features")
    assert function.arguments("input")["label"].attrs["cnet.dims"] == ("",)
    assert list(function.arguments("param")) == [
        "ha.weight", "ha.bias", "hb.weight", "hb.bias", "logits.weight", "logits.bias",
    ]  # fmt: skip
    assert [a.attrs["cnet.kind"] for a in function.args] == ["input"] * 3 + ["param"] * 6 + ["loss_weights"]
    assert [a.index for a in function.args] == list(range(10))
    assert [(a["cnet.kind"], a["cnet.name"]) for a in function.result_attrs] == [
        ("output", "logits"),
        ("loss", "softmax_loss"),
        ("total", "loss"),
    ]
    made = [op.results[0].name for op in function.ops[:-1]]
    assert made == [
        "ha.linear", "ha.bias.2", "ha", "hb.linear", "hb.bias.2", "hb", "h", "logits.linear", "logits",
        "softmax_loss", "loss",
    ]  # fmt: skip
    concat = op(function, "concat")
    assert concat.loc is not None
    assert (concat.loc.line, concat.loc.column, concat.loc.end_column) == (10, 9, 31)
    relu = function.ops[2]
    assert relu.loc is not None and (relu.loc.line, relu.loc.column, relu.loc.end_column) == (8, 33, 37)


@pytest.mark.parametrize("path, net", NETS, ids=[net for _, net in NETS])
@pytest.mark.parametrize("phase", ["train", "infer"])
def test_examples_at_any_size(path: Path, net: str, phase: str) -> None:
    full = load_file(path, net=net, phase=phase)[0].main  # type: ignore[arg-type]
    tiny = load_file(path, net=net, phase=phase, dims=TINY[net])[0].main  # type: ignore[arg-type]
    if net not in DEEP:
        assert list(tiny.arguments("param")) == list(full.arguments("param"))
        assert ops(tiny) == ops(full)
    wide = load_file(path, net=net, dims=TINY[net], dtype="f64")[0].main
    assert not [a.name for a in wide.args if a.dtype == "f32"]


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "language").glob("*.cnet")), ids=lambda p: p.stem)
@pytest.mark.parametrize("phase", ["train", "infer"])
def test_further_programs(path: Path, phase: str) -> None:
    text = path.read_text(encoding="utf-8")
    function = load(text, path.name, phase=phase, keep=["h"] if path.stem != "attention" else [])[0].main  # type: ignore[arg-type]
    assert all(value.name for operation in function.ops for value in operation.results)
    # Every value has a name of its own, so the printer need not invent any.
    names = [v.name for v in function.args] + [v.name for operation in function.ops for v in operation.results]
    assert len(set(names)) == len(names)


def test_elaboration_is_deterministic() -> None:
    path = ROOT / "examples" / "nets" / "densenet40.cnet"
    assert print_module(load_file(path)[0]) == print_module(load_file(path)[0])


def test_both_phases_of_densenet_take_less_than_a_second() -> None:
    path = ROOT / "examples" / "nets" / "densenet40.cnet"
    load_file(path, dims={"depth": 1})  # imports and the parser's tables are paid once a process
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        load_file(path, phase="train")
        load_file(path, phase="infer")
        best = min(best, time.perf_counter() - start)
    assert best < 1.0


def test_several_nets_need_a_choice() -> None:
    path = ROOT / "examples" / "two_losses.cnet"
    with pytest.raises(UsageError, match=r"holds 2 nets: `joined`, `separate`\n.*--net NAME"):
        load_file(path)
    with pytest.raises(UsageError, match="did you mean `joined`"):
        load_file(path, net="joind")
    assert load_file(path, net="separate")[0].main.sym_name == "separate"


def test_dims_that_the_net_does_not_have() -> None:
    with pytest.raises(UsageError, match=r"(?s)no dim `width`.*no dim `nn`.*did you mean `n`"):
        main(body("    output x"), dims={"width": 3, "nn": 4})


def test_dims_are_numbers_of_any_kind() -> None:
    source = body("    output x * rate as y\n    if deep { output relu(x) as z }", head="n = 2, rate = 1, deep = false")
    function = main(source, dims={"rate": 0.1, "deep": True})
    assert op(function, "mul_scalar").attributes["value"] == 0.1
    assert list(function.returned("output")) == ["y", "z"]


# -- blocks, layers, imports -------------------------------------------------------------------------------------------
def test_a_layer_of_a_block_shares_all_its_parameters() -> None:
    source = body(
        "    layer tower = mlp(widths=[5, 3])\n    a = tower(x)\n    b = tower(a + 0 * a)\n    output a; output b",
        inputs="input x: f32[n, 3]",
        before="block mlp(x, widths) { for l, w in enumerate(widths) { x = x |> linear(w) |> relu }\n return x }",
    )
    assert [p for p in params(source) if p.endswith("weight")] == ["tower.l0.linear.weight", "tower.l1.linear.weight"]


def test_a_layer_is_a_value() -> None:
    source = body(
        "    layer enc = linear(4)\n    h = apply(x, enc)\n    g = apply(h, enc)\n    output g",
        before="block apply(x, f) { return relu(f(x)) }",
    )
    assert params(source) == ["enc.weight", "enc.bias"]


def test_arguments_of_blocks() -> None:
    source = body(
        "    output unit(x, 3, k=2) as a\n    output x |> unit(c=5) as b",
        before="block unit(x, c, k = c + 1) { return concat([x] + [linear(x, c)] , axis=1) |> linear(k) }",
    )
    shapes = [value.shape for value in main(source).returned("output").values()]
    assert shapes == [(2, 2), (2, 6)]


def test_a_block_returns_several_blobs() -> None:
    source = body(
        "    a, b = both(x)\n    c = both(a)\n    output a; output b; output c[1] as d",
        before="block both(x) { return relu(x), tanh(x) }",
    )
    assert [v.name for v in main(source).returned("output").values()] == ["a", "b", "c.1"]


def test_a_block_returns_early() -> None:
    source = body(
        "    output unit(x, 1) as a\n    output unit(x, 2) as b",
        before="""
block unit(x, k) {
    if k == 1 { return relu(x) }
    for i in 0..5 { if i == k { return tanh(x) } }
    return x
}""",
    )
    assert ops(main(source)) == ["relu", "tanh", "func.return"]


def test_imports(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "base.cnet").write_text(
        "default linear(bias=false)\nblock fc(x, c) { return linear(x, c) @fc }\n"
    )
    (tmp_path / "lib" / "units.cnet").write_text(
        'import "base.cnet" as base\nblock unit(x, c) { return base.fc(x, c) |> relu }\n'
        "net unused(n = 1) { input x: f32[n]; output x }\n"
    )
    path = tmp_path / "net.cnet"
    path.write_text(
        'import "lib/units.cnet"\nimport "lib/base.cnet" as b\n'
        "net f(n = 2) {\n    input x: f32[n, 4]\n    h = x |> unit(3) |> b.fc(5) |> linear(2)\n    output h\n}\n"
    )
    function = load_file(path)[0].main
    assert list(function.arguments("param")) == [
        "h.unit.fc.fc.weight", "h.fc.fc.weight", "h.linear.weight", "h.linear.bias",
    ]  # fmt: skip
    assert str(function.ops[0].loc).endswith("lib/base.cnet:2:25")


# -- numbers, lists, conditions ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "expression, size",
    [
        ("7 // 2", 3), ("-7 // 2 + 5", 1), ("7 % 3", 1), ("2 ^ 3 ^ 1", 8), ("(1 / 3) * 6", 2), ("0.1 * 30", 3),
        ("1e1 / 2", 5), ("16 ^ 0.5", 4), ("64 ^ -0.5 * 8", 1), ("-2 ^ 2 + 7", 3), ("3 if 2 > 1 else 4", 3),
        ("3 if not (2 > 1 and false) else 4", 3), ("3 if false or 1 != 1 else 4", 4), ("len([1, [2, 3]])", 2),
        ("[1, 2, 3][-1]", 3), ("(4..9)[2]", 6), ("len(4..9)", 5), ("len(9..4) + 1", 1), ("reversed([1, 5])[0]", 5),
        ("size(x, 1) + channels(x) + rank(x)", 10), ("max(2, 3) + min(4, 5)", 7), ('5 if "a" == "a" else 6', 5),
        ("[1, 2] == [1, 2] and 1 or 2", None), ("2 if train == true else 3", 2),
    ],
)  # fmt: skip
def test_numbers(expression: str, size: int | None) -> None:
    source = body(f"    output linear(x, {expression}) as y")
    if size is None:
        with pytest.raises(ConcatcError):
            main(source)
        return
    assert main(source).returned("output")["y"].shape == (2, size)


def test_numbers_are_exact() -> None:
    # In floats 0.1 * 3 is not 0.3.
    assert main(body("    output linear(x, 7 if 0.1 * 3 == 0.3 else 8) as y")).returned("output")["y"].shape == (2, 7)


def test_lists_and_loops() -> None:
    source = body(
        """
    xs = []
    for i, w in enumerate([3, 5]) { xs += [linear(x, w)] }
    for y in reversed(xs) { last = y; xs += [relu(y)] }
    total = 0
    for k in 2..5 { total += k }
    output concat(xs, axis=1) as y
    output linear(x, total) as z"""
    )
    function = main(source)
    assert function.returned("output")["y"].shape == (2, 16)
    assert function.returned("output")["z"].shape == (2, 9)
    assert [v.name for v in op(function, "concat").operands] == ["xs.0", "xs.1", "xs.2", "xs.3"]


def test_a_name_of_a_loop_is_local_unless_bound_outside() -> None:
    assert ops(main(body("    for k in 0..2 { y = relu(x); x = y }\n    output x"))) == ["relu", "relu", "func.return"]
    with pytest.raises(ConcatcError, match="`y` has no value here"):
        main(body("    for k in 0..2 { y = relu(x) }\n    output y"))


def test_a_name_of_a_branch_is_not_local() -> None:
    source = body("    if train { y = relu(x) } else if n > 1 { y = tanh(x) } else { y = x }\n    output y")
    assert ops(main(source)) == ["relu", "func.return"]
    assert ops(main(source, phase="infer")) == ["tanh", "func.return"]
    assert ops(main(source, phase="infer", dims={"n": 1})) == ["func.return"]


def test_newlines() -> None:
    source = """
net f(
    n = 2,      # a comment
    m = 3,
) {
    input x: f32[n,
                 m]

    a = x       # before a pipe
        # between
        |> linear(
            4
        )
        |> relu
    b =
        a + a -
        a
    if n > 5 { b = a }
    # before else
    else { b = b * 2 }
    output b; output a
}
"""
    assert ops(main(source)) == ["linear", "bias", "relu", "add", "sub", "mul_scalar", "func.return"]


def test_words_that_are_names_elsewhere() -> None:
    source = body(
        "    weight = relu(x)\n    y = linear(x, 4, weight=eye)\n    loss mean(weight + y) weight 2",
        "input x: f32[n, 4]; input eye: f32[4, 4]",
    )
    assert ops(main(source))[:3] == ["relu", "linear", "bias"]


def test_a_word_ends_where_it_ends() -> None:
    assert ops(main(body("    inputs = relu(x)\n    format = inputs\n    iffy = format\n    output iffy"))) == [
        "relu",
        "func.return",
    ]
    for source in ("netf(n = 2) { }", "net f(n = 2) { input x: f32[n]; for i in0..2 { }; output x }"):
        with pytest.raises(ConcatcError):
            main(source)


# -- operators on blobs ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "expression, expected",
    [
        ("x + x", ["add"]), ("x - x", ["sub"]), ("x * x", ["mul"]), ("x / x", ["div"]), ("-x", ["neg"]),
        ("x + 1", ["add_scalar"]), ("1 + x", ["add_scalar"]), ("x - 1", ["add_scalar"]), ("1 - x", ["rsub_scalar"]),
        ("x * 2", ["mul_scalar"]), ("x / 2", ["mul_scalar"]), ("2 / x", ["rdiv_scalar"]), ("x ^ 2", ["square"]),
        ("x ^ 0.5", ["sqrt"]), ("x ^ 3", ["pow_scalar"]), ("max(x, x)", ["max"]), ("x * sum(x)", ["sum", "mul"]),
        ("x + x * x", ["mul", "add"]), ("(x + x) |> relu", ["add", "relu"]), ("[x, x] |> concat(axis=0)", ["concat"]),
        ("relu(x)", ["relu"]), ("x |> relu |> tanh", ["relu", "tanh"]), ("concat(x, [x, x], axis=0)", ["concat"]),
        ("x * iota(2)", None), ("x // 2", None), ("2 ^ x", None), ("x % 2", None), ("x + true", None),
    ],
)  # fmt: skip
def test_operators_on_blobs(expression: str, expected: list[str] | None) -> None:
    source = body(f"    output {expression} as y")
    if expected is None:
        with pytest.raises(ConcatcError):
            main(source)
        return
    assert ops(main(source))[:-1] == expected


def test_a_residual_add() -> None:
    function = main(body("    x += x |> relu |> tanh\n    output x"))
    add = op(function, "add")
    assert [v.name for v in add.operands] == ["x", "x.2.tanh"] and add.result.name == "x.2"


def test_axes_of_size_one_are_repeated() -> None:
    source = body("    output x * y as z", inputs="input x: f32[n, 4]; input y: f32[n, 1]")
    assert main(source).returned("output")["z"].shape == (2, 4)


# -- results -----------------------------------------------------------------------------------------------------------
def test_losses_outputs_and_their_names() -> None:
    source = body(
        """
    loss mean(x)
    loss x |> relu |> mean weight 0.3
    loss mean(x) weight 1 / 4 as extra
    for k in 0..2 { loss mean(x * k) as part; output x + k as y }
    output x
    output relu(x) as r"""
    )
    function = main(source)
    assert list(function.returned("loss")) == ["mean", "mean2", "extra", "k0.part", "k1.part"]
    assert [a["cnet.weight"] for a in function.result_attrs if a["cnet.kind"] == "loss"] == [1.0, 0.3, 0.25, 1.0, 1.0]
    assert list(function.returned("output")) == ["k0.y", "k1.y", "x", "r"]
    assert function.args[-1].shape == (5,)
    assert op(function, "total_loss").operands[-1] is function.args[-1]


def test_names_of_losses_do_not_depend_on_the_phase_or_dims() -> None:
    source = body("    if n > 2 { loss mean(x) }\n    loss mean(x)\n    loss mean(x)")
    assert list(main(source).returned("loss")) == ["mean2", "mean3"]


def test_a_loss_of_one_element_becomes_a_number() -> None:
    assert main(body("    loss linear(x, 1) as l", head="n = 1")).returned("loss")["l"].shape == ()


def test_inference_needs_only_what_its_outputs_reach() -> None:
    function = load_file(ROOT / "examples" / "thread.cnet", phase="infer")[0].main
    assert list(function.arguments("input")) == ["a", "b"]
    assert not function.returned("loss") and not function.arguments("loss_weights")
    source = body(
        "    y = linear(x, 3) @aux\n    loss softmax_loss(y, label)\n    output x",
        "input x: f32[n, 4]; input label: i32[n]",
    )
    assert [a.name for a in main(source, phase="infer").args] == ["x"]


def test_keep() -> None:
    source = body(
        "    h = relu(x)\n    h = tanh(h)\n    for k in 0..2 { g = unit(h) }\n    xs = [h]\n    output h as y",
        before="block unit(x) { y = relu(x) + 1; return -y }",
    )
    function = main(source, keep=["h", "k1.g", "h.2", "x"])
    kept = function.returned("kept")
    assert [v.name for v in kept.values()] == ["h.2", "g.2", "h.2", "x"]
    with pytest.raises(UsageError, match="no blob `hh`\nhelp: did you mean `h`"):
        main(source, keep=["hh"])
    with pytest.raises(UsageError, match="`xs` is a list of 1, not a blob"):
        main(source, keep=["xs"])


def test_warnings() -> None:
    module, warnings = load(body("    output x", "input x: f32[n]; input spare: i32[n]"), "f.cnet")
    assert [w.render() for w in warnings] == ["f.cnet:3:28: warning: input `spare` is not used"]
    assert list(module.main.arguments("input")) == ["x", "spare"]


def test_all_errors_at_once_with_their_sources() -> None:
    with pytest.raises(ConcatcError) as caught:
        main(body("    a = relux(x)\n    b = linear(x)\n    output c"))
    assert [d.loc.line for d in caught.value.diagnostics if d.loc] == [4, 5, 6]
    assert "f.cnet" in caught.value.sources
