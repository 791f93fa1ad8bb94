"""A level of a net as text for people."""

from __future__ import annotations

from typing import Protocol

from concatc.diagnostics import Diagnostic, UsageError
from concatc.inspect.blob_path import path_text
from concatc.inspect.memory import plan_report
from concatc.inspect.memory_text import comments
from concatc.ir.core import Module
from concatc.ir.levels import BLOB_LEVELS, level_name
from concatc.ir.printer import Style
from concatc.loops.plan import Plan
from concatc.passes.dumps import dump_text


class Levels(Protocol):
    """One phase of a net at every level."""

    @property
    def plan(self) -> Plan:
        """Level 05 as data."""
        ...

    def level(self, name: str) -> Module:
        """The module of a level."""
        ...


def level_text(levels: Levels, level: str, style: Style, blob: str | None = None) -> str:
    """The text of a level, by name (``split``) or number (``01``), or of one blob's path in it.

    A plan begins with a report of its memory, where the style has comments.  Raises :class:`UsageError` for an unknown
    level, and for a blob that the level does not have.
    """
    name = level_name(level)
    if blob is not None:
        if name not in BLOB_LEVELS:
            raise UsageError(Diagnostic(f"the {name} hold no blobs", help=f"there are {', '.join(BLOB_LEVELS)}"))
        return path_text(levels.level(name), blob, style)
    head = comments(plan_report(levels.plan)) if name == "plan" and style.comments else ""
    return head + dump_text(levels.level(name), style)
