"""Syntax errors in words: what lark found, and what it means to the one who wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from concatc.diagnostics import Diagnostic, Loc, did_you_mean
from concatc.frontend.cnet import habits, parser
from concatc.frontend.cnet.build_ast import RESERVED
from concatc.op import load_all_ops_once

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
STATEMENT_WORDS = ("input", "param", "state", "update", "output", "loss", "layer", "for", "if", "return")
_OPERATORS = {"ADD", "MINUS", "MULTIPLY", "CIRCUMFLEX", "COMPARE", "_AND", "_OR"}
_CHARACTERS = {
    '"': ("this string does not end on its line", 'close it with `"`'),
    "'": ("unexpected `'`", 'strings stand in `"double quotes"`'),
    "&": ("unexpected `&`", "write `and`"),
    "!": ("unexpected `!`", "write `not`"),
    "|": ("unexpected `|`", "a pipeline is written `|>`; alternatives are written `or`"),
    "?": ("unexpected `?`", "a choice is written `a if condition else b`; a size is a number or a dim"),
    "\\": ("unexpected `\\`", "a statement goes on in the next line after an operator or a comma, and inside brackets"),
    "~": ("unexpected `~`", "write `not`"),
    "\u2212": ("unexpected `\u2212`", "this is the typographic minus; write `-`"),
    "\u00d7": ("unexpected `\u00d7`", "write `*`"),
    "\u201c": ("unexpected `\u201c`", 'strings stand in plain `"double quotes"`'),
    "\u201d": ("unexpected `\u201d`", 'strings stand in plain `"double quotes"`'),
}


def at_token(text: str, filename: str, error: Any, open_brackets: list[Any]) -> Diagnostic:
    """A token that nothing can go on with.  ``text`` is what was parsed."""
    token = error.token
    expected = set(error.accepts or error.expected) - {"BAD"}
    if token.type == "$END":
        return Diagnostic("the file ends too early", line_end(text, filename, text.rstrip().count("\n") + 1))
    if token.type == "_NL":
        alone = re.search(r"(?:^|[\n;{])[ \t]*([A-Za-z_]\w*)[ \t]*$", text[: token.start_pos])
        if alone is not None and {"AUGMENT", "EQUAL"} <= expected:
            return _word_alone(text, filename, token, alone)
        notes = tuple(_expected_note(expected))
        return Diagnostic(
            "the line ends too early", line_end(text, filename, token.line), notes, _row_help(text, token)
        )
    inside = [b for b in open_brackets if b is not token]
    place = _Place(
        text,
        token,
        expected,
        str(token),
        text[: token.start_pos].rstrip(" \t"),
        text[token.end_pos :].lstrip(" \t"),
        str(inside[-1]) if inside else "",
        any(str(b) == "{" for b in inside),
    )
    help = next((help for applies, help in _rules(place) if applies and help), None)
    notes = () if help else tuple(_expected_note(expected))
    return Diagnostic(f"unexpected `{token}`", token_loc(filename, token), notes, help)


def at_character(text: str, filename: str, error: Any) -> Diagnostic:
    """A character that starts no token."""
    position = error.pos_in_stream
    character = text[position]
    shown = character if character.isprintable() else f"U+{ord(character):04X}"
    message, help = _CHARACTERS.get(character, (f"unexpected character `{shown}`", None))
    if character == "." and text[position - 1 : position].isdigit():
        message, help = "a number ends in `.`", "digits follow the point: `2.0`"
    if not character.isprintable() or character.isspace():
        help = "this character is not visible: delete it, or write a blank"
    if character.isalpha():
        help = "names hold the letters a to z and A to Z, digits and `_`"
    return Diagnostic(message, Loc(filename, error.line, error.column, error.line, error.column + 1), help=help)


def _word_alone(text: str, filename: str, token: Any, word: re.Match[str]) -> Diagnostic:
    name = word.group(1)
    row = text.rfind("\n", 0, word.start(1)) + 1
    column = word.start(1) - row + 1
    help = habits.STATEMENTS.get(name) or did_you_mean(name, STATEMENT_WORDS)
    if help is None and ";" in text[row : word.start(1)]:
        help = "a comment starts with `#`"
    loc = Loc(filename, token.line, column, token.line, column + len(name))
    return Diagnostic(
        f"`{name}` alone is no statement", loc, help=help or f"`output {name}` hands a blob to the caller"
    )


@dataclass(frozen=True)
class _Place:
    """Where a token is unexpected.  ``bracket`` is the innermost open one, "" for none."""

    text: str
    token: Any
    expected: set[str]
    value: str
    before: str
    after: str
    bracket: str
    in_body: bool

    @property
    def at_row_start(self) -> bool:
        """Whether the token is the first of its row."""
        return self.before.endswith("\n") or not self.before

    @property
    def previous(self) -> str:
        """The word before the token, or ""."""
        match = re.search(r"([A-Za-z_]\w*)$", self.before)
        return match.group(1) if match else ""

    @property
    def first(self) -> str:
        """The first word of the row."""
        match = re.search(r"(?:^|[\n;{])[ \t]*([A-Za-z_]\w*)[^\n;{]*$", self.before)
        return match.group(1) if match else ""

    @property
    def starts_statement(self) -> bool:
        """Whether a name that starts a statement stands before the token."""
        return "AUGMENT" in self.expected and "EQUAL" in self.expected

    @property
    def groups(self) -> bool:
        """Whether the innermost bracket is a ``(`` that is no call's: a tuple, to who comes from Python."""
        if self.bracket != "(":
            return False
        depth = 0
        for k in range(len(self.before) - 1, -1, -1):
            depth += (self.before[k] in ")]") - (self.before[k] in "([")
            if depth < 0:
                return not re.search(r"\w\s*$", self.before[:k]) or bool(re.search(r"\bin\s*$", self.before[:k]))
        return False


def _rules(p: _Place) -> Iterator[tuple[bool, str | None]]:
    """What helps, most specific first."""
    value, kind, expected = p.value, p.token.type, p.expected
    in_pipeline = "PIPE" in expected and "ADD" not in expected
    yield (
        value == "|>" and p.first == "layer",
        "a layer is made of one op or block: put the pipeline into a block",
    )
    yield (value == "|>" and p.before.endswith("|>"), "an op stands between two `|>`")
    yield (value == "|>" and (p.before.endswith("=") or "_FOR" in expected), "a pipeline starts with a blob")
    yield (value == "|>", "a pipeline does not mix with operators: write `(x + y) |> relu` or `x + (y |> relu)`")
    yield (
        in_pipeline and not p.at_row_start and (kind in _OPERATORS or value in ("if", "..")),
        "a pipeline does not mix with operators: put it in parentheses",
    )
    yield (
        p.in_body and p.at_row_start and value in ("net", "block", "import"),
        f"`{value}` stands outside of nets and blocks",
    )
    yield (not p.in_body and value in STATEMENT_WORDS, f"`{value}` stands inside of `net NAME(..) {{ }}`")
    yield (not p.in_body and kind == "NAME" and "_NET" in expected, _item_help(value))
    yield from _habit_rules(p)
    yield (value == "=" and p.first in ("output", "loss"), f"`{p.first} EXPRESSION as NAME` names a result")
    yield (value == "=" and "COMPARE" in expected, "`==` compares")
    yield (
        value == "=" and p.previous in RESERVED,
        f"`{p.previous}` is a word of the language and cannot be a name",
    )
    yield (
        kind == "COMPARE" and "COMPARE" not in expected and "_AND" in expected,
        "comparisons do not chain: write `a < b and b < c`",
    )
    yield (
        p.at_row_start and kind in _OPERATORS and p.bracket in ("", "{"),
        "a statement goes on after an operator at the end of a line, not before one at its start",
    )
    yield (value == "{" and p.before.endswith("\n"), "put `{` at the end of the line above")
    yield (
        value == "(" and p.before.endswith(")"),
        "a call takes its data first: `linear(x, 4)`; a layer that is called often: `layer f = linear(4)`, then `f(x)`",
    )
    yield (p.starts_statement and value == "(", f"bind the result: `y = {p.previous}(..)`")
    yield (
        kind == "NAME" and p.text[: p.token.start_pos][-1:].isdigit(),
        "a number is decimal digits: `1000`, `0.5`, `1e-3`",
    )
    yield (
        "_NL" in expected and kind == "NAME" and p.previous in load_all_ops_once(),
        f"a call has its blobs in parentheses: `{p.previous}({value})`",
    )
    yield (
        "_NL" in expected and kind == "NAME" and p.bracket == "{",
        "one statement a line; `;` separates two on one line",
    )
    yield (value == ":" and "LBRACE" in expected, "a body stands in `{ }`")
    is_word = value in RESERVED and "NAME" in expected and not p.after.startswith("(")
    yield (is_word, f"`{value}` is a word of the language and cannot be a name")


def _habit_rules(p: _Place) -> Iterator[tuple[bool, str | None]]:
    """What people write who come from other languages."""
    value, kind = p.value, p.token.type
    yield (value == "*" and p.before.endswith("*"), "a power is written `^`")
    yield (
        p.starts_statement and (value + p.after[:1]) in ("++", "--") and not p.after[1:2].isalnum(),
        f"`{p.previous} {value}= 1` is written `{p.previous} = {p.previous} {value} 1`",
    )
    yield (
        p.starts_statement and kind in _OPERATORS and p.after.startswith("="),
        f"the only short form is `+=`; write `{p.previous} = {p.previous} {value} ..`",
    )
    yield (p.starts_statement and p.previous == "elif", "write `else if`")
    yield (p.previous == "else" and "_IF" in p.expected and value != ":", "`else if` asks for another condition")
    yield (p.previous == "range" and p.first == "for", "a range is written `0..n`")
    yield (
        p.previous == "for" and value == "(",
        "names of a loop stand without brackets: `for i, x in enumerate(xs) { }`"
        if " in " in p.after.partition("\n")[0]
        else "a loop is written `for i in 0..n { }`",
    )
    yield (value == "(" and p.at_row_start and "_FOR" in p.expected, "names stand without brackets: `a, b = ..`")
    yield (value == "is", "`==` compares")
    yield (value == "@", "`@name` labels a call; `matmul(a, b)` multiplies matrices")
    yield (value == "," and p.bracket == "[" and p.expected == {"RSQB"}, "a list in a list is read `xs[0][1]`")
    yield (
        value == "=" and p.text[p.token.start_pos - 1] == "=",
        "`=` binds a name, `==` compares numbers in a condition",
    )
    yield (p.starts_statement and value == "==", "`=` binds a name")
    yield (p.starts_statement and value == ":" and p.after.startswith("="), "`=` binds a name")
    yield (p.starts_statement and value == ":", f"an input is declared as `input {p.previous}: f32[..]`")
    yield (p.starts_statement and p.previous in habits.STATEMENTS, habits.STATEMENTS.get(p.previous))
    yield (value == "," and p.groups, "a list is written `[2, 2]`")
    yield (value == ":" and p.bracket == "[", "`slice(h, axis=0, at=[1])` cuts a blob; `0..3` is a range")
    yield (value == "for" and p.bracket in ("[", "("), "build the list in a loop: `xs += [y]`")
    yield (
        kind == "STRING" and p.at_row_start and p.bracket in ("", "{") and p.after[:1] != "=",
        "a comment starts with `#`",
    )
    yield (value == "." and bool(re.search(r"@[ \t]*\w+$", p.before)), "a label holds no dot")
    yield (value == ">" and p.before[-1:] in (">", "-", "="), "a pipeline is written `|>`")
    yield (p.previous == "import" and "STRING" in p.expected, 'ops need no import; `import "file.cnet"` takes blocks')
    yield (value == "=" and "COLON" in p.expected, f"write `{p.first} {p.previous}: f32[..]`")
    yield (p.first in ("input", "param", "state") and value == "[" and p.before.endswith(":"), "write `f32[..]`")
    yield (p.first in ("input", "param", "state") and value == "(", f"sizes stand in `[ ]`: `{p.previous}[..]`")
    yield (p.first == "input" and value == "," and p.bracket == "{", "one input a statement")
    yield (
        p.first == "input" and value == "=" and p.before.endswith("]"),
        "an input has no value of its own; a `param` or `state` has",
    )
    yield (p.first == "layer" and value == "(" and "EQUAL" in p.expected, f"`layer {p.previous} = linear(..)`")
    yield (value == "." and p.before.endswith(")"), "calls are chained by a pipeline: `x |> relu |> linear(3)`")
    yield (p.first == "output" and value == ",", "one output a statement: `output a; output b`")
    yield (value == "." and p.before[-1:].isdigit(), "digits follow the point: `2.0`")
    yield (value == "." and p.after[:1].isdigit(), "digits stand before the point: `0.5`")


def _item_help(value: str) -> str | None:
    near = habits.ITEMS.get(value) or did_you_mean(value, ("net", "block", "import", "default"))
    return near or "a file holds nets, blocks, imports and defaults"


def _row_help(text: str, token: Any) -> str | None:
    after = text[token.end_pos :].lstrip(" \t\n")
    if after.startswith("{"):
        return "put `{` at the end of this line"
    row = re.search(r"(?:^|[\n;{])[ \t]*(input|param|state)\s+([A-Za-z_]\w*)[ \t:]*(\w*)$", text[: token.start_pos])
    return f"write `{row[1]} {row[2]}: {row[3] or 'f32'}[..]`; `[]` is a single number" if row else None


def _expected_note(expected: set[str]) -> Iterator[str]:
    words: list[str] = []
    if expected >= _STATEMENT:
        words.append("a statement")
        expected = expected - {t for t in expected if t.startswith("_") and t != "_NL"} - {"NAME"}
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


def token_loc(filename: str, token: Any) -> Loc:
    """Where lark found a token."""
    return Loc(filename, token.line, token.column, token.end_line, token.end_column)


def line_end(text: str, filename: str, line: int) -> Loc:
    """The place behind the last word of a line."""
    row = re.sub(r'^((?:[^"#]|"[^"]*"?)*)#.*$', r"\1", text.split("\n")[line - 1])
    column = len(row.rstrip()) + 1
    return Loc(filename, line, column, line, column + 1)
