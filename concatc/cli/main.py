"""The command ``concatc``: finds a command, runs it, and turns errors into messages and exit codes.

Exit codes: 0 done, 1 the net is wrong, 2 the call is wrong, 70 a bug of concatc, 130 interrupted.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

from concatc.diagnostics import ConcatcError, ConcatcWarning, UsageError, did_you_mean
from concatc.version import __version__

COMMANDS = ("compile", "check", "run", "train", "bench", "summary", "explain", "opt", "ops", "cache")
OK, NET_WRONG, CALL_WRONG, OUR_BUG = 0, 1, 2, 70
INTERRUPTED = 130


class Commands(click.Group):
    """A group whose commands are imported when they are called; each is ``concatc/cli/NAME.py`` with a ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"concatc.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # click itself would look for near names among the commands that are imported: none.
        if args[0] not in COMMANDS and (hint := did_you_mean(args[0], COMMANDS)) is not None:
            ctx.fail(f"No such command '{args[0]}'.\nhelp: {hint}")
        return super().resolve_command(ctx, args)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="concatc")
def group() -> None:
    """A compiler for neural networks in which concat and reuse are explicit, and then free.

    Exit codes: 0 done, 1 the net is wrong, 2 the call is wrong, 70 a bug of concatc, 130 interrupted.
    """


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    sys.exit(exit_code(sys.argv[1:] if arguments is None else arguments))


def exit_code(arguments: list[str]) -> int:
    """Run the command line and return its exit code; messages go to stderr."""
    try:
        # Commands return nothing; the code of a click.exceptions.Exit is what click returns here.
        with warnings.catch_warnings():
            warnings.simplefilter("always", ConcatcWarning)
            warnings.showwarning = functools.partial(_show, warnings.showwarning)
            code = group.main(args=arguments, prog_name="concatc", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return CALL_WRONG
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`); there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except ConcatcError as error:
        _report(error, "--json" in arguments)
        return CALL_WRONG if isinstance(error, UsageError) else NET_WRONG
    except Exception as error:
        if os.environ.get("CONCATC_TRACEBACK"):
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"error: concatc itself failed ({what})", file=sys.stderr)
        print("help: this is a bug; set CONCATC_TRACEBACK=1 to see where, and please report it", file=sys.stderr)
        return OUR_BUG
    return code if isinstance(code, int) else OK


def _show(otherwise: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Write a warning of ours as a message, without the line of our source that it comes from."""
    if issubclass(category, ConcatcWarning):
        print(message, file=sys.stderr)
    else:
        otherwise(message, category, *where)


def _report(error: ConcatcError, as_json: bool) -> None:
    if as_json:
        import json

        found = [d.to_json() for d in error.diagnostics]
        print(json.dumps({"ok": False, "diagnostics": found}, indent=2))
        return
    print(error.render(), file=sys.stderr)
