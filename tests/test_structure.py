"""The layout of the code; import-linter checks its imports (pyproject.toml)."""

import ast
from collections import Counter
from importlib import import_module

from serving.config import ROOT

PACKAGES = (
    "common",
    "handler",
    "digits_client",
    "training",
    "serving",
    "evaluation",
    "bulk",
    "monitoring",
    "benchmarks",
)
MODULES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_no_two_modules_have_the_same_name() -> None:
    names = Counter(path.stem for path in MODULES if not path.stem.startswith("__"))
    assert len(names) > 50
    assert [name for name, count in names.items() if count > 1] == []


def test_no_file_is_over_300_lines() -> None:
    long = [path for path in [*MODULES, *(ROOT / "tests").glob("*.py")] if len(path.read_text().splitlines()) > 300]
    assert long == []


def test_every_command_names_an_existing_function() -> None:
    """Parsers name functions as text, which mypy does not see."""
    for command in find_commands():
        module, function = command.split(":")
        assert callable(getattr(import_module(module), function)), command


def test_no_class_is_too_large() -> None:
    """12 methods and 10 attributes at most, unless its docstring says why: "Large because …"."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and "Large because" not in (ast.get_docstring(node) or ""):
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
                assert len(methods) <= 12, f"{path}: {node.name} has {len(methods)} methods"
                assert len(find_attributes(node)) <= 10, f"{path}: {node.name}: {find_attributes(node)}"


def find_attributes(node: ast.ClassDef) -> set[str]:
    """The attributes that a class's methods set; fields of dataclasses are data and do not count."""
    targets = [part for part in ast.walk(node) if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)]
    return {part.attr for part in targets if isinstance(part.value, ast.Name) and part.value.id == "self"}


def find_commands() -> list[str]:
    from benchmarks.__main__ import make_parser as benchmarks
    from evaluation.__main__ import make_parser as evaluation
    from monitoring.__main__ import make_parser as monitoring
    from serving.__main__ import make_parser as serving
    from training.__main__ import make_parser as training

    parsers = [make() for make in (benchmarks, evaluation, monitoring, serving, training)]
    actions = [action for parser in parsers for action in parser._actions if action.choices]
    commands = [item for action in actions if isinstance(action.choices, dict) for item in action.choices.values()]
    return [command.get_default("function") for command in commands]
