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
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from handler.protocol import MAX_INSTANCES, PROBE_HEADER
from serving.archive import Smoke, by_number, check_archive, read_smoke
from serving.config import MODEL, ServingError
from serving.connection import Connection, RefusedError, refused
from serving.drain import wait_idle
from serving.pictures import File, Picture, calls, file_or_error, instances, read_picture
from serving.results import Answer, Explanation, Ready, Sample, Version, answer_of, explanation_of, version_of
from serving.state import read_state

LOAD_SECONDS = 120.0  # until the workers of a version are given up
DRAIN_SECONDS = 30.0  # until a version that is still asked is not removed
POLL_SECONDS = 0.1
TOLERANCE = 1e-4  # between the probabilities that model.json expects and those that are served
LISTED = "/models/" + MODEL
CALLS = 8  # at once
BULK = 64  # pictures of a call


class DigitsClient(Connection):
    """Inference, management and metrics of one server. May be shared by threads; see Connection for its tokens.

    Every method raises ServingError where it does not get what it asked for: RefusedError with the server's status,
    type and message, or UnreachableError.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def predict(self, picture: Picture, version: str = "", probe: bool = False) -> Answer:
        """The digit on a picture, by the default version unless one is named; a probe is counted as nothing else.

        A path, a file's bytes, a PIL image, or an array: uint8 [H,W], [H,W,3] or [H,W,4], uint16 or bool [H,W].
        """
        headers = {PROBE_HEADER: "1"} if probe else {}
        return answer_of(self._inferred("predictions", version, data=read_picture(picture), headers=headers))

    def predict_many(
        self, pictures: Iterable[Picture], connections: int = CALLS, version: str = "", bulk: int = BULK
    ) -> Iterator[Answer | ServingError]:
        """An answer or the error for each picture, in order; `bulk` (1 to 256) a call, `connections` calls at once.

        Takes the pictures as it goes, so that there may be more of them than memory holds: no more than two requests
        of the server's limit for each connection.
        """
        if not 1 <= bulk <= MAX_INSTANCES:
            raise ServingError(f"{bulk} pictures a call; expected 1 to {MAX_INSTANCES}")
        files = map(file_or_error, pictures)
        under_way: deque[Future[list[Answer | ServingError]]] = deque()
        with ThreadPoolExecutor(connections) as pool:
            try:
                for group in calls(files, bulk, self.config.max_body):
                    if len(under_way) == 2 * connections:
                        yield from under_way.popleft().result()
                    under_way.append(pool.submit(self._answers, group, version))
                while under_way:
                    yield from under_way.popleft().result()
            finally:
                for left in under_way:
                    left.cancel()

    def explain(
        self, picture: Picture, target: int | None = None, version: str = "", probe: bool = False
    ) -> Explanation:
        """Why the digit on a picture was read; with a `target`, what speaks for that digit and what against it."""
        form = {"data": ("picture", read_picture(picture))}
        fields = {} if target is None else {"target": (None, str(target))}
        headers = {PROBE_HEADER: "1"} if probe else {}
        return explanation_of(self._inferred("explanations", version, files=form | fields, headers=headers))

    def models(self) -> dict[str, Version]:
        """Every registered version."""
        response = self.request("management", "GET", f"{LISTED}/all")
        if response.status_code == 404:
            return {}
        if response.status_code >= 400:
            raise refused(response)
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
        workers = max(default.min_workers, len(default.workers))
        query = {"url": checked.path.name, "initial_workers": str(workers), "synchronous": "false"}
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

    def _inferred(self, kind: str, version: str, **request: Any) -> Any:
        path = f"/{kind}/{MODEL}" + (f"/{version}" if version else "")
        return self.ask("inference", "POST", path, **request).json()

    def _answers(self, group: list[File], version: str) -> list[Answer | ServingError]:
        """Of one call's files, with what could not be read in its place."""
        answers = iter(self._call([file for file in group if isinstance(file, bytes)], version))
        return [next(answers) if isinstance(file, bytes) else file for file in group]

    def _call(self, files: list[bytes], version: str) -> list[Answer | ServingError]:
        """One call; pictures that it leaves unanswered through no fault of theirs are asked about one by one."""
        if len(files) <= 1:
            return [self._answer_or_error(file, version) for file in files]
        try:
            json = {"Content-Type": "application/json"}
            told = self._inferred("predictions", version, data=instances(files), headers=json)
            answers = _predictions(told, len(files))
        except RefusedError as error:
            if not error.is_pictures_own or error.status in (429, 503):  # the next call would fail as well
                return [error] * len(files)
            return [self._answer_or_error(file, version) for file in files]
        except ServingError as error:
            return [error] * len(files)
        late = [isinstance(answer, RefusedError) and answer.status == 503 for answer in answers]
        return [
            self._answer_or_error(file, version) if is_late else answer
            for file, answer, is_late in zip(files, answers, late, strict=True)
        ]

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
            answer = client.predict(picture, version, probe=True)
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


def _predictions(told: Any, count: int) -> list[Answer | RefusedError]:
    """Of a call's JSON; ServingError if it is another handler's."""
    try:
        answers = [_prediction(each) for each in told["predictions"]]
    except (LookupError, TypeError) as error:
        raise ServingError("the answer has no predictions: does our handler serve it?") from error
    if len(answers) != count:
        raise ServingError(f"the answer has {len(answers)} predictions; expected {count}")
    return answers


def _prediction(told: dict[str, Any]) -> Answer | RefusedError:
    if "code" in told:
        return RefusedError(told["code"], told["type"], told["message"])
    return answer_of(told)
