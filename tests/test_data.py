"""training/data.py: every choice of --data, and what is said when one does not fit."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets import mnist5k, write_folder, write_mnist
from tests.pictures import digits
from training.data import DataError, load_data


def test_mnist5k_is_split_the_same_way_every_time() -> None:
    first, second = mnist5k(), load_data("mnist5k")
    assert (len(first.train), len(first.validation), first.test) == (4580, 420, None)
    np.testing.assert_array_equal(first.validation.frames, second.validation.frames)
    assert np.bincount(first.validation.labels).tolist() == [42] * 10
    assert first.sha256 == second.sha256


def test_train_and_validation_share_no_picture() -> None:
    data = mnist5k()
    train = {frame.tobytes() for frame in data.train.frames}
    assert not train & {frame.tobytes() for frame in data.validation.frames}


def test_a_folder_of_pictures_of_any_size(tmp_path: Path) -> None:
    data = load_data(str(write_folder(tmp_path / "own")))
    assert (len(data.train), len(data.validation), data.test) == (20, 10, None)
    assert data.train.frames.shape == (20, 64, 64)


def test_a_folder_with_train_and_test(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", a_digit=1)
    data = load_data(str(tmp_path))
    assert data.test is not None
    assert (len(data.all_training), len(data.test)) == (30, 10)
    assert data.test.labels.tolist() == list(range(10))


def test_a_folders_hash_changes_with_a_picture(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own")
    before = load_data(str(root)).sha256
    Image.fromarray(digits()[0][0]).save(root / "4" / "another.png")
    assert load_data(str(root)).sha256 != before


def test_mnist_files_in_a_torchvision_root(tmp_path: Path) -> None:
    data = load_data(str(write_mnist(tmp_path)))
    assert data.test is not None
    assert (data.name, len(data.all_training), len(data.test)) == ("mnist", 100, 20)
    assert set(data.sha256) == {f"{part}-ubyte" for part in (
        "train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"
    )}  # fmt: skip


def test_mnist_in_the_folder_data_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert len(load_data("mnist").all_training) == 100


def test_a_failed_download_names_the_offline_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataError, match=r"could not be downloaded .*--data mnist5k.*--data PATH"):
        load_data("mnist")


def test_damaged_mnist_files_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(gzip.compress(b"half"))
    with pytest.raises(DataError, match=f"{tmp_path}: MNIST could not be read"):
        load_data(str(tmp_path))


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(DataError, match="nowhere: no such folder; --data takes mnist, mnist5k or a folder"):
        load_data("nowhere")


def test_a_wrong_layout_names_the_subfolders_that_lack(tmp_path: Path) -> None:
    (tmp_path / "own" / "0").mkdir(parents=True)
    with pytest.raises(DataError, match=r"own: no subfolder 1, 2, .*expected the subfolders 0 \.\.\. 9"):
        load_data(str(tmp_path / "own"))


def test_train_without_test_is_said(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    with pytest.raises(DataError, match="has train/ but no test/"):
        load_data(str(tmp_path))


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own")
    for picture in (root / "6").iterdir():
        picture.unlink()
    with pytest.raises(DataError, match=r"own/6: 0 pictures; expected at least 2"):
        load_data(str(root))


def test_unreadable_pictures_are_named_or_skipped(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own")
    (root / "2" / "notes.txt").write_text("two")
    (root / "5" / "blank.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)2 unreadable pictures.*2/notes\.txt: 3 bytes.*5/blank\.png: .*0 bytes"):
        load_data(str(root))
    data = load_data(str(root), skip_unreadable=True)
    assert len(data.all_training) == 30
    assert [line.split(":")[0] for line in data.skipped] == [str(root / "2/notes.txt"), str(root / "5/blank.png")]


def test_a_class_left_empty_by_skipping_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own")
    for picture in (root / "6").iterdir():
        picture.write_text("no picture")
    with pytest.raises(DataError, match=r"own/6: 0 pictures"):
        load_data(str(root), skip_unreadable=True)
