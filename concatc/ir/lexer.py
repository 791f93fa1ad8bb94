"""Tokens of IR text, and the errors of reading it.

    %y = "cnet.relu"(%x)   ->   value `%y`, punctuation `=`, string `"cnet.relu"`, punctuation `(`, value `%x`, ..

A tensor or memref type and a dense array attribute are one token each: they nest no further, and the same few texts
recur in every line, so that their meaning is looked up instead of parsed again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple, NoReturn

from concatc.diagnostics import ConcatcError, Diagnostic, Loc

MAX_TEXT_BYTES = 256 << 20

_TOKEN = re.compile(
    r"""(?P<skip>(?:[ \t\r\n]+|//[^\n]*)+)
    |(?P<shaped>(?:tensor|memref)<[^<>\n]*(?:<[^<>\n]*>[^<>\n]*)?>)
    |(?P<array>array<[^<>]*>)
    |(?P<value>%(?:\d+|[A-Za-z$._-][\w$.-]*))
    |(?P<symbol>@(?:[A-Za-z_][\w$.]*|"(?:[^"\\\n]|\\.)*"))
    |(?P<block>\^[A-Za-z_]\w*)
    |(?P<alias>![A-Za-z_][\w$.]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<arrow>->)
    |(?P<hex>0x[0-9A-Fa-f]+)
    |(?P<float>-?\d+\.\d*(?:[eE][+-]?\d+)?)
    |(?P<int>-?\d+)
    |(?P<word>[A-Za-z_][\w$.]*)
    |(?P<punctuation>[()\[\]{}<>=,:#])""",
    re.VERBOSE | re.ASCII,
)


class Token(NamedTuple):
    """``kind`` is a group of the token pattern, or ``end``; ``offset`` counts characters from 0."""

    kind: str
    text: str
    offset: int


class Source:
    """A text and its file name: makes tokens, locations and errors."""

    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.filename = filename
        self._starts = [0, *(m.end() for m in re.finditer("\n", text))]

    def loc(self, offset: int, end: int = 0) -> Loc:
        """The place of a character (to ``end``, exclusive, where it is given)."""
        row = bisect_right(self._starts, offset) - 1
        column = offset - self._starts[row] + 1
        if end <= offset:
            return Loc(self.filename, row + 1, column)
        return Loc(self.filename, row + 1, column, row + 1, column + end - offset)

    def fail(self, message: str, offset: int, end: int = 0, help: str | None = None) -> NoReturn:
        """Raise a :class:`ConcatcError` at a place of the text."""
        raise ConcatcError(Diagnostic(message, self.loc(offset, end), help=help), {self.filename: self.text})

    def tokens(self) -> list[Token]:
        """All tokens; the last one is ``end``."""
        if len(self.text) > MAX_TEXT_BYTES:
            self.fail(f"the text is longer than {MAX_TEXT_BYTES >> 20} MiB", 0)
        found = []
        at = 0
        match = _TOKEN.match
        while at < len(self.text):
            m = match(self.text, at)
            if m is None:
                self._unexpected(at)
            assert m.lastgroup is not None
            if m.lastgroup != "skip":
                found.append(Token(m.lastgroup, m.group(), at))
            at = m.end()
        found.append(Token("end", "", len(self.text)))
        return found

    def _unexpected(self, at: int) -> NoReturn:
        if self.text[at] == '"':
            self.fail('this string has no closing `"` on its line', at)
        self.fail(f"unexpected character {self.text[at]!r}", at, at + 1)


def quote(text: str) -> str:
    r"""A string literal: printable ASCII as it is, ``\"``, ``\\``, every other byte as ``\HH`` of its UTF-8."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    out = []
    for byte in text.encode("utf-8", "replace"):
        char = chr(byte)
        if char in '"\\':
            out.append("\\" + char)
        elif 32 <= byte < 127:
            out.append(char)
        else:
            out.append(f"\\{byte:02X}")
    return f'"{"".join(out)}"'


_ESCAPE = re.compile(rb'\\(["\\nt]|[0-9A-Fa-f]{2})?')
_ESCAPED = {b'"': b'"', b"\\": b"\\", b"n": b"\n", b"t": b"\t"}


def unquote(literal: str) -> str:
    """The text of a string literal; raises ValueError for an unknown escape or bytes that are not UTF-8."""
    body = literal[1:-1]
    if "\\" not in body:
        return body

    def plain(m: re.Match[bytes]) -> bytes:
        code = m.group(1)
        if code is None:
            raise ValueError('unknown escape; known are \\" \\\\ \\n \\t and \\HH')
        return _ESCAPED.get(code) or bytes([int(code, 16)])

    return _ESCAPE.sub(plain, body.encode("utf-8", "replace")).decode("utf-8")
