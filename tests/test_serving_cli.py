"""python -m serving: tables, JSON and exit codes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from digits_client.exceptions import ApiError
from digits_client.transport import read_token
from serving.archive import build_archive
from serving.config import ROOT, Config
from serving.local_management import LocalManagementClient
from tests.archives import swap_digits
from tests.number_images import encode_number
from tests.servers import configure_with_archives, make_command, read_until_curl, run_in_process, run_process, wait_for

SMOKE = ROOT / "handler" / "smoke"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A server in a separate process, with 1.0 and 1.1 in its store."""
    config = configure_with_archives(tmp_path_factory.mktemp("cli"), "1.0", "1.1")
    with run_process(config) as process:
        read_until_curl(process)
        yield config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three labeled images, one with the wrong label, one image without a label, and one invalid file."""
    for label, digit in ((7, 7), (3, 3), (5, 4)):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        shutil.copy(SMOKE / f"{digit}.png", tmp_path / "images" / str(label))
    shutil.copy(SMOKE / "1.png", tmp_path / "images")
    (tmp_path / "images" / "bad.png").write_bytes(b"plain text")
    for hidden in ("notes.txt", ".7.png", ".ipynb_checkpoints/7.png"):
        (tmp_path / "images" / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / hidden).write_text("not sent")
    return tmp_path / "images"


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program for BROWSER that records the URL it is to open."""
    opened = tmp_path / "opened"
    (tmp_path / "browser").write_text(
        f'#!/bin/sh\necho "$1" > {opened}\n[ -z "$STAY" ] || exec sleep 30 > /dev/null 2>&1\n'
    )
    (tmp_path / "browser").chmod(0o755)
    monkeypatch.setenv("BROWSER", str(tmp_path / "browser"))
    return opened


def test_demo_opens_the_page_of_the_running_server(running: Config, browser: Path) -> None:
    run = run_in_process(running, "demo")
    assert (run.returncode, run.stdout) == (0, running.get_url("supervisor") + "/draw\n")
    assert browser.read_text() == run.stdout


@pytest.mark.slow
def test_demo_starts_a_server_if_none_runs_and_does_not_wait_for_the_browser(
    own: Config, browser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAY", "yes")
    with subprocess.Popen(
        make_command(own, "demo"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        wait_for(browser.exists)
        address = own.get_url("supervisor") + "/draw"
        wait_for(lambda: browser.read_text() == f"{address}\n", 5)
        assert requests.get(address, timeout=5).status_code == 200
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"draw        {address}\n" in output.decode()


def test_predict_prints_csv_or_json_and_continues_after_errors(running: Config, folder: Path) -> None:
    run = run_in_process(running, "predict", str(folder), str(SMOKE / "9.png"), str(folder / "nowhere.png"))
    rows = list(csv.DictReader(run.stdout.splitlines()))
    assert [Path(row["path"]).name for row in rows] == [
        *("1.png", "3.png", "4.png", "7.png", "bad.png", "9.png", "nowhere.png"),
    ]
    assert [row["digit"] for row in rows] == ["1", "3", "4", "7", "", "9", ""]
    assert [row["accepted"] for row in rows] == ["true", "true", "true", "true", "", "true", ""]
    assert "400 InvalidImage: 10 bytes that are not an image" in rows[4]["error"]
    assert "No such file" in rows[6]["error"]
    assert run.returncode == 1
    assert "2 of 7 images failed" in run.stderr
    assert "Traceback" not in run.stderr
    lines = run_in_process(running, "predict", "--json", str(folder)).stdout.splitlines()
    assert [json.loads(line).get("digit") for line in lines] == [1, 3, 4, 7, None]
    assert len(json.loads(lines[0])["probabilities"]) == 10


def test_predict_reads_numbers_with_their_boxes(running: Config, tmp_path: Path) -> None:
    (tmp_path / "12.png").write_bytes(encode_number("12"))
    run = run_in_process(running, "predict", "--number", str(tmp_path / "12.png"))
    [row] = csv.DictReader(run.stdout.splitlines())
    assert (row["number"], row["accepted"], row["error"]) == ("12", "true", "")
    assert [len(box.split(",")) for box in row["boxes"].split()] == [4, 4]


def test_dash_means_standard_input_and_output(running: Config) -> None:
    six = (SMOKE / "6.png").read_bytes()
    run = subprocess.run(make_command(running, "predict", "-"), cwd=ROOT, input=six, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[1].startswith(b"-,6,0.99")
    words = make_command(running, "explain", "-", "-o", "-")
    run = subprocess.run(words, cwd=ROOT, input=six, capture_output=True)
    assert run.returncode == 0, run.stderr
    with Image.open(BytesIO(run.stdout)) as drawing:
        assert drawing.format == "PNG"


def test_a_file_name_that_is_not_utf_8_is_printed_unchanged(running: Config, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/sch\xf6n.png"
    Path(os.fsdecode(name)).write_bytes((SMOKE / "6.png").read_bytes())
    strict = {"PYTHONIOENCODING": "utf-8:strict"}  # as in any locale but C's
    environment = os.environ | strict | {"DIGITS_HOME": str(running.home)}
    command = [sys.executable, "-m", "digits_client", "predict", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert run.stdout.splitlines()[1].startswith(name + b",6,0.99"), run.stderr


def test_explain_draws_the_evidence_for_the_target(running: Config, tmp_path: Path) -> None:
    out = tmp_path / "why.png"
    run = run_in_process(running, "explain", str(SMOKE / "7.png"), "-o", str(out))
    assert run.stdout == f"{SMOKE / '7.png'}: 7, accepted; {out} shows the evidence for 7\n", run.stderr
    why = out.read_bytes()
    printed = json.loads(
        run_in_process(running, "explain", "--json", "--target", "3", str(SMOKE / "7.png"), "-o", str(out)).stdout
    )
    assert printed == {"digit": 7, "target": 3, "out": str(out), "accepted": True, "warnings": []}
    with Image.open(out) as drawing:
        assert drawing.format == "PNG"
        assert min(drawing.size) > 300
    assert out.read_bytes() != why


def test_errors_are_one_line_that_names_the_problem(running: Config, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"plain text")
    archive = running.model_store / "digits-1.0.mar"
    before = archive.read_bytes()
    for words, error in {
        ("predict", "--version", "9.9", str(SMOKE)): "404 ModelVersionNotFoundException",
        ("predict", str(tmp_path / "empty")): f"{tmp_path / 'empty'}: no images in it; expected .bmp",
        ("compare", "1.0", "1.0", str(tmp_path / "nowhere")): "nowhere: not a folder; expected a folder of images",
        ("explain", str(tmp_path / "bad.png")): "400 InvalidImage: 10 bytes that are not an image",
        ("explain", str(tmp_path / "nowhere.png")): "No such file or directory; expected an image file",
        ("explain", str(SMOKE / "7.png"), "-o", str(tmp_path)): f"Is a directory: '{tmp_path}'",
        ("register", "http://x/digits-1.1.mar"): "is a URL; only archives in",
        ("promote", "9.9"): "9.9 is not registered",
        ("scale", "--min", "0"): "expected numbers from 1, the first not larger",
        ("scale", "--min", "3", "--max", "2"): "at least 3 and at most 2 workers; expected numbers from 1, the first",
        ("unregister", "1.0"): "1.0 is the default; promote another version first",
        ("rollback",): "no version to roll back to",
        ("archive", "--version", "1.0", "--model=large"): "1.0 is registered with the running server and cannot be",
    }.items():
        run = run_in_process(running, *words)
        assert (run.returncode, run.stdout) == (1, ""), words
        last_line = run.stderr.splitlines()[-1]
        assert last_line.startswith("error: ")
        assert error in last_line
        assert "Traceback" not in run.stderr
    assert archive.read_bytes() == before


def test_rotation_disturbs_no_client_and_the_old_token_is_rejected(
    running: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command prints the server's token, not the environment's; test_soak.py rotates under load."""
    monkeypatch.setenv("DIGITS_INFERENCE_TOKEN", "another")
    old = run_in_process(running, "token").stdout.strip()
    monkeypatch.delenv("DIGITS_INFERENCE_TOKEN")
    assert old == read_token(running.key_file, "inference")
    old_management = read_token(running.key_file, "management")
    with LocalManagementClient(running, retries=0) as client:
        for _ in range(2):
            assert client.inference.predict(SMOKE / "7.png").digit == 7
            assert client.get_default().version == "1.0"
            rotated = run_in_process(running, "token", "--rotate")
            assert rotated.returncode == 0, rotated.stderr
        assert client.inference.predict(SMOKE / "7.png").digit == 7
        with pytest.raises(ApiError, match="InvalidKeyException"):
            client.inference.api.call("POST", "/predictions/digits", headers={"Authorization": f"Bearer {old}"})
        with pytest.raises(ApiError, match="InvalidKeyException"):
            client.api.call("GET", "/models", headers={"Authorization": f"Bearer {old_management}"})
    assert rotated.stdout.strip() not in (old, "another")
    assert running.key_file.stat().st_mode & 0o777 == 0o600


def test_a_closed_pipe_ends_the_command_without_an_error(running: Config) -> None:
    words = " ".join(make_command(running, "predict", *[str(SMOKE)] * 200))
    run = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} | head -1"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.stdout == "path,digit,confidence,accepted,warnings,model_version,error\n"
    assert run.stderr == ""


def test_roll_out_by_command(running: Config) -> None:
    registered = run_in_process(running, "register", "digits-1.1.mar")
    assert registered.returncode == 0, registered.stderr
    assert registered.stdout.splitlines()[2].split() == ["1.1", "False", "digits-1.1.mar", "2", "2", "2", "16", "0"]
    promoted = json.loads(run_in_process(running, "promote", "1.1", "--json").stdout)
    assert (promoted[0]["version"], promoted[0]["default"]) == ("1.1", True)
    status = json.loads(run_in_process(running, "status", "--json").stdout)
    assert (status["ready"], status["rollback_to"], len(status["versions"])) == (True, "1.0", 2)
    assert run_in_process(running, "rollback").stdout.splitlines()[2].split()[:2] == ["1.0", "True"]
    scaled = json.loads(run_in_process(running, "scale", "--min", "1", "--version", "1.1", "--json").stdout)
    assert (scaled[0]["version"], scaled[0]["ready"]) == ("1.1", 1)
    gone = run_in_process(running, "unregister", "1.1")
    assert gone.stdout.startswith("1.1 is unregistered; its archive stays in")
    [model] = json.loads(run_in_process(running, "models", "--json").stdout)
    record = json.loads((ROOT / "model" / "model.json").read_text())
    assert (model["version"], model["run"]) == ("1.0", record["run_id"])
    assert float(model["accuracy"]) == pytest.approx(record["metrics"]["test"]["accuracy"], abs=1e-6)


def test_compare_counts_and_lists_the_differences(running: Config, folder: Path, project: Path) -> None:
    build_archive("6.6", running.model_store, swap_digits(project))
    with LocalManagementClient(running, timeout=60, retries=0) as client:
        client.api.call("POST", "/models", params={"url": "digits-6.6.mar", "synchronous": "true"})
    run = run_in_process(running, "compare", "1.0", "6.6", str(folder))
    table = run.stdout
    assert "note: 5 images, 3 labeled; to judge by accuracy, compare on 100 or more" in run.stderr
    assert "the versions agree on 3 of 5 images (60.00%); 1 errors of both" in table
    assert "2 of 3 (66.67%)" in table
    assert [line.split()[1:] for line in table.splitlines() if "3.png" in line] == [["3", "3", "0"]]
    run = run_in_process(running, "compare", "1.0", "6.6", str(folder), "--json")
    assert "note: 5 images, 3 labeled; " in run.stderr
    compared = json.loads(run.stdout)
    assert (compared["images"], compared["labelled"], compared["agreed"], compared["errors"]) == (5, 3, 3, 1)
    assert [(side["answered"], side["right"]) for side in compared["sides"]] == [(4, 2), (4, 1)]
    assert all(0 < side["p50_ms"] <= side["p95_ms"] for side in compared["sides"])
    assert run_in_process(running, "unregister", "6.6").returncode == 0


def test_metrics_are_printed_as_table_or_json(running: Config) -> None:
    def read_samples() -> list[dict[str, Any]]:
        samples: list[dict[str, Any]] = json.loads(run_in_process(running, "metrics", "--json").stdout)
        return samples

    ready = {"name": "digits_ready", "labels": {}, "value": 1.0}
    wait_for(lambda: ready in read_samples())  # earlier tests may keep its workers busy
    samples = read_samples()
    assert any(sample["name"].startswith("ts_") for sample in samples)
    assert "digits_token_rotations_total" in run_in_process(running, "metrics").stdout
