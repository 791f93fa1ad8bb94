"""Breaking long lines of IR text where MLIR does not mind, and finding room for a comment."""

from __future__ import annotations

import re
from collections.abc import Sequence

CONTINUATION = 4
# Strings and types with a layout hold spaces at which a line may not end.
_WORD = re.compile(r'(?:"(?:[^"\\]|\\.)*"|memref<[^<>]*(?:<[^<>]*>[^<>]*)?>|[^\s"])+')


def wrap(text: str, comments: Sequence[str], margin: int, width: int) -> list[str]:
    """``text`` on lines of at most ``width`` columns, with the fullest of ``comments`` that fits.

    One line with a shorter comment is preferred to two lines; of two lines the comment may end either.
    """
    pad = " " * margin
    if margin + len(text) <= width:
        for comment in comments:
            line = f"{pad}{text}  // {comment}"
            if len(line) <= width:
                return [line]
        if not comments:
            return [pad + text]
    lines = _broken(text, margin, width)
    for comment in comments:
        for k in (len(lines) - 1, 0):
            if len(lines[k]) + len(comment) + 5 <= width:
                lines[k] += f"  // {comment}"
                return lines
    return lines


def _broken(text: str, margin: int, width: int) -> list[str]:
    """The text on several lines: best the type on a line of its own, else as much on each line as fits."""
    chunks = _chunks(text)
    for k, chunk in enumerate(chunks):
        if not chunk.startswith(": "):
            continue
        head, tail = " ".join(chunks[:k]), " ".join(chunks[k:])
        if margin + len(head) <= width and margin + CONTINUATION + len(tail) <= width:
            return [" " * margin + head, " " * (margin + CONTINUATION) + tail]
    lines: list[str] = []
    current = " " * margin
    fresh = True
    for chunk in chunks:
        if not fresh and len(current) + 1 + len(chunk) > width:
            lines.append(current)
            current = " " * (margin + CONTINUATION)
            fresh = True
        current += chunk if fresh else " " + chunk
        fresh = False
    lines.append(current)
    return lines


def _chunks(text: str) -> list[str]:
    """The text cut where a line may end: after a comma, and before a type, an arrow or attributes."""
    chunks: list[str] = []
    depth = 0
    for word in _WORD.findall(text):
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", word)
        starts = depth == 0 and (word in (":", "->") or (word[0] == "{" and word != "{"))
        if not chunks or chunks[-1].endswith(",") or starts:
            chunks.append(word)
        else:
            chunks[-1] += " " + word
        depth += bare.count("{") - bare.count("}")
    return chunks
