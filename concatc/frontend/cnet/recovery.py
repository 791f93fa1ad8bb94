"""Syntax errors: what lark found, in words; and going on behind a broken statement so that one run reports them all.

h = conv(x, , 3)        ->  error: unexpected `,`          the statement becomes  h = <bad>  and h is not used to
g = relu(h)                                                report errors that follow from this one
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from concatc.diagnostics import ConcatcError, Diagnostic, Loc
from concatc.frontend.cnet import limits, parser
from concatc.frontend.cnet.build_ast import RESERVED

_WORDS = {
    "NAME": "a name",
    "INTEGER": "a number",
    "DECIMAL": "a number",
    "STRING": "a string",
    "_NL": "the end of the line",
    "SEMICOLON": "the end of the line",
    "$END": "the end of the file",
    "COMPARE": "a comparison",
    "ADD": "an operator",
    "MULTIPLY": "an operator",
    "CIRCUMFLEX": "an operator",
    "EQUAL": "`=`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "BAD": "",
}
_EXPRESSION = {"NAME", "INTEGER", "DECIMAL", "STRING", "TRUE", "FALSE", "LSQB", "LPAR"}
_STATEMENT = {"INPUT", "OUTPUT", "LOSS", "FOR", "IF", "RETURN", "LAYER"}
_OPERATORS = {"ADD", "MULTIPLY", "CIRCUMFLEX", "COMPARE", "AND", "OR"}
_CHARACTERS = {
    '"': ("this string does not end on its line", 'close it with `"`'),
    "'": ("unexpected `'`", 'strings stand in `"double quotes"`'),
    "&": ("unexpected `&`", "write `and`"),
    "!": ("unexpected `!`", "write `not`"),
    "|": ("unexpected `|`", "a pipeline is written `|>`; alternatives are written `or`"),
    "\u2212": ("unexpected `\u2212`", "this is the typographic minus; write `-`"),
    "\u00d7": ("unexpected `\u00d7`", "write `*`"),
    "\u201c": ("unexpected `\u201c`", 'strings stand in plain `"double quotes"`'),
    "\u201d": ("unexpected `\u201d`", 'strings stand in plain `"double quotes"`'),
}
_TOKENS = re.compile(r'"[^"\n]*"?|#[^\n]*|\|>|\+=|[A-Za-z_]\w*|\d+(?:\.\d+)?|\n|[^\s]')
_BINDING = re.compile(
    r"(?:^|;|\{)\s*(?:(?:input|param|state|layer)\s+([A-Za-z_]\w*)|([A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*)\s*\+?=(?!=))"
)


def parse_with_recovery(text: str, filename: str) -> tuple[Any, list[Diagnostic]]:
    """lark's tree, and the syntax errors in order.  Raises :class:`ConcatcError` where no tree can be made."""
    errors: list[Diagnostic] = []
    current = text
    while True:
        tree, error = _parse_once(current, filename)
        if error is None:
            return tree, errors
        errors.append(error)
        repaired = _without_statement(current, error.loc)
        give_up = len(errors) >= limits.SYNTAX_ERRORS or len(text) > limits.RECOVERY_BYTES
        if repaired is None or repaired == current or give_up:
            raise ConcatcError(errors, {filename: text})
        current = repaired


def _parse_once(text: str, filename: str) -> tuple[Any, Diagnostic | None]:
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    try:
        return parser.parse_tree(text), None
    except parser.NestingError as error:
        token = error.token
        message = f"more than {limits.NESTING} brackets or operators are nested here"
        return None, Diagnostic(message, _token_loc(filename, token), help="name the inner parts")
    except UnexpectedCharacters as error:
        character = text[error.pos_in_stream or 0]
        shown = character if character.isprintable() else f"U+{ord(character):04X}"
        message, hint = _CHARACTERS.get(character, (f"unexpected character `{shown}`", None))
        end = error.column + 1
        return None, Diagnostic(message, Loc(filename, error.line, error.column, error.line, end), help=hint)
    except UnexpectedToken as error:
        return None, _token_error(text, filename, error)


def _token_error(text: str, filename: str, error: Any) -> Diagnostic:
    token = error.token
    expected = set(error.accepts or error.expected)
    open_brackets = parser.open_brackets()
    if token.type == "$END":
        return _end_error(text, filename, open_brackets)
    loc = _token_loc(filename, token)
    notes = []
    # The bracket that the token itself opens is no news.
    unclosed = [b for b in open_brackets if b is not token and b.line < token.line and str(b) in "(["]
    if unclosed:
        notes.append(f"the `{unclosed[-1]}` of line {unclosed[-1].line} is still open")
    if token.type == "_NL":
        loc = _line_end(text, filename, token.line)
        return Diagnostic(
            "the line ends too early", loc, (*notes, *_expected_note(expected)), _newline_help(text, token)
        )
    what = f"unexpected `{token}`"
    return Diagnostic(what, loc, (*notes, *_expected_note(expected)), _token_help(text, token, expected))


def _end_error(text: str, filename: str, open_brackets: list[Any]) -> Diagnostic:
    lines = text.rstrip().split("\n")
    here = Loc(filename, len(lines), len(lines[-1]) + 1, len(lines), len(lines[-1]) + 2)
    if not open_brackets:
        return Diagnostic("the file ends too early", here)
    bracket = open_brackets[-1]
    return Diagnostic(f"this `{bracket}` is never closed", _token_loc(filename, bracket))


def _token_help(text: str, token: Any, expected: set[str]) -> str | None:
    value = str(token)
    before = text[: token.start_pos].rstrip(" \t")
    after = text[token.end_pos :].lstrip(" \t")
    at_line_start = before.endswith("\n") or not before
    if value == "|>":
        return "a pipeline does not mix with operators: write `(x + y) |> relu` or `x + (y |> relu)`"
    in_pipeline = "PIPE" in expected and "ADD" not in expected
    if in_pipeline and (token.type in _OPERATORS or value in ("if", "..")) and not at_line_start:
        return "a pipeline does not mix with operators: put it in parentheses"
    if value == "=" and "COMPARE" in expected:
        return "`==` compares"
    if value == "=" and _word_before(before) in RESERVED:
        return f"`{_word_before(before)}` is a word of the language and cannot be a name"
    if token.type == "COMPARE" and "COMPARE" not in expected and "AND" in expected:
        return "comparisons do not chain: write `a < b and b < c`"
    if at_line_start and token.type in _OPERATORS:
        return "a statement goes on after an operator at the end of a line, not before one at its start"
    if value == "{" and before.endswith("\n"):
        return "put `{` at the end of the line above"
    if value == "*" and before.endswith("*"):
        return "a power is written `^`"
    if value == "=" and before.endswith(("*", "-", "/")):
        return "the only short form is `+=`"
    if _word_before(before) == "elif" or value == "elif":
        return "write `else if`"
    if value in ("&", "|") or (value == "=" and before.endswith("!")):
        return None
    if "_NL" in expected and token.type in ("NAME", *_STATEMENT):
        return "one statement a line; `;` separates two on one line"
    if value == ":" and "LBRACE" in expected:
        return "a body stands in `{ }`"
    if value in RESERVED and "NAME" in expected and not after.startswith("("):
        return f"`{value}` is a word of the language and cannot be a name"
    return None


def _newline_help(text: str, token: Any) -> str | None:
    after = text[token.end_pos :].lstrip(" \t\n")
    return "put `{` at the end of this line" if after.startswith("{") else None


def _expected_note(expected: set[str]) -> Iterator[str]:
    words: list[str] = []
    if expected >= _STATEMENT:
        words.append("a statement")
        expected = expected - {t for t in expected if t.isalpha() and t.isupper() and t not in _WORDS} - {"NAME"}
    elif expected >= _EXPRESSION:
        words.append("an expression")
        expected = expected - _EXPRESSION - {"NOT", "ADD", "MINUS"}
    for terminal in sorted(expected):
        word = _WORDS.get(terminal, _spelling(terminal))
        if word and word not in words:
            words.append(word)
    if words and len(words) <= 6:
        yield "expected " + (" or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0])


def _spelling(terminal: str) -> str:
    pattern = parser.spelling(terminal)
    return f"`{pattern}`" if pattern else ""


def _word_before(before: str) -> str:
    match = re.search(r"([A-Za-z_]\w*)$", before)
    return match.group(1) if match else ""


def _token_loc(filename: str, token: Any) -> Loc:
    return Loc(filename, token.line, token.column, token.end_line, token.end_column)


def _line_end(text: str, filename: str, line: int) -> Loc:
    row = text.split("\n")[line - 1]
    column = len(_strip_comment(row).rstrip()) + 1
    return Loc(filename, line, column, line, column + 1)


def _strip_comment(row: str) -> str:
    for match in _TOKENS.finditer(row):
        if match.group().startswith("#"):
            return row[: match.start()]
    return row


# -- recovery ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Line:
    """A logical line: physical lines ``first`` to ``last``; ``balanced`` where it closes what it opens."""

    first: int
    last: int
    balanced: bool


def _without_statement(text: str, loc: Loc | None) -> str | None:
    """The text with the logical line at ``loc`` replaced by a bad statement; None where that cannot be done."""
    assert loc is not None
    for line in _logical_lines(text):
        if line.first <= loc.line <= line.last:
            break
    else:
        return None
    if not line.balanced:
        return None
    rows = text.split("\n")
    removed = "\n".join(rows[line.first - 1 : line.last])
    names = [n.strip() for groups in _BINDING.findall(removed) for g in groups if g for n in g.split(",")]
    kept = [n for n in dict.fromkeys(names) if n not in RESERVED]
    rows[line.first - 1 : line.last] = [", ".join(kept) + " \x00", *[""] * (line.last - line.first)]
    return "\n".join(rows)


def _logical_lines(text: str) -> Iterator[_Line]:
    line = first = 1
    depth = braces = lowest = 0
    previous = ""
    tokens = [m.group() for m in _TOKENS.finditer(text) if not m.group().startswith("#")]
    for k, token in enumerate(tokens):
        if token != "\n":
            depth += (token in ("(", "[")) - (token in (")", "]"))
            braces += (token == "{") - (token == "}")
            lowest = min(lowest, braces, depth)
            previous = token
            continue
        after = next((t for t in tokens[k + 1 : k + 200] if t != "\n"), "")
        goes_on = depth > 0 or previous in parser.CONTINUES or after in ("|>", "else")
        if not goes_on:
            yield _Line(first, line, braces == 0 and lowest >= 0 and depth == 0)
            first = line + 1
            depth = braces = lowest = 0
            previous = ""
        line += 1
    yield _Line(first, line, braces == 0 and lowest >= 0 and depth == 0)
