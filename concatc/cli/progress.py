"""A line on the terminal while compiling takes long; none where nobody looks, or where the cache has the code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from concatc.stages import listening

CLEAR_LINE = "\r\x1b[K"


class ProgressLine:
    """Shows the note of the stage that runs, and removes it when the stage is over."""

    def __init__(self) -> None:
        self._notes: list[str] = []

    def begin(self, name: str, note: str) -> None:
        """Show the note, if there is one."""
        self._notes.append(note)
        if note:
            self._write(CLEAR_LINE + note)

    def end(self) -> None:
        """Remove the note of the stage that is over."""
        if self._notes.pop():
            self._write(CLEAR_LINE)

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def show_progress() -> None:
    """Show what takes long until the command ends, if stderr is a terminal."""
    if sys.stderr.isatty():
        click.get_current_context().with_resource(_shown())


@contextmanager
def _shown() -> Iterator[None]:
    with listening(ProgressLine()):
        yield
