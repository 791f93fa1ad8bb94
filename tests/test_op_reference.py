"""The op reference is made from the ops, and ``docs/OPS.md`` is what it makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from concatc.frontend.cnet import load
from concatc.inspect.op_reference import main, markdown, page, reference, signature
from concatc.op import load_all_ops

OPS = load_all_ops()
DOCS = Path(__file__).parents[1] / "docs" / "OPS.md"


def test_docs_are_current() -> None:
    assert DOCS.read_text(encoding="utf-8") == reference(), "run `python -m concatc.inspect.op_reference`"


def test_every_op_has_a_page_once(tmp_path: Path) -> None:
    main([str(tmp_path / "ops.md")])
    text = (tmp_path / "ops.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == list(OPS)
    for name in OPS:
        assert f"[{name}](#{name})" in text


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("conv", "conv(x, channels, kernel=..., stride=1, pad=0, dilation=1, groups=1)"),
        ("max_pool", "max_pool(x, kernel, stride=none, pad=0, ceil=false)"),
        ("matmul", "matmul(a, b, transpose_a=false, transpose_b=false)"),
        ("concat", "concat(xs, .., axis=1)"),
        ("embedding", "embedding(index, vocab, dim=...)"),
        ("batch_norm", "batch_norm(x, eps=1e-05, momentum=0.1)"),
        ("embedding_grad", "cnet.embedding_grad(index, dy, vocab=...)"),
    ],
)
def test_signatures(name: str, called: str) -> None:
    assert signature(OPS[name]) == called


def test_a_page() -> None:
    text = page(OPS["upsample"])
    assert text.startswith("## upsample\n\n```\nupsample(x, factor)\n```\n\n`y[n, c, i, j] = x[n, c, i // factor")
    assert "| `factor` | an integer or a list of 2 | required |" in text
    assert "Parameters: `weight`, `bias`." in page(OPS["conv"])


@pytest.mark.parametrize("name", [name for name, cls in OPS.items() if not cls.internal])
def test_examples_compile_and_call_their_op(name: str) -> None:
    example = OPS[name].example
    inputs = "image: f32[n, 3, 32, 32]; q: f32[n, 20, 16]; k: f32[n, 20, 16]; x: f32[n, 16]; y: f32[n, 16]"
    inputs += "; logits: f32[n, 10]; same: f32[n]; label: i32[n]; words: i32[n, 20]"
    declared = "\n".join(f"input {declaration}" for declaration in inputs.split("; "))
    load(f"net f(n = 2) {{\n{declared}\n{example}\noutput x\n}}", "example.cnet")
    assert re.search(rf"\b{name}\b", example)
    assert f"```\n{example}\n```" in page(OPS[name])


@pytest.mark.parametrize("name", OPS)
def test_pages_hold_no_formatting_of_python(name: str) -> None:
    text = markdown(OPS[name].__doc__ or "")
    assert ":class:" not in text and ":meth:" not in text and ":func:" not in text
    assert text.count("`") % 2 == 0, "an open backquote"
