"""python -m tools.write_commands_page: write docs/reference/commands.md from the argparse parsers."""

import argparse
import re
from pathlib import Path

import benchmarks.__main__
import digits_client.__main__
import evaluation.__main__
import monitoring.__main__
import serving.__main__
import training.__main__

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "commands.md"
DIGITS, SERVING = digits_client.__main__.make_parser(), serving.__main__.make_parser()
OTHERS = [training.__main__.make_parser(), evaluation.__main__.parser()]
OTHERS += [monitoring.__main__.make_parser(), benchmarks.__main__.parser()]
INTRODUCTION = """# Commands

`make docs` writes this page from the programs' `--help`. Results go to standard output, progress and errors to standard
error. The exit code is 0 after success, 1 after an error, 2 after a wrong option and 130 after Ctrl-C."""


def make_page() -> str:
    """Return the page as Markdown; the commands that `serving` shares with `digits` are described once."""
    shared = find_commands(DIGITS)
    own = {name: command for name, command in find_commands(SERVING).items() if name not in shared}
    common = [row for row in make_rows(shared["predict"]) if all(row in make_rows(other) for other in shared.values())]
    sections = [INTRODUCTION, *describe(DIGITS), "Options of all commands:", format_table(common)]
    sections += [part for command in shared.values() for part in describe(command, "###", common)]
    sections += [*describe(SERVING), f"`{'`, `'.join(shared)}`: as commands of [digits](#digits), without its URLs."]
    sections += [part for command in own.values() for part in describe(command, "###")]
    for parser in OTHERS:
        sections += describe(parser)
        sections += [part for command in find_commands(parser).values() for part in describe(command, "###")]
    return "\n\n".join(sections) + "\n"


def find_commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return name -> parser of the commands that --help lists."""
    [action] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    listed = [choice.dest for choice in action._choices_actions if choice.help != argparse.SUPPRESS]
    return {name: action.choices[name] for name in listed}


def describe(parser: argparse.ArgumentParser, level: str = "##", common: list[str] | None = None) -> list[str]:
    """Return heading, description and table of options, without the `common` rows."""
    text = f"{parser.description or ''} {parser.epilog or ''}".strip()
    rows = [row for row in make_rows(parser) if row not in (common or [])]
    return [f"{level} {parser.prog}", escape(text[:1].upper() + text[1:]), *([format_table(rows)] if rows else [])]


def make_rows(parser: argparse.ArgumentParser) -> list[str]:
    """Return one row per option that --help lists: names, description, default."""
    formatter, rows = parser._get_formatter(), []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        value = formatter._format_args(action, str(action.metavar or action.dest).upper())
        names = ", ".join(f"`{name}`" for name in action.option_strings) + (f" `{value}`" if value else "")
        text, _, default = (formatter._expand_help(action) if action.help else "").partition("(default: ")
        if not default and action.option_strings and action.default not in (None, False, "", argparse.SUPPRESS):
            default = str(action.default)
        rows.append(f"| {names.strip()} | {escape(text.strip())} | {escape(default.rstrip(')'))} |")
    return rows


def format_table(rows: list[str]) -> str:
    return "\n".join(["| option | description | default |", "|---|---|---|", *rows])


def escape(text: str) -> str:
    return re.sub(r"([|*_<\[])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
