"""common/ and what the command lines share: help, errors, exit codes, output; none of it needs a server."""

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.atomic import write_output
from common.command_line import run_command
from serving import __main__ as serving_main
from serving.client import DigitsClient
from serving.config import ROOT, Config, ServingError
from serving.drawing import drawn
from serving.folders import find_pictures
from serving.results import Answer, Explanation
from tests.pictures import SEVENS, encode
from tests.servers import configure_free_ports, run_in_process
from training import __main__ as training_main


@pytest.mark.parametrize("package", ["serving", "training", "evaluation", "monitoring", "benchmarks"])
def test_help_imports_nothing_heavy(package: str) -> None:
    heavy = {"torch", "numpy", "requests", "matplotlib", "PIL", "starlette"}
    assert not imported(package, "--help") & heavy


def test_status_imports_only_what_it_needs(tmp_path: Path) -> None:
    config = configure_free_ports(tmp_path)
    heavy = {"torch", "matplotlib", "scipy", "starlette", "cv2"}
    assert not imported("serving", "--config", str(config.path), "status") & heavy


def imported(package: str, *words: str) -> set[str]:
    """Run a command to its end; returns the top-level modules that it has imported."""
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


@pytest.mark.parametrize("make_parser", [serving_main.parser, training_main.parser])
def test_every_command_explains_itself(
    make_parser: Callable[[], argparse.ArgumentParser], capsys: pytest.CaptureFixture[str]
) -> None:
    names = re.findall(r"^    ([a-z]+)", make_parser().format_help(), re.MULTILINE)
    assert len(names) > 3
    for name in names:
        with pytest.raises(SystemExit) as ended:
            make_parser().parse_args([name, "--help"])
        assert ended.value.code == 0
        assert f" {name} [-h]" in capsys.readouterr().out


def test_what_is_named_for_output_stays_what_it_is(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(target)
    write_output(link, b"one")
    write_output(link, b"two")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"two")
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        write_output(pipe, b"three")
        assert (read.result(), pipe.is_fifo()) == (b"three", True)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("os.scandir", locked)
    with pytest.raises(ServingError, match=f"{tmp_path}: Permission denied; expected a folder that may be read"):
        find_pictures(tmp_path)


# A form for each way in which Pillow holds an image.
SHOWN = ["png", "cmyk jpeg", "lab tiff", "float tiff with NaN", "transparent palette gif", "black ink in alpha alone"]
SIXTEEN_BITS = encode(Image.fromarray(np.zeros((3000, 2000), np.uint16)))


def test_every_form_of_a_picture_is_drawn() -> None:
    explanation = Explanation(7, 7, np.zeros((64, 64)), np.zeros((64, 64), np.uint8))
    for picture in (*(SEVENS[form]() for form in SHOWN), SIXTEEN_BITS):
        with Image.open(BytesIO(drawn(picture, explanation))) as drawing:
            assert drawing.format == "PNG"


def test_ctrl_c_does_not_interrupt_the_handing_out_of_work(
    own: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes in the midst of it, where a lock may be held, and the command ends after the next row."""
    answer = Answer(7, 1.0, True, (0.0,) * 10, (), "1.0")
    uninterrupted: list[int] = []

    def answers(*_: object, **__: object) -> Iterator[Answer]:
        yield answer
        os.kill(os.getpid(), signal.SIGINT)
        uninterrupted.append(1)
        yield answer
        pytest.fail("it goes on")

    monkeypatch.setattr(DigitsClient, "predict_many", answers)
    assert run_command(serving_main.parser(), ["--config", str(own.path), "predict", "a.png", "b.png", "c.png"]) == 130
    assert uninterrupted == [1]
    told = capsys.readouterr()
    assert (len(told.out.splitlines()), told.err) == (1 + 2, "stopped after 2 of 3 pictures\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_server_every_command_says_so(tmp_path: Path) -> None:
    config = configure_free_ports(tmp_path)
    commands = ("status", "models", "predict handler/smoke/1.png", "promote 1.1", "rollback", "token", "token --rotate")
    for words in commands:
        run = run_in_process(config, *words.split())
        assert (run.returncode, run.stdout) == (1, ""), words
        assert "`make status` tells" in run.stderr or "no server is running here" in run.stderr
        assert "Traceback" not in run.stderr
