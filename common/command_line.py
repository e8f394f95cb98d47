"""What the command lines of all packages share: dispatch, exit codes, errors in one line, progress bars.

A parser names the function behind a command as "module:function"; it is imported when the command runs, so `--help`
stays quick however heavy the command is.
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
    parser: argparse.ArgumentParser, words: Sequence[str] | None = None, errors: tuple[type[Exception], ...] = ()
) -> int:
    """Parse the words, run their command and return its exit code: 1 after an error, 130 after Ctrl-C.

    A command may set `hint_if_stopped`, printed after Ctrl-C. `errors` are printed as UserError and OSError are.
    """
    failures: tuple[type[Exception], ...] = (UserError, OSError, *errors)
    hint = ""
    try:
        given = parser.parse_args(words)
        hint = given.hint_if_stopped
        module, _, name = given.function.partition(":")
        code = int(getattr(import_module(module), name)(given))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `… | head` has read enough
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
    """Parse a whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}; expected a whole number from 1")
    return int(text)


def show_progress(items: Iterable[Item], text: str = "", total: int | None = None, unit: str = "it") -> "tqdm[Item]":
    """Wrap `items` in a progress bar, which is shown in a terminal only and disappears at the end."""
    from tqdm import tqdm

    return tqdm(items, text, total, leave=False, unit=f" {unit}", disable=None)
