"""Syntax errors: what lark found, in words; and going on behind a broken statement so that one run reports them all.

h = conv(x, , 3)        ->  error: unexpected `,`          the statement becomes  h = <bad>  and h is not used to
g = relu(h)                                                report errors that follow from this one
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from concatc.diagnostics import ConcatcError, Diagnostic, Loc, did_you_mean
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
_EXPRESSION = {"NAME", "INTEGER", "DECIMAL", "STRING", "_TRUE", "_FALSE", "LSQB", "LPAR"}
_STATEMENT = {"_INPUT", "_OUTPUT", "_LOSS", "_FOR", "_IF", "_LAYER"}
_STATEMENT_WORDS = ("input", "param", "state", "update", "output", "loss", "layer", "for", "if", "return")
_OPERATORS = {"ADD", "MULTIPLY", "CIRCUMFLEX", "COMPARE", "_AND", "_OR"}
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


@dataclass(frozen=True)
class _SyntaxError:
    """A message, and the line whose statement is to be left out before parsing goes on (0: none can be)."""

    diagnostic: Diagnostic
    line: int


def parse_with_recovery(text: str, filename: str) -> tuple[Any, list[Diagnostic]]:
    """lark's tree, and the syntax errors in order.  Raises :class:`ConcatcError` where no tree can be made."""
    errors: list[Diagnostic] = []
    current = text
    while True:
        tree, error = _parse_once(current, filename)
        if error is None:
            return tree, errors
        errors.append(error.diagnostic)
        repaired = _without_statement(current, error.line)
        give_up = len(errors) >= limits.SYNTAX_ERRORS or len(text) > limits.RECOVERY_BYTES
        if repaired is None or repaired == current or give_up:
            raise ConcatcError(errors, {filename: text})
        current = repaired


def _parse_once(text: str, filename: str) -> tuple[Any, _SyntaxError | None]:
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    try:
        return parser.parse_tree(text), None
    except parser.NestingError as error:
        token = error.token
        message = f"more than {limits.NESTING} brackets or operators are nested here"
        diagnostic = Diagnostic(message, _token_loc(filename, token), help="name the inner parts")
        return None, _SyntaxError(diagnostic, token.line or 0)
    except UnexpectedCharacters as error:
        return None, _SyntaxError(_character_error(text, filename, error), error.line or 0)
    except UnexpectedToken as error:
        return None, _token_error(text, filename, error)


def _character_error(text: str, filename: str, error: Any) -> Diagnostic:
    position = error.pos_in_stream
    character = text[position]
    shown = character if character.isprintable() else f"U+{ord(character):04X}"
    message, help = _CHARACTERS.get(character, (f"unexpected character `{shown}`", None))
    if character == "." and text[position - 1 : position].isdigit():
        message, help = "a number ends in `.`", "digits follow the point: `2.0`"
    return Diagnostic(message, Loc(filename, error.line, error.column, error.line, error.column + 1), help=help)


def _token_error(text: str, filename: str, error: Any) -> _SyntaxError:
    token = error.token
    expected = set(error.accepts or error.expected)
    open_brackets = parser.open_brackets()
    if token.type == "$END":
        return _SyntaxError(_end_error(text, filename, open_brackets), 0)
    loc = _token_loc(filename, token)
    in_body = any(str(b) == "{" and b is not token for b in open_brackets)
    if token.type == "_NL":
        here = _line_end(text, filename, token.line)
        notes, help = list(_expected_note(expected)), _newline_help(text, token)
        return _SyntaxError(Diagnostic("the line ends too early", here, tuple(notes), help), token.line * in_body)
    # A bracket of an earlier line that is still open is the likelier culprit: its statement is the one to leave out.
    unclosed = [b for b in open_brackets if b is not token and b.line < token.line and str(b) in "(["]
    if unclosed:
        bracket = unclosed[-1]
        if str(token) in _STATEMENT_WORDS:
            diagnostic = Diagnostic(f"this `{bracket}` is never closed", _token_loc(filename, bracket))
        else:
            note = f"the `{bracket}` of line {bracket.line} is still open"
            diagnostic = Diagnostic(f"unexpected `{token}`", loc, (note, *_expected_note(expected)))
        return _SyntaxError(diagnostic, bracket.line or 0)
    help = _token_help(text, token, expected, in_body)
    notes = [] if help else list(_expected_note(expected))
    return _SyntaxError(Diagnostic(f"unexpected `{token}`", loc, tuple(notes), help), token.line * in_body)


def _end_error(text: str, filename: str, open_brackets: list[Any]) -> Diagnostic:
    lines = text.rstrip().split("\n")
    here = Loc(filename, len(lines), len(lines[-1]) + 1, len(lines), len(lines[-1]) + 2)
    if not open_brackets:
        return Diagnostic("the file ends too early", here)
    bracket = open_brackets[-1]
    notes = [
        f"by its indent, the `}}` of line {closing} does not belong to the `{{` of line {opening}, which it closes"
        for opening, closing in _crooked_braces(lines)
    ]
    return Diagnostic(f"this `{bracket}` is never closed", _token_loc(filename, bracket), tuple(notes[:1]))


def _crooked_braces(lines: list[str]) -> Iterator[tuple[int, int]]:
    """Pairs of braces whose lines differ in indent: where a forgotten brace is likely to be missing."""
    opened: list[int] = []
    for number, row in enumerate(lines, 1):
        for token in (m.group() for m in _TOKENS.finditer(_strip_comment(row))):
            if token == "{":
                opened.append(number)
            elif token == "}" and opened:
                start = lines[opened[-1] - 1]
                if opened[-1] != number and _indent(start) != _indent(row):
                    yield opened[-1], number
                opened.pop()


def _indent(row: str) -> int:
    return len(row) - len(row.lstrip())


def _token_help(text: str, token: Any, expected: set[str], in_body: bool) -> str | None:
    value = str(token)
    before = text[: token.start_pos].rstrip(" \t")
    after = text[token.end_pos :].lstrip(" \t")
    at_line_start = before.endswith("\n") or not before
    previous = _word_before(before)
    is_word = value in RESERVED and "NAME" in expected and not after.startswith("(")
    in_pipeline = "PIPE" in expected and "ADD" not in expected
    starts_statement = "AUGMENT" in expected and "EQUAL" in expected
    rules: list[tuple[bool, str | None]] = [
        (
            value == "|>",
            "a pipeline does not mix with operators: write `(x + y) |> relu` or `x + (y |> relu)`",
        ),
        (
            in_pipeline and not at_line_start and (token.type in _OPERATORS or value in ("if", "..")),
            "a pipeline does not mix with operators: put it in parentheses",
        ),
        (not in_body and value in _STATEMENT_WORDS, f"`{value}` stands inside of `net NAME(..) {{ }}`"),
        (not in_body and token.type == "NAME", did_you_mean(value, ("net", "block", "import", "default"))),
        (value == "=" and "COMPARE" in expected, "`==` compares"),
        (
            value == "=" and previous in RESERVED,
            f"`{previous}` is a word of the language and cannot be a name",
        ),
        (
            token.type == "COMPARE" and "COMPARE" not in expected and "_AND" in expected,
            "comparisons do not chain: write `a < b and b < c`",
        ),
        (
            at_line_start and token.type in _OPERATORS,
            "a statement goes on after an operator at the end of a line, not before one at its start",
        ),
        (value == "{" and before.endswith("\n"), "put `{` at the end of the line above"),
        (value == "*" and before.endswith("*"), "a power is written `^`"),
        (starts_statement and token.type in _OPERATORS and after.startswith("="), "the only short form is `+=`"),
        (starts_statement and previous == "elif", "write `else if`"),
        (starts_statement and value == "(", f"bind the result: `y = {previous}(..)`"),
        ("_NL" in expected and token.type == "NAME", "one statement a line; `;` separates two on one line"),
        (value == ":" and "LBRACE" in expected, "a body stands in `{ }`"),
        (is_word, f"`{value}` is a word of the language and cannot be a name"),
    ]
    return next((help for applies, help in rules if applies and help), None)


def _newline_help(text: str, token: Any) -> str | None:
    after = text[token.end_pos :].lstrip(" \t\n")
    return "put `{` at the end of this line" if after.startswith("{") else None


def _expected_note(expected: set[str]) -> Iterator[str]:
    words: list[str] = []
    if expected >= _STATEMENT:
        words.append("a statement")
        expected = expected - {t for t in expected if t.startswith("_") and t != "_NL"} - {"NAME", "BAD"}
    elif expected >= _EXPRESSION:
        words.append("an expression")
        expected = expected - _EXPRESSION - {"_NOT", "ADD", "MINUS"}
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
    """A logical line: physical lines ``first`` to ``last``; ``balanced`` where its braces match.

    ``open_bracket`` says that a ( or [ of it is never closed.
    """

    first: int
    last: int
    balanced: bool
    open_bracket: bool


def _without_statement(text: str, number: int) -> str | None:
    """The text with the statement of line ``number`` replaced by a bad one; None where that cannot be done."""
    lines = (line for line in _logical_lines(text) if line.first <= number <= line.last)
    line = next(lines, None)
    rows = text.split("\n")
    if line is not None and line.open_bracket:
        # It would swallow the rest of the file; the statement is the one line.
        alone = rows[number - 1]
        line = _Line(number, number, alone.count("{") == alone.count("}"), False)
    if line is None or not line.balanced:
        return None
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
            yield _Line(first, line, braces == 0 and lowest >= 0, depth > 0)
            first = line + 1
            depth = braces = lowest = 0
            previous = ""
        line += 1
    yield _Line(first, line, braces == 0 and lowest >= 0, depth > 0)
