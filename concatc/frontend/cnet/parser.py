"""Text to syntax tree.

The grammar is ``grammar/cnet.lark``.  In front of its rules stands :class:`_Newlines`, which drops the newlines that do
not end a statement and refuses deep nesting, so that nothing behind it recurses deeply.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from concatc.diagnostics import ConcatcError, Diagnostic, Loc
from concatc.frontend.cnet import limits
from concatc.frontend.cnet.ast import File
from concatc.frontend.cnet.build_ast import AstBuilder
from concatc.frontend.grammar import grammar_bytes
from concatc.frontend.source import check_size

if TYPE_CHECKING:
    from lark import Lark, Token

_OPENING = {"(": ")", "[": "]", "{": "}"}
# After these a newline does not end the statement.
CONTINUES = frozenset(
    {
        ",",
        "=",
        "+=",
        "|>",
        "+",
        "-",
        "*",
        "/",
        "//",
        "%",
        "^",
        "..",
        "==",
        "!=",
        "<=",
        ">=",
        "<",
        ">",
        "and",
        "or",
        "not",
    }
)
_PREFIX = frozenset({"-", "not", "^"})


class NestingError(Exception):
    """Brackets or operators are nested too deeply; ``token`` is the first one beyond the limit."""

    def __init__(self, token: Token) -> None:
        super().__init__()
        self.token = token


class _Newlines(threading.local):
    """Drops newlines inside ( ) and [ ], and after a comma, ``=`` or an operator.  Never looks ahead.

    ``open`` holds the brackets that are still open, for messages; each thread has its own.
    """

    always_accept = ("_NL",)

    def __init__(self) -> None:
        self.open: list[Token] = []

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        self.open = []
        counts = [0]  # operators that nest to the right, for each open bracket
        total = 0
        previous = ""
        for token in stream:
            text = str(token)
            if token.type == "_NL" and (previous in CONTINUES or (self.open and self.open[-1] != "{")):
                continue
            if text in _OPENING:
                self.open.append(token)
                counts.append(0)
            elif text in (")", "]", "}"):
                if self.open:
                    self.open.pop()
                    total -= counts.pop()
            elif text in _PREFIX and (text != "-" or previous in CONTINUES):
                counts[-1] += 1
                total += 1
            elif token.type == "_NL" or text in (",", ";"):
                total -= counts[-1]
                counts[-1] = 0
            if len(self.open) + total > limits.NESTING:
                raise NestingError(token)
            previous = text
            yield token


@functools.cache
def _parser() -> tuple[Lark, _Newlines]:
    # Imported here: a run that parses nothing (`concatc --help`) must not pay for it.
    from lark import Lark

    newlines = _Newlines()
    parser = Lark(
        grammar_bytes().decode("utf-8"),
        parser="lalr",
        lexer="contextual",
        postlex=newlines,
        propagate_positions=True,
        maybe_placeholders=True,
    )
    return parser, newlines


def parse_tree(text: str) -> Any:
    """The parse tree of lark; raises lark's own errors and :class:`NestingError`."""
    return _parser()[0].parse(text)


def open_brackets() -> list[Token]:
    """The brackets that were open where the last parse stopped."""
    return list(_parser()[1].open)


def spelling(terminal: str) -> str:
    """How a word or sign is written; "" for a terminal that is a pattern."""
    for definition in _parser()[0].terminals:
        if definition.name == terminal:
            text = str(definition.pattern.value).removesuffix(r"\b")
            return "" if any(c in text for c in "[*?") and len(text) > 2 else text
    return ""


@functools.lru_cache(maxsize=64)
def parse(text: str, filename: str) -> tuple[File, tuple[Diagnostic, ...]]:
    """Parse normalised text (:func:`normalise`).

    Returns the tree and the syntax errors; erroneous statements are ``Bad`` in the tree.  Raises
    :class:`ConcatcError` where no tree can be made at all.
    """
    from concatc.frontend.cnet.recovery import parse_with_recovery

    tree, errors = parse_with_recovery(text, filename)
    builder = AstBuilder(filename)
    file = builder.file(tree)
    return file, (*errors, *builder.errors)


def normalise(text: str, filename: str) -> str:
    """The text less a byte order mark, with ``\\n`` line ends; raises :class:`ConcatcError` for NUL and huge texts."""
    check_size(len(text), filename)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    position = text.find("\x00")
    if position >= 0:
        line = text.count("\n", 0, position) + 1
        column = position - text.rfind("\n", 0, position)
        loc = Loc(filename, line, column, line, column + 1)
        raise ConcatcError(Diagnostic("a NUL byte stands in the source", loc, help="is this a text file?"))
    return text
