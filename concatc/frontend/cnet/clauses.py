"""The coarse structure of a text that may not parse: clauses, brackets, braces and indents.

    for i in 0..3 { x = relu(x) }     ->     clauses  `for i in 0..3` before `{`,  `x = relu(x)` before `}`

It is found without the grammar, so that it can be had of broken text: what error recovery cuts and mends.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

from concatc.frontend.cnet import parser

# A string that does not end on its line gives back a `{` at the end of the line: it opens a body.
_TOKENS = re.compile(
    r'"[^"\n]*"|"[^"\n]*?(?=[ \t]*\{[ \t]*(?:#[^\n]*)?(?:\n|\Z))|"[^"\n]*'
    r"|'[^'\n]*'|#[^\n]*|\|>|\+=|//|\.\.|[=!<>]=|[A-Za-z_]\w*|\d+(?:\.\d+)?|\n|[^\s]"
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*[ \t]*\+?=(?!=)")
# No expression holds these: at the start of a line they start a statement, whatever bracket is open.
STARTERS = frozenset(
    ("net", "block", "import", "default", "input", "param", "state", "update", "output", "loss", "layer")
) | {"for", "return"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token and its offsets."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Clause:
    """The offsets of a simple statement or of the head of a body, and what ends it: ``{``, ``}``, ``;``, ``\\n`` or
    "" at the end of the text."""

    start: int
    end: int
    ending: str


@dataclass(frozen=True, slots=True)
class Brace:
    """A ``{``: its offset, and line and indent of the row it stands in."""

    start: int
    line: int
    indent: int


class Structure:
    """Clauses, brackets and braces of a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.rows = text.split("\n")
        self._starts = [0]
        for row in self.rows:
            self._starts.append(self._starts[-1] + len(row) + 1)
        self.tokens = [Token(m.group(), m.start(), m.end()) for m in _TOKENS.finditer(text) if m.group()[0] != "#"]
        self.unclosed = self._unclosed_brackets()
        self.clauses = self._clauses()

    def line_of(self, offset: int) -> int:
        """The line of an offset, from 1."""
        return bisect.bisect_right(self._starts, offset, 0, len(self.rows))

    def column_of(self, offset: int) -> int:
        """The column of an offset, from 1."""
        return offset - self._starts[self.line_of(offset) - 1] + 1

    def offset_of(self, line: int, column: int) -> int:
        """The offset of a place."""
        return self._starts[line - 1] + column - 1

    def indent_at(self, offset: int) -> int:
        """The indent of the row that holds the offset."""
        row = self.rows[self.line_of(offset) - 1]
        return len(row) - len(row.lstrip())

    def first_of_row(self, token: Token) -> bool:
        """Whether the token is the first of its row."""
        return self.column_of(token.start) == self.indent_at(token.start) + 1

    def clause_at(self, offset: int) -> Clause | None:
        """The last clause that starts at the offset or before it."""
        index = bisect.bisect_right([clause.start for clause in self.clauses], offset) - 1
        return self.clauses[index] if index >= 0 else None

    def source(self, clause: Clause) -> str:
        """The text of a clause."""
        return self.text[clause.start : clause.end]

    def open_braces(self, offset: int) -> list[Brace]:
        """The braces that are open at an offset."""
        stack: list[Brace] = []
        for token in self.tokens:
            if token.start >= offset:
                break
            if token.text == "{":
                stack.append(self.brace(token))
            elif token.text == "}" and stack:
                stack.pop()
        return stack

    def brace(self, token: Token) -> Brace:
        """A ``{`` with its line and indent."""
        return Brace(token.start, self.line_of(token.start), self.indent_at(token.start))

    def body_end(self, offset: int) -> int | None:
        """The offset behind the ``}`` that matches the ``{`` at ``offset``; None where there is none."""
        depth = 0
        for token in self.tokens:
            if token.start < offset:
                continue
            depth += (token.text == "{") - (token.text == "}")
            if depth == 0:
                return token.end
        return None

    def forgotten_braces(self, offset: int) -> list[tuple[Brace, int]]:
        """Braces that nothing closes before ``offset``, judged by indents, and where each ``}`` belongs: the end of
        the row above the first one that stands no deeper than the row of the ``{``.

        Where the indents do not explain what is missing, the braces that are open at ``offset`` itself.
        """
        found: list[tuple[Brace, int]] = []
        stack: list[Brace] = []
        previous = 0
        for token in self.tokens:
            if token.start >= offset:
                break
            if token.text == "\n":
                continue
            if self.first_of_row(token):
                indent = self.indent_at(token.start)
                while stack and (indent < stack[-1].indent or (indent == stack[-1].indent and token.text != "}")):
                    found.append((stack.pop(), previous))
            if token.text == "{":
                stack.append(self.brace(token))
            elif token.text == "}" and stack:
                stack.pop()
            previous = token.end
        found += [(brace, previous) for brace in reversed(stack)]
        missing = self.open_braces(offset)
        return found if len(found) == len(missing) else [(brace, previous) for brace in reversed(missing)]

    def early_brace(self, offset: int) -> tuple[int, Brace] | None:
        """The last ``}`` before ``offset`` that closes an item although it stands deeper than the row of its ``{``."""
        found: tuple[int, Brace] | None = None
        stack: list[Brace] = []
        for token in self.tokens:
            if token.start >= offset:
                break
            if token.text == "{":
                stack.append(self.brace(token))
            elif token.text == "}" and stack:
                brace = stack.pop()
                if not stack and brace.line != self.line_of(token.start):
                    found = (token.start, brace) if self.indent_at(token.start) > brace.indent else None
        return found

    def _unclosed_brackets(self) -> dict[int, Token]:
        """The ( and [ that are never closed, by offset: a brace or a new statement comes first."""
        unclosed: list[Token] = []
        stack: list[Token] = []
        previous = "\n"
        for token in self.tokens:
            if token.text in ("{", "}") or (token.text in STARTERS and previous == "\n"):
                unclosed += stack
                stack = []
            elif token.text in ("(", "["):
                stack.append(token)
            elif token.text in (")", "]") and stack:
                stack.pop()
            previous = token.text
        return {token.start: token for token in unclosed + stack}

    def _clauses(self) -> list[Clause]:
        clauses: list[Clause] = []
        inside: list[Token] = []
        depth = 0
        hanging = False
        for k, token in enumerate(self.tokens):
            text = token.text
            if text in ("(", "["):
                hanging |= token.start in self.unclosed
                depth += token.start not in self.unclosed
            elif text in (")", "]"):
                depth = max(depth - 1, 0)
            ends = text in ("{", "}") or (text == ";" and depth == 0)
            if text == "\n":
                ends = depth == 0 and not self._goes_on(k, inside, hanging)
            if not ends:
                if text != "\n":
                    inside.append(token)
                continue
            if inside:
                clauses.append(Clause(inside[0].start, inside[-1].end, text))
            inside = []
            depth, hanging = 0, False
        if inside:
            clauses.append(Clause(inside[0].start, inside[-1].end, ""))
        return clauses

    def _goes_on(self, newline: int, inside: list[Token], hanging: bool) -> bool:
        """Whether a clause goes on behind a newline outside of closed brackets."""
        after = next((t for t in self.tokens[newline + 1 : newline + 200] if t.text != "\n"), None)
        if after is None or not inside:
            return False
        if after.text == "|>":
            return True
        if inside[-1].text in parser.CONTINUES and after.text not in STARTERS and after.text not in ("{", "}"):
            return inside[-1].text == "," or not _ASSIGNMENT.match(self.text, after.start)
        deeper = self.indent_at(after.start) > self.indent_at(inside[0].start)
        return hanging and after.text not in STARTERS and (deeper or after.text in (")", "]"))
