"""DigitsClient: asks for digits, and rolls versions forward and back without a lost request.

from serving.client import DigitsClient

with DigitsClient() as client:
    client.predict("handler/smoke/7.png").digit  # 7
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from serving.archive import Smoke, by_number, check_archive, read_smoke
from serving.config import MODEL, ServingError
from serving.connection import Connection, RefusedError
from serving.drain import wait_idle
from serving.results import Answer, Ready, Sample, Version, answer_of, version_of
from serving.state import read_state

Picture = str | Path | bytes | Image.Image | NDArray[Any]

LOAD_SECONDS = 120.0  # until the workers of a version are given up
DRAIN_SECONDS = 30.0  # until a version that is still asked is not removed
POLL_SECONDS = 0.1
TOLERANCE = 1e-4  # between the probabilities that model.json expects and those that are served
LISTED = "/models/" + MODEL


class PictureError(ServingError):
    """What was given cannot be sent: no such file, an array of another kind."""


class DigitsClient(Connection):
    """Inference, management and metrics of one server. May be shared by threads; see Connection for its tokens.

    Every method raises ServingError where it does not get what it asked for: RefusedError with the server's status,
    type and message, or UnreachableError.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def predict(self, picture: Picture, version: str = "") -> Answer:
        """The digit on a picture, by the default version unless one is named.

        A path, a file's bytes, a PIL image, or an array: uint8 [H,W], [H,W,3] or [H,W,4], uint16 or bool [H,W].
        """
        path = f"/predictions/{MODEL}" + (f"/{version}" if version else "")
        return answer_of(self.ask("inference", "POST", path, data=_bytes(picture)).json())

    def predict_many(
        self, pictures: Iterable[Picture], connections: int = 8, version: str = ""
    ) -> Iterator[Answer | ServingError]:
        """An answer or the error for each picture, in order; at most `connections` are asked about at once.

        Takes the pictures as it goes, so that there may be more of them than memory holds.
        """
        under_way: deque[Future[Answer | ServingError]] = deque()
        with ThreadPoolExecutor(connections) as pool:
            try:
                for picture in pictures:
                    if len(under_way) == 2 * connections:
                        yield under_way.popleft().result()
                    under_way.append(pool.submit(self._answer_or_error, picture, version))
                while under_way:
                    yield under_way.popleft().result()
            finally:
                for left in under_way:
                    left.cancel()

    def models(self) -> dict[str, Version]:
        """Every registered version."""
        response = self.request("management", "GET", f"{LISTED}/all")
        if response.status_code == 404:
            return {}
        if response.status_code >= 400:
            raise RefusedError(response)
        return {each["modelVersion"]: version_of(each) for each in response.json()}

    def default(self) -> Version:
        """The version that answers when none is named."""
        return version_of(self.ask("management", "GET", LISTED).json()[0])

    def registered(self, version: str) -> Version:
        """A registered version; ServingError that names those there are if it is none."""
        models = self.models()
        if version not in models:
            names = ", ".join(sorted(models, key=by_number)) or "none"
            raise ServingError(f"{version} is not registered; these are: {names}")
        return models[version]

    def register(self, archive: str) -> Version:
        """Registers an archive of the store, with as many workers as the default has, and proves that it answers.

        Does not touch the default. Removes the version again if it fails.
        """
        checked = check_archive(self.config.model_store, archive)
        default = self.default()
        query = {"url": checked.path.name, "initial_workers": str(default.min_workers), "synchronous": "false"}
        try:
            self.ask("management", "POST", "/models", params=query, timeout=LOAD_SECONDS)
            self._scale(checked.version, default.min_workers, default.max_workers)
            return self._proven(checked.version, checked.path.name)
        except BaseException as error:  # Ctrl-C as well
            if getattr(error, "type", None) != "ConflictStatusException":  # it was there before: not ours to remove
                with suppress(ServingError):
                    self.request("management", "DELETE", f"{LISTED}/{checked.version}")
            raise

    def promote(self, version: str) -> Version:
        """Makes a registered version the default, after its workers have answered the smoke pictures once more."""
        proven = self._proven(version, self.registered(version).archive)
        return self._switched(proven)

    def rollback(self) -> Version:
        """Makes the version the default that was it before the one that is it now.

        Asks less of it than `promote`, for it has served: one READY worker, and the smoke pictures if its archive is
        still in the store.
        """
        self.models()  # what is kept says nothing of whether there is a server
        previous = read_state(self.config).previous
        if previous is None:
            raise ServingError("there is no version to go back to: the default is the first, or those before are gone")
        loaded = self._loaded(previous, workers=1)
        archive = self.config.model_store / loaded.archive
        if archive.is_file():
            self._ask_smoke(previous, archive)
        return self._switched(loaded)

    def scale(self, min_workers: int, max_workers: int | None = None, version: str = "") -> Version:
        """Gives a version, by default the default one, at least and at most so many workers; waits until they answer.

        What workers that are taken away had in hand is asked again by this client, but lost to others.
        """
        most = min_workers if max_workers is None else max_workers
        if not 1 <= min_workers <= most:
            raise ServingError(
                f"at least {min_workers} and at most {most} workers; expected numbers from 1 on, the first no larger"
            )
        name = version or self.default().version
        self.registered(name)
        self._scale(name, min_workers, most)
        return self._loaded(name)

    def unregister(self, version: str) -> None:
        """Removes a version that is not the default, once the requests it has are answered; its archive stays."""
        registered = self.registered(version)
        if version == self.default().version:
            raise ServingError(f"{version} is the default; promote another version first")
        is_asked = registered.ready or registered.pending
        if is_asked and not wait_idle(lambda: [self.registered(version)], DRAIN_SECONDS):
            raise ServingError(f"{version} is still asked by callers that name it; stop them first")
        self.ask("management", "DELETE", f"{LISTED}/{version}")

    def ready(self) -> Ready:
        """What the supervisor says of the default version."""
        response = self._send("supervisor", "GET", "/ready", {})
        return Ready(response.status_code == 200, response.text.strip())

    def metrics(self, apis: Iterable[str] = ("metrics", "supervisor")) -> list[Sample]:
        """Every value of /metrics, TorchServe's and the supervisor's."""
        texts = [self._send(api, "GET", "/metrics", {}).text for api in apis]
        # Without types: the parser would give TorchServe's counters another name, with `_total`.
        lines = [line for text in texts for line in text.splitlines() if not line.startswith("#")]
        families = text_string_to_metric_families("\n".join(lines))
        return [Sample(each.name, each.labels, each.value) for family in families for each in family.samples]

    def _answer_or_error(self, picture: Picture, version: str) -> Answer | ServingError:
        try:
            return self.predict(picture, version)
        except ServingError as error:
            return error

    def _scale(self, version: str, min_workers: int, max_workers: int) -> None:
        query = {"min_worker": str(min_workers), "max_worker": str(max_workers)}
        self.ask("management", "PUT", f"{LISTED}/{version}", params=query)

    def _loaded(self, version: str, workers: int | None = None) -> Version:
        """The version when all its workers, or so many, are READY."""
        deadline = time.monotonic() + LOAD_SECONDS
        while True:
            found = self.registered(version)
            if found.ready >= (workers or max(len(found.workers), found.min_workers)):
                return found
            if time.monotonic() > deadline:
                raise ServingError(
                    f"{found.ready} of {found.min_workers} workers of {version} are READY after {LOAD_SECONDS:.0f} s; "
                    "logs/torchserve.log tells what they printed"
                )
            time.sleep(POLL_SECONDS)

    def _proven(self, version: str, archive: str) -> Version:
        """The version when all its workers are READY, its archive is unchanged and it has read the smoke pictures."""
        loaded = self._loaded(version)
        self._ask_smoke(version, check_archive(self.config.model_store, archive).path)
        return loaded

    def _ask_smoke(self, version: str, archive: Path) -> None:
        if problem := smoke_problem(self, version, read_smoke(archive)):
            raise ServingError(f"{version}: {problem}")

    def _switched(self, version: Version) -> Version:
        self.ask("management", "PUT", f"{LISTED}/{version.version}/set-default")
        return version


def smoke_problem(client: DigitsClient, version: str, smoke: Smoke) -> str | None:
    """What is wrong with a version's answers to smoke pictures, None if they are right.

    By the version's own URL, so that what is counted for the default are callers' requests alone.
    """
    for name, picture in smoke.pictures.items():
        try:
            answer = client.predict(picture, version)
        except RefusedError as error:
            return f"smoke picture {name}.png: {error}"
        if str(answer.digit) != name:
            return f"smoke picture {name}.png was read as {answer.digit}"
        if len(answer.probabilities) != len(smoke.expected[name]):
            return f"smoke picture {name}.png: {len(answer.probabilities)} probabilities; expected ten"
        off = max(abs(one - other) for one, other in zip(answer.probabilities, smoke.expected[name], strict=True))
        if off > TOLERANCE:
            return f"smoke picture {name}.png: probabilities are {off:.2g} from those its model.json expects"
    return None


def _bytes(picture: Picture) -> bytes:
    """A picture as a file's bytes; PictureError if it cannot become one."""
    try:
        if isinstance(picture, bytes):
            return picture
        if isinstance(picture, str | Path):
            return Path(picture).read_bytes()
        image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        file = BytesIO()
        image.save(file, "TIFF" if image.mode == "CMYK" else "PNG")
        return file.getvalue()
    except OSError as error:
        raise PictureError(f"{_named(picture)}: {error.strerror or error}; expected a picture's file") from error
    except (TypeError, ValueError, AttributeError, SyntaxError) as error:  # SyntaxError: Pillow's of a broken PNG
        raise PictureError(f"{_named(picture)}: {error}; expected a path, bytes, an image or a uint8 array") from error


def _named(picture: Picture) -> str:
    if isinstance(picture, np.ndarray):
        return f"array {picture.dtype} {list(picture.shape)}"
    return str(picture) if isinstance(picture, str | Path) else type(picture).__name__
