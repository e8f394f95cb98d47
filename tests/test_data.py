"""training/data.py: every choice of --data, and the errors of invalid ones."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets import mnist5k, write_folder, write_mnist
from tests.images import digits
from training.data import DataError, load_data


def test_mnist5k_split_is_reproducible() -> None:
    first, second = mnist5k(), load_data("mnist5k")
    assert (len(first.train), len(first.validation), first.test) == (4580, 420, None)
    np.testing.assert_array_equal(first.validation.frames, second.validation.frames)
    assert np.bincount(first.validation.labels).tolist() == [42] * 10
    assert first.sha256 == second.sha256
    train = {frame.tobytes() for frame in first.train.frames}
    assert not train & {frame.tobytes() for frame in first.validation.frames}


def test_folder_of_images_of_any_size_and_its_hash(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own")
    data = load_data(str(root))
    assert (len(data.train), len(data.validation), data.test) == (20, 10, None)
    assert data.train.frames.shape == (20, 64, 64)
    Image.fromarray(digits()[0][0]).save(root / "4" / "another.png")
    assert load_data(str(root)).sha256 != data.sha256


def test_folder_with_train_and_test(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", per_digit=1)
    data = load_data(str(tmp_path))
    assert data.test is not None
    assert (len(data.all_training), len(data.test)) == (30, 10)
    assert data.test.labels.tolist() == list(range(10))


def test_mnist_files_in_a_torchvision_root_or_in_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data(str(write_mnist(tmp_path / "data")))
    assert data.test is not None
    assert (data.name, len(data.all_training), len(data.test)) == ("mnist", 100, 20)
    assert set(data.sha256) == {f"{part}-ubyte" for part in (
        "train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"
    )}  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert load_data("mnist").sha256 == data.sha256


def test_failed_download_names_the_offline_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataError, match=r"could not be downloaded .*--data mnist5k.*--data PATH"):
        load_data("mnist")


def test_damaged_mnist_files_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(gzip.compress(b"half"))
    with pytest.raises(DataError, match=f"{tmp_path}: MNIST could not be read"):
        load_data(str(tmp_path))


def test_invalid_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder; --data takes mnist, mnist5k or a folder"):
        load_data("nowhere")
    (tmp_path / "0").mkdir()
    with pytest.raises(DataError, match=r"no subfolder 1, 2, .*expected the subfolders 0 \.\.\. 9"):
        load_data(str(tmp_path))
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="has train/ but no test/"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "verb"),
    [
        ("MNIST/raw/train-images-idx3-ubyte.gz", "unpack"),
        ("train-images-idx3-ubyte.gz", "unpack"),
        ("MNIST/raw/train-images.idx3-ubyte.gz", "unpack"),
        ("MNIST/raw/train-images.idx3-ubyte", "rename"),
        ("archive/train-images-idx3-ubyte/train-images.idx3-ubyte", "rename"),
        ("train-images-idx3-ubyte/train-images-idx3-ubyte", "move"),
    ],
)
def test_compressed_or_misnamed_mnist_names_what_to_do(
    name: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either this file alone or all four, in a folder or in data/ without network."""
    whole = write_mnist(tmp_path / "data") / "MNIST" / "raw"
    right, path = whole / "train-images-idx3-ubyte", tmp_path / "data" / name
    content = right.read_bytes()
    right.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])
    for source in (str(tmp_path / "data"), "mnist"):
        for _ in range(2):
            with pytest.raises(DataError, match=f"{name}: {verb} it to .*MNIST/raw/train-images-idx3-ubyte;"):
                load_data(source)
            for other in whole.glob("*-ubyte"):
                if other != path:
                    other.unlink()
        write_mnist(tmp_path / "again")
        for other in (tmp_path / "again/MNIST/raw").iterdir():
            if other.name != right.name:
                other.rename(whole / other.name)
        shutil.rmtree(tmp_path / "again")


def test_hidden_files_at_any_depth_are_ignored(tmp_path: Path) -> None:
    """The folder itself may be inside a hidden one."""
    root = write_folder(tmp_path / ".cache" / "own")
    digest = load_data(str(root)).sha256
    for name in (".ipynb_checkpoints/0-checkpoint.png", "._0.png", "more/.thumbs/a/b.png", "more/.DS_Store"):
        (root / "4" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "4" / name).write_bytes((root / "4" / "0.png").read_bytes())
    assert load_data(str(root)).sha256 == digest
    (root / "4" / "more" / "5.png").write_bytes((root / "4" / "0.png").read_bytes())
    assert len(load_data(str(root)).all_training) == 31


def test_unreadable_images_are_named_or_skipped_unless_a_class_is_left_empty(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own")
    (root / "2" / "notes.txt").write_text("two")
    (root / "5" / "blank.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)2 unreadable images.*2/notes\.txt: 3 bytes.*5/blank\.png: .*0 bytes"):
        load_data(str(root))
    data = load_data(str(root), skip_unreadable=True)
    assert len(data.all_training) == 30
    assert [line.split(":")[0] for line in data.skipped] == [str(root / "2/notes.txt"), str(root / "5/blank.png")]
    for path in (root / "6").iterdir():
        path.write_text("not an image")
    with pytest.raises(DataError, match=r"own/6: 0 images; expected at least 2"):
        load_data(str(root), skip_unreadable=True)


@pytest.mark.parametrize("name", ["train.csv", "mnist_train.csv"])
def test_mnist_as_csv_names_the_expected_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("label,pixel0\n")
    with pytest.raises(DataError, match=f"{name}: MNIST as CSV is not supported; expected .*MNIST/raw/"):
        load_data(str(tmp_path))
    data = load_data(str(write_folder(tmp_path / "own")))
    (tmp_path / "own" / name).write_text("image,label\n")
    assert load_data(str(tmp_path / "own")).sha256 == data.sha256
