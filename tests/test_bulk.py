"""bulk/: what `score` reads and writes; the shards are predicted in this process, without Ray."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.command_line import run_command
from handler.digit_handler import DigitHandler
from serving.config import ROOT
from tests.bulk_runs import pa, pq, read_rows, write_shards
from tests.handler_calls import READ, call_handler
from tests.images import SMOKE
from tests.number_images import encode_number

pytestmark = pytest.mark.interop

import bulk.score  # noqa: E402 - needs pyarrow, whose absence skips this module
from bulk.__main__ import make_parser  # noqa: E402
from bulk.scoring import score_shard  # noqa: E402
from bulk.shards import Job, Shard  # noqa: E402


@pytest.fixture(autouse=True)
def predict_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run tasks in this process."""
    folders: list[Path] = []

    @contextmanager
    def connect(_: str | None, model_folder: Path) -> Iterator[None]:
        folders.append(model_folder)
        yield

    def run_tasks(job: Job, shards: list[Shard]) -> Iterator[tuple[Shard, str]]:
        for shard in shards:
            score_shard(job, shard, folders[-1])
            yield shard, ""

    monkeypatch.setattr(bulk.score, "_connect_ray", connect)
    monkeypatch.setattr(bulk.score, "_run_tasks", run_tasks)


def score_here(*words: object) -> int:
    return run_command(make_parser(), ["score", *map(str, words)])


def write_table(folder: Path, **columns: Any) -> Path:
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "some.parquet")
    return folder


def test_rows_are_the_handlers_responses(handler: DigitHandler, model_dir: Path, tmp_path: Path) -> None:
    assert score_here(write_shards(tmp_path / "in", 2, 150), tmp_path / "out") == 0
    rows = read_rows(tmp_path / "out")
    assert [row["id"] for row in rows] == list(range(300))
    assert list(rows[0]) == ["id", "digit", "confidence", "accepted", "probabilities", "warnings", "error", "source"]
    images = pq.read_table(tmp_path / "in")["image"].to_pylist()
    responses = call_handler(handler, model_dir, [{"body": image} for image in images])
    for row, (_, response) in zip(rows, responses, strict=True):
        if row["id"] % 150 == 1:
            assert "not an image" in row["error"]
            assert {row[name] for name in ("digit", "confidence", "accepted", "probabilities", "warnings")} == {None}
        else:
            assert row["probabilities"] == pytest.approx(response["probabilities"], abs=1e-4)
            assert (row["digit"], row["accepted"]) == (response["digit"], response["accepted"])
            assert (row["source"], row["warnings"]) == (f"file {row['id'] // 150}", response["warnings"])


def test_metadata_names_model_and_program(tmp_path: Path) -> None:
    score_here(write_shards(tmp_path / "in", 1, 5), tmp_path / "out")
    metadata = pq.read_metadata(tmp_path / "out" / "part-000.parquet").metadata
    run_id = json.loads((ROOT / "model" / "model.json").read_text())["run_id"]
    assert metadata[b"digits.model_version"].decode() == run_id
    assert metadata[b"digits.program_version"] == b"1.0.0"
    assert len(metadata[b"digits.sha256"]) == 64


def test_summary_counts_all_files_also_those_done_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score_here(write_shards(tmp_path / "in", 3, 400), tmp_path / "out")
    first = json.loads((tmp_path / "out" / "_summary.json").read_text())
    (tmp_path / "out" / "part-001.parquet").write_bytes(b"damaged")
    assert score_here(tmp_path / "in", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "_summary.json").read_text()) == first
    assert (first["images"], first["errors"]) == (1200, {"unreadable": 3})
    assert first["accepted"] + first["rejected"] == sum(first["digits"].values()) == 1197
    rows = [row for row in read_rows(tmp_path / "out") if row["error"] is None]
    assert first["accepted"] == sum(row["accepted"] for row in rows)
    assert first["digits"] == {str(digit): sum(row["digit"] == digit for row in rows) for digit in range(10)}
    assert set(first["drift"]) == {"confidence", "ink", "stroke_width", "picture_size", "polarity", "digit"}
    assert first["drift"]["picture_size"] < 0.01
    assert (tmp_path / "out" / "_summary.png").read_bytes().startswith(b"\x89PNG")
    out, err = capsys.readouterr()
    assert "1 of 3 files to predict" in err
    assert out.splitlines()[0].split() == ["images", "1,200", "100.00%"]


def test_numbers_have_boxes(handler: DigitHandler, model_dir: Path, tmp_path: Path) -> None:
    images = [encode_number("40271"), encode_number("5" * 33), b"", encode_number("12")]
    score_here(write_table(tmp_path / "in", id=["a", "b", "c", "d"], image=images), tmp_path / "out", "--number")
    rows = read_rows(tmp_path / "out")
    [(_, response)] = call_handler(handler, model_dir, [{"body": images[0]}], [READ])
    assert (rows[0]["number"], rows[0]["accepted"]) == ("40271", response["accepted"])
    assert rows[0]["boxes"] == [digit["box"] for digit in response["digits"]]
    assert rows[0]["confidence"] == pytest.approx(response["confidence"], abs=1e-4)
    assert [row["number"] for row in rows[1:]] == [None, None, "12"]
    assert "33 digits" in rows[1]["error"]
    summary = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert (summary["images"], summary["accepted"], summary["errors"]) == (4, 2, {"blank": 1, "unreadable": 1})


def test_structs_of_bytes_and_nulls_are_read(tmp_path: Path) -> None:
    """The library datasets writes images as such structs."""
    images = [{"bytes": SMOKE[3], "path": "3.png"}, {"bytes": None, "path": "x"}, None]
    words = ["--image-column", "picture", "--id-column", "key"]
    score_here(write_table(tmp_path / "in", picture=images, key=[1, 2, 3]), tmp_path / "out", *words)
    table = pq.read_table(tmp_path / "out")
    assert table["digit"].to_pylist() == [3, None, None]
    assert table.column_names[0] == "key"


def test_folder_of_images_has_paths_as_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulk.shards.IMAGES_PER_SHARD", 4)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for digit, image in SMOKE.items():
        (tmp_path / "in" / "deep" / f"{digit}.PNG").write_bytes(image)
    (tmp_path / "in" / "gone.png").symlink_to("nothing")
    (tmp_path / "in" / ".hidden.png").write_bytes(SMOKE[1])
    (tmp_path / "in" / "notes.txt").write_text("no image")
    assert score_here(tmp_path / "in", tmp_path / "out") == 0
    rows = read_rows(tmp_path / "out")
    assert {row["id"]: row["digit"] for row in rows if not row["error"]} == {f"deep/{d}.PNG": d for d in SMOKE}
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3


@pytest.mark.parametrize("kind", ["file", "pattern", "url"])
def test_input_may_be_a_file_a_pattern_or_a_url(kind: str, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "in", 3, 5)
    places = {"file": folder / "part-001.parquet", "pattern": folder / "part-*[12].parquet", "url": folder.as_uri()}
    output = tmp_path / "out"
    assert score_here(places[kind], output.as_uri() if kind == "url" else output) == 0
    names = sorted(path.name for path in output.glob("*.parquet"))
    expected = {"file": [1], "pattern": [1, 2], "url": [0, 1, 2]}[kind]
    assert names == [f"part-00{index}.parquet" for index in expected]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--number"], "was started with reads_numbers False, now it is True; choose another OUTPUT"),
        (["--model", "large"], "was started with model_version"),
    ],
)
def test_folder_of_another_job_is_an_error(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score_here(write_shards(tmp_path / "in", 1, 5), tmp_path / "out")
    before = (tmp_path / "out" / "part-000.parquet").read_bytes()
    assert score_here(tmp_path / "in", tmp_path / "out", *change) == 1
    assert message in capsys.readouterr().err
    assert (tmp_path / "out" / "part-000.parquet").read_bytes() == before


def test_output_of_another_input_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score_here(write_shards(tmp_path / "in", 1, 5), tmp_path / "out")
    assert score_here(write_shards(tmp_path / "other", 1, 5), tmp_path / "out") == 1
    assert f"was started with input {tmp_path / 'in'}, now it is {tmp_path / 'other'};" in capsys.readouterr().err


def test_rewritten_file_is_predicted_again(tmp_path: Path) -> None:
    score_here(write_shards(tmp_path / "in", 1, 5), tmp_path / "out")
    write_shards(tmp_path / "other", 1, 6).joinpath("part-000.parquet").rename(tmp_path / "in" / "part-000.parquet")
    assert score_here(tmp_path / "in", tmp_path / "out") == 0
    assert len(read_rows(tmp_path / "out")) == 6


def test_pattern_does_not_match_outputs_below_its_folder(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "in", 2, 5)
    for _ in range(2):
        assert score_here(folder / "*.parquet", folder / "predictions") == 0
    assert len(read_rows(folder / "predictions")) == 10


def test_output_that_a_node_wrote_elsewhere_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk.score, "_run_tasks", lambda _, shards: ((shard, "") for shard in shards))
    assert score_here(write_shards(tmp_path / "in", 1, 5), tmp_path / "out") == 1
    assert "error: part-000.parquet: is not in OUTPUT, which all nodes have to share" in capsys.readouterr().err


def test_changed_folder_of_images_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for name in "ac":
        (tmp_path / "in" / f"{name}.png").write_bytes(SMOKE[1])
        code = score_here(tmp_path / "in", tmp_path / "out")
    assert code == 1
    assert "was started with image_list_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b""]}, "no column id; --id-column has to be one of: image"),
        ({"id": [1], "digit": [b""]}, "no column image; --image-column has to be one of: id, digit"),
        ({"id": [1], "image": ["1.png"]}, "column image is string; expected binary, or a struct with a field bytes"),
        ({"id": [1], "image": [b""], "digit": [7]}, "column digit is also one of the predictions; rename it"),
    ],
)
def test_unsuitable_columns_are_an_error(
    columns: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score_here(write_table(tmp_path / "in", **columns), tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error
    assert str(tmp_path / "in" / "some.parquet") in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{in}/none", "{out}"], "no Parquet files and no images; expected *.parquet or images such as *.png"),
        (["{in}/*.txt", "{out}"], "no Parquet files and no images"),
        (["{in}", "{out}", "--id-column", "error"], "no column error; --id-column has to be one of: source, image, id"),
        (["{in}/../mixed", "{out}"], "Parquet files and images; choose one kind by a pattern such as '*.parquet'"),
        (["{in}/part-000.parquet", "{in}"], "is not empty; expected a new folder, or one that this command started"),
        (["{in}", "{in}/out"], "/in/out: is in INPUT; choose a folder outside"),
        (["nowhere://x", "{out}"], "nowhere://x: "),
    ],
)
def test_unsuitable_places_are_an_error(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_shards(tmp_path / "in", 1, 5)
    write_table(tmp_path / "mixed", id=[1], image=[SMOKE[1]])
    (tmp_path / "mixed" / "1.png").write_bytes(SMOKE[1])
    assert score_here(*[word.format(**{"in": folder, "out": tmp_path / "out"}) for word in words]) == 1
    assert message in capsys.readouterr().err


def test_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_shards(tmp_path / "in", 2, 5)
    (folder / "part-001.parquet").write_bytes(b"PAR1 damaged")
    assert score_here(folder, tmp_path / "out") == 1
    assert "part-001.parquet: " in capsys.readouterr().err


def test_missing_onnx_model_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bulk.score.ONNX", Path("model/none.onnx"))
    assert score_here(write_shards(tmp_path / "in", 1, 5), tmp_path / "out") == 1
    assert "python -m training export-onnx --model default" in capsys.readouterr().err
