"""python -m serving: what it prints for people and for scripts, and how it ends."""

import csv
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import requests
from PIL import Image

from serving.archive import build_archive
from serving.client import DigitsClient
from serving.config import ROOT, Config
from tests.archives import swap_digits
from tests.servers import (
    output_until_curl,
    run_in_process,
    serving,
    started,
    wait_for,
    with_archives,
)

SMOKE = ROOT / "handler" / "smoke"


@pytest.fixture(scope="module")
def running_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A server in a process of its own, with 1.0 and 1.1 in its store."""
    config = with_archives(tmp_path_factory.mktemp("cli"), "1.0", "1.1")
    with started(config) as process:
        output_until_curl(process)
        yield config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three labelled pictures, one of them under the wrong label, one without, and one that is none."""
    for label, digit in ((7, 7), (3, 3), (5, 4)):
        (tmp_path / "pictures" / str(label)).mkdir(parents=True)
        shutil.copy(SMOKE / f"{digit}.png", tmp_path / "pictures" / str(label))
    shutil.copy(SMOKE / "1.png", tmp_path / "pictures")
    (tmp_path / "pictures" / "bad.png").write_bytes(b"no picture")
    (tmp_path / "pictures" / "notes.txt").write_text("not asked about")
    return tmp_path / "pictures"


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A browser, as far as BROWSER knows one: it writes down the address that it is to open."""
    opened = tmp_path / "opened"
    (tmp_path / "browser").write_text(
        f'#!/bin/sh\necho "$1" > {opened}\n[ -z "$STAY" ] || exec sleep 30 > /dev/null 2>&1\n'
    )
    (tmp_path / "browser").chmod(0o755)
    monkeypatch.setenv("BROWSER", str(tmp_path / "browser"))
    return opened


def test_demo_opens_the_page_of_the_server_that_runs(running_here: Config, browser: Path) -> None:
    run = run_in_process(running_here, "demo")
    assert (run.returncode, run.stdout) == (0, running_here.url("supervisor") + "/draw\n")
    assert browser.read_text() == run.stdout


def test_demo_serves_where_no_server_runs_and_opens_a_page_that_may_stay_open(
    own: Config, browser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAY", "yes")
    with subprocess.Popen(serving(own, "demo"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(browser.exists)
        address = own.url("supervisor") + "/draw"
        wait_for(lambda: browser.read_text() == f"{address}\n", 5)
        assert requests.get(address, timeout=5).status_code == 200
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"draw        {address}\n" in output.decode()


def test_predict_prints_csv_and_goes_on_past_a_bad_picture(running_here: Config, folder: Path) -> None:
    run = run_in_process(running_here, "predict", str(folder), str(SMOKE / "9.png"), str(folder / "nowhere.png"))
    rows = list(csv.DictReader(run.stdout.splitlines()))
    assert [Path(row["path"]).name for row in rows] == [
        *("1.png", "3.png", "4.png", "7.png", "bad.png", "9.png", "nowhere.png"),
    ]
    assert [row["digit"] for row in rows] == ["1", "3", "4", "7", "", "9", ""]
    assert "400 InvalidImage: 10 bytes that are no picture" in rows[4]["error"]
    assert "No such file" in rows[6]["error"]
    assert run.returncode == 1
    assert "2 of 7 pictures were not read" in run.stderr
    assert "Traceback" not in run.stderr


def test_predict_prints_json_lines(running_here: Config, folder: Path) -> None:
    run = run_in_process(running_here, "predict", "--json", str(folder))
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row.get("digit") for row in rows] == [1, 3, 4, 7, None]
    assert len(rows[0]["probabilities"]) == 10
    assert rows[4]["error"].startswith("400 InvalidImage")


def test_predict_reads_standard_input(running_here: Config) -> None:
    with (SMOKE / "6.png").open("rb") as picture:
        run = subprocess.run(
            serving(running_here, "predict", "-"), cwd=ROOT, stdin=picture, capture_output=True, text=True
        )
    assert run.returncode == 0
    assert run.stdout.splitlines()[1].startswith("-,6,0.99")


def test_predict_asks_about_a_folder_in_calls_of_many(running_here: Config, tmp_path: Path) -> None:
    for index in range(130):
        shutil.copy(SMOKE / f"{index % 10}.png", tmp_path / f"{index:03}.png")
    (tmp_path / "064.png").write_bytes(b"no picture")
    before = requests_counted(running_here)
    run = run_in_process(running_here, "predict", str(tmp_path))
    digits = [row["digit"] for row in csv.DictReader(run.stdout.splitlines())]
    assert digits == ["" if index == 64 else str(index % 10) for index in range(130)]
    assert requests_counted(running_here) - before == 3


def requests_counted(config: Config) -> float:
    with DigitsClient(config) as client:
        counts = {each.labels.get("model_version"): each.value for each in client.metrics() if "requests" in each.name}
    return counts.get("default", 0.0)


def test_explain_draws_why_and_why_not(running_here: Config, tmp_path: Path) -> None:
    out = tmp_path / "why.png"
    run = run_in_process(running_here, "explain", str(SMOKE / "7.png"), "-o", str(out))
    assert run.stdout == f"{SMOKE / '7.png'}: read as 7; {out} shows what speaks for a 7\n", run.stderr
    why = out.read_bytes()
    told = json.loads(
        run_in_process(running_here, "explain", "--json", "--target", "3", str(SMOKE / "7.png"), "-o", str(out)).stdout
    )
    assert told == {"digit": 7, "target": 3, "out": str(out)}
    with Image.open(out) as drawing:
        assert drawing.format == "PNG"
        assert min(drawing.size) > 300
    assert out.read_bytes() != why


def test_explain_reads_standard_input_and_writes_standard_output(running_here: Config) -> None:
    words = serving(running_here, "explain", "-", "-o", "-")
    run = subprocess.run(words, cwd=ROOT, input=(SMOKE / "7.png").read_bytes(), capture_output=True)
    assert run.returncode == 0, run.stderr
    with Image.open(BytesIO(run.stdout)) as drawing:
        assert drawing.format == "PNG"


def test_explain_names_what_it_cannot_do(running_here: Config, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for words, told in (
        ([str(tmp_path / "bad.png")], "error: 400 InvalidImage: 10 bytes that are no picture"),
        ([str(tmp_path / "nowhere.png")], "nowhere.png: No such file or directory; expected a picture's file"),
        ([str(SMOKE / "7.png"), "-o", str(tmp_path / "no" / "why.png")], f"no such folder: '{tmp_path / 'no'}'"),
        ([str(SMOKE / "7.png"), "-o", str(tmp_path)], f"Is a directory: '{tmp_path}'"),
    ):
        run = run_in_process(running_here, "explain", *words)
        assert (run.returncode, run.stdout) == (1, "")
        assert told in run.stderr
        assert "Traceback" not in run.stderr


def test_predict_by_a_version_that_is_not_there_ends_at_once(running_here: Config) -> None:
    run = run_in_process(running_here, "predict", "--version", "9.9", str(SMOKE))
    assert run.returncode == 1
    assert run.stderr.startswith("error: 404 ModelVersionNotFoundException")
    assert not run.stdout  # a header would make a file of no answers look like one


def test_a_folder_without_pictures_is_named(running_here: Config, tmp_path: Path) -> None:
    run = run_in_process(running_here, "predict", str(tmp_path))
    assert run.returncode == 1
    assert f"error: {tmp_path}: no pictures below it; expected .bmp" in run.stderr
    run = run_in_process(running_here, "compare", "1.0", "1.0", str(tmp_path / "nowhere"))
    assert (run.returncode, run.stdout) == (1, "")
    assert f"error: {tmp_path / 'nowhere'}: is no folder; expected one with pictures in it" in run.stderr


def test_token_is_the_servers_whatever_the_environment_says(
    running_here: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = token(running_here, "inference")
    monkeypatch.setenv("DIGITS_INFERENCE_TOKEN", "another")
    assert token(running_here, "inference") == right
    rotated = run_in_process(running_here, "token", "--rotate")
    assert rotated.returncode == 0, rotated.stderr
    assert rotated.stdout.strip() not in (right, "another")


def test_a_reader_that_has_seen_enough_ends_it_quietly(running_here: Config) -> None:
    words = " ".join(serving(running_here, "predict", *[str(SMOKE)] * 200))
    run = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} | head -1"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.stdout == "path,digit,confidence,accepted,warnings,model_version,error\n"
    assert run.stderr == ""


def test_ctrl_c_keeps_what_was_read(running_here: Config, tmp_path: Path) -> None:
    words = serving(running_here, "predict", *[str(SMOKE)] * 2000)
    said = tmp_path / "stderr"
    with (
        said.open("w") as error,
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=error, text=True) as run,
    ):
        assert run.stdout is not None
        first = [run.stdout.readline() for _ in range(50)]
        run.send_signal(signal.SIGINT)
        rest = run.stdout.readlines()  # communicate() would lose what the pipe's reader has ahead
        assert run.wait(timeout=20) == 130
    assert first[0].startswith("path,")
    rows = list(csv.DictReader([*first, *rest]))
    assert said.read_text().strip() == f"stopped after {len(rows)} of 20000 pictures"
    assert [row["digit"] for row in rows] == [str(number % 10) for number in range(len(rows))]
    assert len(rows) < 20_000


def test_roll_out_by_command(running_here: Config, folder: Path) -> None:
    registered = run_in_process(running_here, "register", "digits-1.1.mar")
    assert registered.returncode == 0, registered.stderr
    assert registered.stdout.splitlines()[2].split() == ["1.1", "False", "digits-1.1.mar", "2", "2", "2", "16", "0"]
    compared = run_in_process(running_here, "compare", "1.0", "1.1", str(folder))
    assert "4 of 5 pictures are read alike (80.00%); 1 refused by both" in compared.stdout
    assert compared.stdout.count("2 of 3 (66.67%)") == 2
    told = json.loads(run_in_process(running_here, "compare", "1.0", "1.1", str(folder), "--json").stdout)
    assert (told["pictures"], told["labelled"], told["agreed"], told["refused"]) == (5, 3, 4, 1)
    assert told["different"] == []
    assert [(side["answered"], side["right"]) for side in told["sides"]] == [(4, 2), (4, 2)]
    assert all(0 < side["p50_ms"] <= side["p95_ms"] for side in told["sides"])
    promoted = json.loads(run_in_process(running_here, "promote", "1.1", "--json").stdout)
    assert (promoted[0]["version"], promoted[0]["default"]) == ("1.1", True)
    status = json.loads(run_in_process(running_here, "status", "--json").stdout)
    assert (status["ready"], status["rollback_to"], len(status["versions"])) == (True, "1.0", 2)
    assert run_in_process(running_here, "rollback").stdout.splitlines()[2].split()[:2] == ["1.0", "True"]
    scaled = json.loads(run_in_process(running_here, "scale", "--min", "1", "--version", "1.1", "--json").stdout)
    assert (scaled[0]["version"], scaled[0]["ready"]) == ("1.1", 1)
    gone = run_in_process(running_here, "unregister", "1.1")
    assert gone.stdout.startswith("1.1 is unregistered; its archive stays in")
    assert [each["version"] for each in json.loads(run_in_process(running_here, "models", "--json").stdout)] == ["1.0"]


def test_compare_lists_what_is_read_differently(running_here: Config, folder: Path, project: Path) -> None:
    build_archive("6.6", running_here.model_store, swap_digits(project))
    management = ["curl", "-sf", "-X", "POST", "-H", f"Authorization: Bearer {token(running_here, 'management')}"]
    url = running_here.url("management") + "/models?url=digits-6.6.mar&synchronous=true"
    subprocess.run([*management, url], check=True, capture_output=True)
    told = run_in_process(running_here, "compare", "1.0", "6.6", str(folder))
    assert "3 of 5 pictures are read alike (60.00%); 1 refused by both" in told.stdout
    assert [line.split()[1:] for line in told.stdout.splitlines() if "3.png" in line] == [["3", "3", "5"]]
    assert run_in_process(running_here, "unregister", "6.6").returncode == 0


def token(config: Config, kind: str) -> str:
    return run_in_process(config, "token", "--kind", kind).stdout.strip()


def test_metrics_for_people_and_for_scripts(running_here: Config) -> None:
    samples = json.loads(run_in_process(running_here, "metrics", "--json").stdout)
    assert {"name": "digits_ready", "labels": {}, "value": 1.0} in samples
    scraped = requests.get(running_here.url("metrics") + "/metrics", timeout=10).text
    names = {each["name"] for each in samples if each["name"].startswith("ts_")}
    assert names
    assert names <= set(re.findall(r"^(ts_\w+)", scraped, re.MULTILINE))
    assert "digits_token_rotations_total" in run_in_process(running_here, "metrics").stdout


def test_a_registered_version_is_not_archived_anew_while_it_is_served(running_here: Config) -> None:
    before = (running_here.model_store / "digits-1.0.mar").read_bytes()
    run = run_in_process(running_here, "archive", "--version", "1.0")
    assert run.returncode == 1
    assert "error: 1.0 is registered with the running server and stays what it is" in run.stderr
    assert (running_here.model_store / "digits-1.0.mar").read_bytes() == before


def test_errors_of_the_command_line_are_one_line(running_here: Config) -> None:
    for words in (["register", "http://x/digits-1.1.mar"], ["promote", "9.9"], ["scale", "--min", "0"], ["rollback"]):
        run = run_in_process(running_here, *words)
        assert run.returncode == 1
        assert run.stderr.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in run.stderr
