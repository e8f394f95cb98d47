"""Command-line code shared by all packages: dispatch, exit codes, one-line errors, progress bars.

A parser names a command's function as "module:function"; it is imported when the command runs, so `--help` is fast.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from common.errors import UserError

if TYPE_CHECKING:
    from tqdm import tqdm

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Item = TypeVar("Item")


def add_command(
    commands: "Subparsers", name: str, function: str, text: str, parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.ArgumentParser:
    """Add a command whose `function`, "module:function", takes the parsed arguments and returns the exit code."""
    parser = commands.add_parser(name, help=text, description=text, parents=list(parents))
    parser.set_defaults(function=function, hint_if_stopped="")
    return parser


def run_command(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None, errors: tuple[type[Exception], ...] = ()
) -> int:
    """Run the command of `argv` and return its exit code: 1 after an error, 130 after Ctrl-C.

    `hint_if_stopped` of a command is printed after Ctrl-C. `errors` are printed in one line, as UserError and OSError.
    """
    failures: tuple[type[Exception], ...] = (UserError, OSError, *errors)
    hint = ""
    try:
        args = parser.parse_args(argv)
        hint = args.hint_if_stopped
        module, _, name = args.function.partition(":")
        code = int(getattr(import_module(module), name)(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # such as `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except failures as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if hint:
            print(f"\n{hint}", file=sys.stderr)
        return 130


def positive_int(text: str) -> int:
    """Parse a positive integer, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}; expected a whole number from 1")
    return int(text)


def show_progress(items: Iterable[Item], text: str = "", total: int | None = None, unit: str = "it") -> "tqdm[Item]":
    """Wrap `items` in a progress bar that is shown only in a terminal and removed at the end."""
    from tqdm import tqdm

    return tqdm(items, text, total, leave=False, unit=f" {unit}", disable=None)
