"""The check of names, sentences, pages and commit subjects that `make lint` runs, on small sources."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.config import ROOT
from tests.check_language import GENERATED_PAGES, check_pages, check_sources, check_subjects

PLAIN = '''"""Reads images."""


class Image:
    """An image."""

    def __init__(self) -> None:
        """Every dunder is apart."""

    def decode_image(self) -> None:
        """Return the pixels of the image."""

    async def frame(self) -> None:
        """Return the frame."""
'''


def find_places(source: str) -> list[list[str]]:
    """Return the places of every rule for sources: words, each, one-word names, participles, docstrings."""
    return [rule.places for rule in check_sources({"a.py": source})]


def test_plain_names_and_sentences_are_not_listed() -> None:
    assert find_places(PLAIN) == [[], [], ["a.py:13: frame"], [], []]


@pytest.mark.parametrize("text", ["told", "tells of", "Asked", "begun", "Whoever", "what was sent", "of before"])
def test_a_private_word_is_listed_with_its_line(text: str) -> None:
    assert find_places(f"x = 1\n# {text}, twice {text}\n")[0] == [f"a.py:2: {text}"] * 2


@pytest.mark.parametrize("text", ["foretold", "tells", "what is new", "teach"])
def test_a_part_of_a_word_is_not_listed(text: str) -> None:
    assert find_places(f"# {text}\n")[:2] == [[], []]


def test_each_is_counted_per_thousand_lines() -> None:
    rules = check_sources({"a.py": "# each, Each\n" + "\n" * 499, "b.py": "\n" * 500})
    assert (rules[1].found, rules[1].places) == (2, ["a.py:1: each", "a.py:1: Each"])


@pytest.mark.parametrize("name", ["drawn", "_told", "refused"])
def test_a_bare_participle_is_listed(name: str) -> None:
    assert find_places(f"def {name}(): ...\n")[2:4] == [[f"a.py:1: {name}"]] * 2


@pytest.mark.parametrize("name", ["read", "feed", "mark_used", "is_drawn"])
def test_a_verb_or_a_longer_name_is_no_participle(name: str) -> None:
    assert find_places(f"def {name}(): ...\n")[3] == []


def test_a_docstring_without_a_subject_is_listed() -> None:
    source = (
        'def a():\n    """Of the\n    image."""\ndef b():\n    """Only one."""\nclass C:\n    """The same as B."""\n'
    )
    rule = check_sources({"a.py": source})[4]
    assert rule.places == ["a.py: Of the", "a.py: The same as B."]
    assert rule.found == pytest.approx(200 / 3)


def test_generated_pages_and_code_blocks_do_not_count() -> None:
    block = "one two\n\n```sh\nmake serve\n```\n\n  ```\n  code\n  ```\n\nthree\n"
    pages = {"docs/a.md": block, "README.md": block, "CHANGELOG.md": block} | dict.fromkeys(GENERATED_PAGES, block)
    readme, others = check_pages(pages)
    assert readme.found == len(block.split())
    assert (others.found, others.places) == (3, ["docs/a.md: 3"])


def test_a_long_subject_is_listed() -> None:
    assert check_subjects(["a" * 72, "b" * 73]).places == ["b" * 73]
    assert check_subjects([]).found == 0


def test_the_check_fails_on_a_broken_rule_and_passes_without_history(tmp_path: Path) -> None:
    """In a copy that git does not know, whose hidden folders and tests do not count."""
    for name, source in {"a.py": PLAIN, "tests/b.py": "# each", ".venv/c.py": "# each", "README.md": "few"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    script = tmp_path / "tests" / "check_language.py"
    script.write_text((ROOT / "tests" / "check_language.py").read_text())

    def run_check() -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": "/nowhere"}  # without git
        return subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)

    (tmp_path / "a.py").write_text(PLAIN.replace("frame(", "find_frame("))
    assert (run_check().returncode, run_check().stderr) == (0, "")
    (tmp_path / "README.md").write_text("many " * 701)
    (tmp_path / "a.py").write_text(PLAIN + "# each told\n")
    found = run_check()
    assert found.returncode == 1
    assert "words in README.md                                 701.0  at most 700\n" in found.stdout
    assert '"each" per 1,000 lines:\n  a.py:15: each\n' in found.stderr
    assert ".venv" not in found.stderr + found.stdout
