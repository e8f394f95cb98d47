"""common/ and all command lines, without a server: help, errors, exit codes, output."""

import argparse
import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.command_line import run_command
from digits_client import __main__ as digits_main
from digits_client.client import DigitsClient
from digits_client.explanation_plot import draw_explanation
from digits_client.types import Explanation, Prediction
from serving import __main__ as serving_main
from serving.config import ROOT, Config
from tests.images import SEVENS, encode
from tests.servers import configure_free_ports, run_in_process
from training import __main__ as training_main


@pytest.mark.parametrize("package", ["digits_client", "serving", "training", "evaluation", "monitoring", "benchmarks"])
def test_help_imports_nothing_heavy(package: str) -> None:
    heavy = {"torch", "numpy", "matplotlib", "scipy", "starlette", "cv2", "tqdm", "tabulate"}
    client = {"requests", "PIL"} if package in ("training", "benchmarks") else set[str]()
    assert not list_imports(package, "--help") & (heavy | client)


def test_status_imports_only_what_it_needs(tmp_path: Path) -> None:
    config = configure_free_ports(tmp_path)
    heavy = {"torch", "matplotlib", "scipy", "starlette", "cv2"}
    assert not list_imports("serving", "--config", str(config.path), "status") & heavy


def list_imports(package: str, *words: str) -> set[str]:
    """Run a command; return the top-level modules that it imports."""
    code = f"""
import runpy, sys
sys.argv = [{package!r}, *{words!r}]
try:
    runpy.run_module({package!r}, run_name="__main__", alter_sys=True)
except SystemExit:
    print("modules", *{{name.partition(".")[0] for name in sys.modules}})
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("make_parser", [serving_main.make_parser, training_main.make_parser, digits_main.make_parser])
def test_every_command_has_help(
    make_parser: Callable[[], argparse.ArgumentParser], capsys: pytest.CaptureFixture[str]
) -> None:
    names = re.findall(r"^    ([a-z-]+)", make_parser().format_help(), re.MULTILINE)
    assert len(names) > 3
    for name in names:
        with pytest.raises(SystemExit) as ended:
            make_parser().parse_args([name, "--help"])
        assert ended.value.code == 0
        assert f" {name} [-h]" in capsys.readouterr().out


def test_every_command_of_digits_takes_an_address_and_prints_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of `python -m serving` print JSON too; their address is in the configuration."""
    [commands] = [action for action in digits_main.make_parser()._actions if isinstance(action.choices, dict)]
    assert isinstance(commands.choices, dict)
    shared = {"--url", "--management-url", "--metrics-url", "--supervisor-url", "--cacert"}
    here = next(action.choices for action in serving_main.make_parser()._actions if isinstance(action.choices, dict))
    for name, command in commands.choices.items():
        assert command._option_string_actions.keys() >= shared | {"--json", "--version"} - (
            {"--version"} if name in ("compare", "rollback") else set()
        )
        assert set(command._option_string_actions) - set(here[name]._option_string_actions) == shared, name
    monkeypatch.setattr("sys.argv", ["digits", "--version"])
    with pytest.raises(SystemExit, match="0"):
        digits_main.main()
    assert re.fullmatch(r"digits-client (\d+\.\d+.*|of a checkout)\n", capsys.readouterr().out)


def test_client_imports_no_other_package_of_the_project() -> None:
    imports = {name.partition(".")[0] for path in (ROOT / "digits_client").glob("*.py") for name in find_imports(path)}
    assert not imports & {"common", "handler", "serving", "training", "torch", "cv2"}
    assert not list_imports("digits_client", "--help") & {"common", "handler", "serving", "training"}


def find_imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, within functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


# One form for every mode in which Pillow decodes an image.
SHOWN = ["png", "cmyk jpeg", "lab tiff", "float tiff with NaN", "transparent palette gif", "black digit in alpha alone"]
SIXTEEN_BITS = encode(Image.fromarray(np.zeros((3000, 2000), np.uint16)))


def test_every_form_of_an_image_is_drawn() -> None:
    explanation = Explanation(7, 7, [[0.0] * 64] * 64, [[0] * 64] * 64)
    for image in (*(SEVENS[form]() for form in SHOWN), SIXTEEN_BITS):
        with Image.open(BytesIO(draw_explanation(image, explanation))) as drawing:
            assert drawing.format == "PNG"


def test_ctrl_c_does_not_interrupt_the_submission_of_requests(
    own: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGINT arrives while a lock may be held; the command ends after the next row."""
    prediction = Prediction(7, 1.0, True, (0.0,) * 10, (), "1.0")
    uninterrupted: list[int] = []

    def send_sigint(*_: object, **__: object) -> Iterator[Prediction]:
        yield prediction
        os.kill(os.getpid(), signal.SIGINT)
        uninterrupted.append(1)
        yield prediction
        pytest.fail("the command continues")

    monkeypatch.setattr(DigitsClient, "predict_batch", send_sigint)
    assert (
        run_command(serving_main.make_parser(), ["--config", str(own.path), "predict", "a.png", "b.png", "c.png"])
        == 130
    )
    assert uninterrupted == [1]
    shown = capsys.readouterr()
    assert (len(shown.out.splitlines()), shown.err) == (1 + 2, "stopped after 2 of 3 images\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_every_command_without_a_server_is_an_error(tmp_path: Path) -> None:
    config = configure_free_ports(tmp_path)
    commands = ("status", "models", "predict handler/smoke/1.png", "promote 1.1", "rollback", "token", "token --rotate")
    for words in commands:
        run = run_in_process(config, *words.split())
        assert (run.returncode, run.stdout) == (1, ""), words
        assert "`make status` says" in run.stderr or "no server is running here" in run.stderr
        assert "Traceback" not in run.stderr
