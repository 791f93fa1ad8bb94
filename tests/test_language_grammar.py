"""The grammar has no conflicts, and no text makes the front end raise anything but its own errors."""

from __future__ import annotations

import importlib.util
import logging
import re
from pathlib import Path

import lark
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concatc.diagnostics import ConcatcError
from concatc.frontend.cnet import load
from concatc.frontend.grammar import grammar_bytes

ROOT = Path(__file__).parent.parent
PATHS = [*sorted((ROOT / "examples").rglob("*.cnet")), *sorted((ROOT / "tests" / "language").glob("*.cnet"))]
SOURCES = [path.read_text(encoding="utf-8").replace("depth = 12", "depth = 2") for path in PATHS]
TOKENS = re.compile(r'"[^"\n]*"|#[^\n]*|\|>|\+=|\.\.|[A-Za-z_]\w*|\d+(?:\.\d+)?|\n|\s+|.')
EXTRA = (
    "true false train not and or else return param state update import reversed len size channels max min "
    "relu iota reshape matmul sum xavier() 0 -1 1e9 99999999999 @ % // { } ( ) [ ]"
)
WORDS = [
    *sorted({token for source in SOURCES for token in TOKENS.findall(source)}),
    *EXTRA.split(),
    *('"x', "''", "\x00", "\x0c", "\ufeff", "\u00e9", "\r"),
]


class _Postlex:
    always_accept = ("_NL",)

    def process(self, stream: object) -> object:
        return stream


def test_the_grammar_has_no_conflicts(caplog: pytest.LogCaptureFixture) -> None:
    # lark resolves a conflict silently unless it is asked: strict needs one more package, the log does not.
    strict = importlib.util.find_spec("interegular") is not None
    lark.logger.setLevel(logging.DEBUG)
    lark.logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.DEBUG):
            lark.Lark(
                grammar_bytes().decode(),
                parser="lalr",
                lexer="contextual",
                postlex=_Postlex(),
                debug=True,
                strict=strict,
            )
    finally:
        lark.logger.removeHandler(caplog.handler)
        lark.logger.setLevel(logging.CRITICAL)
    assert "conflict" not in caplog.text.lower()


def test_the_check_for_conflicts_can_fail(caplog: pytest.LogCaptureFixture) -> None:
    lark.logger.setLevel(logging.DEBUG)
    lark.logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.DEBUG):
            lark.Lark('start: "a" [start] ["b" start]\n', parser="lalr", debug=True)
    finally:
        lark.logger.removeHandler(caplog.handler)
        lark.logger.setLevel(logging.CRITICAL)
    assert "conflict" in caplog.text.lower()


def compiles_or_says_why(source: str) -> None:
    for phase in ("train", "infer"):
        try:
            load(source, "f.cnet", phase=phase, dims={})  # type: ignore[arg-type]
        except ConcatcError as error:
            assert error.diagnostics
            assert str(error)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A correct program in which some tokens are dropped, doubled, swapped or replaced."""
    tokens = TOKENS.findall(draw(st.sampled_from(SOURCES)))
    for _ in range(draw(st.integers(1, 4))):
        k = draw(st.integers(0, len(tokens) - 1))
        match draw(st.sampled_from(["drop", "double", "swap", "replace", "insert", "cut"])):
            case "drop":
                tokens[k] = ""
            case "double":
                tokens.insert(k, tokens[k])
            case "swap":
                j = draw(st.integers(0, len(tokens) - 1))
                tokens[k], tokens[j] = tokens[j], tokens[k]
            case "replace":
                tokens[k] = draw(st.sampled_from(WORDS))
            case "insert":
                tokens.insert(k, draw(st.sampled_from(WORDS)))
            case "cut":
                tokens = tokens[: k + 1]
    return "".join(tokens)


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@settings(max_examples=150, **QUIET)
@given(mutated())
def test_mutated_programs(source: str) -> None:
    compiles_or_says_why(source)


@settings(max_examples=100, **QUIET)
@given(st.lists(st.sampled_from(WORDS), max_size=40))
def test_random_words(words: list[str]) -> None:
    compiles_or_says_why("net f(n = 2) {\n    input x: f32[n, 4]\n    " + " ".join(words) + "\n    output x\n}\n")


@settings(max_examples=100, **QUIET)
@given(st.text(max_size=60))
def test_random_text(text: str) -> None:
    compiles_or_says_why(text)
    compiles_or_says_why(f"net f(n = 2) {{\n    input x: f32[n, 4]\n    h = {text}\n    output x\n}}\n")
