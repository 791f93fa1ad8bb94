"""The command line, one file a command."""

from __future__ import annotations


def main() -> None:
    """The console script ``concatc``."""
    from concatc.cli.main import run

    run()
