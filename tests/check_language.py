"""Check names, sentences, length of the docs and commit subjects against the limits below; `make lint` runs it."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

WORDS_LIMIT, EACH_LIMIT = 1.0, 5.0  # per 1,000 lines
ONE_WORD_LIMIT = 45.0  # percent of all functions, dunders apart
PARTICIPLE_LIMIT = 10  # functions
DOCSTRING_LIMIT = 0.5  # percent of all docstrings
README_LIMIT, PROSE_LIMIT = 700, 8_000  # words, code blocks apart in the second
SUBJECT_LIMIT = 72  # characters
BASE = "511669eb5ec3"  # subjects are checked from the commit after this one

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
WORDS = re.compile(
    r"(?i)\b(told|tells? of|asked|begun|lately|anew|amid|whoever|wherever|of before"
    r"|what (is|was|are) (of|sent|served|left|asked))\b"
)
EACH = re.compile(r"(?i)\beach\b")
DOCSTRINGS = re.compile(r"(Of|By|On|To|With|For|Without|Beside|So many|The same)\b")
IRREGULAR = re.compile(
    "begun|born|bought|bound|broken|brought|built|caught|chosen|dealt|done|drawn|driven|dug|eaten|fallen|fed|felt|found|"
    "forgotten|fought|frozen|given|gone|grown|heard|held|hidden|hung|kept|known|laid|led|left|lent|lit|lost|made|meant|"
    "met|paid|seen|sent|shaken|shot|shown|sold|sought|spent|spoken|spun|stolen|stood|struck|stuck|sung|sunk|swept|swum|"
    "sworn|taken|taught|thought|thrown|told|torn|understood|woken|won|worn|wound|woven|written"
)  # without those that are verbs as well: cut, let, put, read, run, set, split
NO_PARTICIPLES = {"embed", "exceed", "feed", "need", "proceed", "seed", "speed", "succeed"}  # verbs that end in -ed
GENERATED_PAGES = {
    f"docs/{name}.md"
    for name in ("accuracy_by_kind", "licences", "numbers_report", "performance/bench", "reference/commands", "report")
}
OTHER_PAGES = {"CHANGELOG.md", "README.md"}  # a history, which grows; a page with a limit of its own


@dataclass
class Rule:
    """A limit on a figure, and the places that count towards it."""

    name: str
    limit: float
    found: float = 0
    places: list[str] = field(default_factory=list)


def check_sources(sources: Mapping[str, str]) -> list[Rule]:
    """Return the rules for Python sources, by path."""
    lines = sum(len(text.splitlines()) for text in sources.values())
    nodes = [(path, node) for path, text in sources.items() for node in ast.walk(ast.parse(text))]
    functions = [(f"{path}:{node.lineno}", node.name) for path, node in nodes if isinstance(node, FUNCTIONS)]
    functions = [(place, name) for place, name in functions if not name.startswith("__")]
    documented = [(path, node) for path, node in nodes if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS))]
    docstrings = [(path, text) for path, node in documented if (text := ast.get_docstring(node))]
    names = [(place, name) for place, name in functions if "_" not in name.strip("_")]
    participles = [(place, name) for place, name in names if _is_participle(name.strip("_"))]
    openings = [(path, text.split("\n")[0]) for path, text in docstrings if DOCSTRINGS.match(text)]
    return [
        _rate("private words per 1,000 lines", WORDS_LIMIT, _find_matches(WORDS, sources), lines / 1000),
        _rate('"each" per 1,000 lines', EACH_LIMIT, _find_matches(EACH, sources), lines / 1000),
        _rate("% of functions named by one word", ONE_WORD_LIMIT, names, len(functions) / 100),
        _rate("functions named by a bare participle", PARTICIPLE_LIMIT, participles, 1),
        _rate("% of docstrings that begin with Of, By, On …", DOCSTRING_LIMIT, openings, len(docstrings) / 100),
    ]


def check_pages(pages: Mapping[str, str]) -> list[Rule]:
    """Return the rules for Markdown pages, by path."""
    prose = {path: _count_prose(text) for path, text in pages.items() if path not in GENERATED_PAGES | OTHER_PAGES}
    longest = sorted(prose.items(), key=lambda item: -item[1])
    return [
        Rule("words in README.md", README_LIMIT, len(pages.get("README.md", "").split())),
        Rule("words in the other pages", PROSE_LIMIT, sum(prose.values()), [f"{path}: {n}" for path, n in longest]),
    ]


def check_subjects(subjects: Iterable[str]) -> Rule:
    """Return the rule for subjects of commits."""
    long = [subject for subject in subjects if len(subject) > SUBJECT_LIMIT]
    return Rule(f"commit subjects of over {SUBJECT_LIMIT} characters", 0, len(long), long)


def _is_participle(name: str) -> bool:
    return bool(IRREGULAR.fullmatch(name)) or (name.endswith("ed") and name not in NO_PARTICIPLES)


def _find_matches(pattern: re.Pattern[str], sources: Mapping[str, str]) -> list[tuple[str, str]]:
    lines = [(f"{path}:{n}", line) for path, text in sources.items() for n, line in enumerate(text.splitlines(), 1)]
    return [(place, match.group()) for place, line in lines for match in pattern.finditer(line)]


def _rate(name: str, limit: float, found: list[tuple[str, str]], unit: float) -> Rule:
    return Rule(name, limit, len(found) / (unit or 1), [f"{place}: {text}" for place, text in found])


def _count_prose(text: str) -> int:
    return len(re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE).split())


def _run_git(*words: str) -> list[str]:
    """Return the lines that git prints; none in a copy without history, or without git."""
    run = subprocess.run(f"git {shlex.join(words)}", shell=True, cwd=ROOT, capture_output=True, text=True)
    return run.stdout.splitlines() if run.returncode == 0 else []


def _read_files(suffix: str) -> dict[str, str]:
    names = _run_git("ls-files", f"*{suffix}") or [str(path.relative_to(ROOT)) for path in ROOT.rglob(f"*{suffix}")]
    paths = {name: ROOT / name for name in names if not name.startswith(("tests/", "."))}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.is_file()}


def main() -> int:
    """Print a row for every rule, and the places of those that are over their limit; return 1 if there are any."""
    sources = _read_files(".py")
    subjects = check_subjects(_run_git("log", "--no-merges", "--format=%s", f"{BASE}..HEAD"))
    rules = [*check_sources(sources), *check_pages(_read_files(".md")), subjects]
    for rule in rules:
        print(f"{rule.name:48}{rule.found:8,.1f}  at most {rule.limit:,g}")
    for rule in (broken := [rule for rule in rules if rule.found > rule.limit]):
        print(f"\n{rule.name}:", *rule.places, sep="\n  ", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
