"""Every example of docs/LANGUAGE.md compiles, and every construct of the grammar has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from concatc.frontend.cnet import load
from concatc.frontend.cnet.build_ast import RESERVED
from concatc.frontend.cnet.limits import CALL_DEPTH, NESTING, OPS, RANK, STEPS
from concatc.frontend.cnet.parser import parse, parse_tree
from concatc.frontend.source import SOURCE_BYTES

TEXT = (Path(__file__).parent.parent / "docs" / "LANGUAGE.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```cnet\n(.*?)^```$", TEXT, re.M | re.S)
FRAME, *_ = EXAMPLES
PLACE = "    # the example stands here\n"


def whole(example: str) -> str:
    """The example as a whole file: in the net at the head of the page, or with a net of its own."""
    if re.search(r"^net ", example, re.M):
        return example
    if re.match(r"(#.*\n)*(block|default|import) ", example):
        return example + "net own(n = 1) {\n    input x: f32[n]\n    output x as y\n}\n"
    return FRAME.replace(PLACE, "".join(f"    {line}\n" for line in example.splitlines()))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.splitlines()[0][:40])
@pytest.mark.parametrize("phase", ["train", "infer"])
def test_example(example: str, phase: str, tmp_path: Path) -> None:
    for other in EXAMPLES:
        if match := re.match(r"# (\w+\.cnet)\n", other):
            (tmp_path / match.group(1)).write_text(other)
    module, _ = load(whole(example), str(tmp_path / "doc.cnet"), phase=phase)  # type: ignore[arg-type]
    assert module.main.ops


def test_a_wrong_example_would_fail() -> None:
    with pytest.raises(Exception, match="there is no name `nothing`"):
        load(whole("h = relu(nothing)\n"), "doc.cnet")


def test_every_rule_of_the_grammar_has_an_example() -> None:
    used = {node.data for example in EXAMPLES for node in parse_tree(whole(example)).iter_subtrees()}
    grammar = (Path(__file__).parent.parent / "grammar" / "cnet.lark").read_text(encoding="utf-8")
    rules = set(re.findall(r"^\??([a-z][a-z_]*): ", grammar, re.M))
    inlined = {rule for rule in rules if re.search(rf"^\?{rule}: ", grammar, re.M)}
    assert rules - inlined - {"bad", "bad_item", "bad_expr"} <= used


def test_the_page_names_the_reserved_words_and_the_limits() -> None:
    words = re.search(r"These words cannot be names: (.*?)\.\n", TEXT, re.S)
    assert words is not None
    assert set(re.findall(r"`(\w+)`", words.group(1))) == RESERVED | {"train"}
    for limit in (SOURCE_BYTES // 1000, NESTING, STEPS, OPS, CALL_DEPTH, RANK):
        assert f"{limit:,}" in TEXT


def test_the_names_in_the_comments_of_the_page_are_true() -> None:
    (example,) = (e for e in EXAMPLES if "h is bound above" in e)
    function = load(whole(example), "doc.cnet")[0].main
    promised = re.findall(r"\b[\w.]+\.weight", example)
    assert [p for p in function.arguments("param") if p.endswith("weight")] == promised


def test_examples_are_found() -> None:
    assert len(EXAMPLES) > 25
    assert all(parse(whole(example), "doc.cnet")[1] == () for example in EXAMPLES)
