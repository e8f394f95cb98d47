"""Speed of the models in one process and one thread, without a server."""

import statistics

from torch.utils.benchmark import Timer

from benchmarks.peers.common import DigitModel
from benchmarks.workloads import load_images
from common.models import MODEL_FOLDERS
from handler.classifier import MODEL_BATCH_SIZE
from handler.preprocessing import frame_with_warnings

TURNS = 5  # in which the measurements alternate


def describe_rates(seconds: float = 1) -> str:
    """Return each model's images per second as a Markdown list; measure every figure for `seconds` per turn."""
    images = load_images()[:MODEL_BATCH_SIZE]
    inputs = {"frames classified": [frame_with_warnings(image) for image in images], "PNGs predicted": images}
    timers: dict[str, Timer] = {}
    for name in MODEL_FOLDERS:
        model = DigitModel(name)
        calls = (model.classifier.predict, model.predict_images)
        for (what, batch), call in zip(inputs.items(), calls, strict=True):
            timers[f"{name}, {what}"] = Timer("call(batch)", globals={"call": call, "batch": batch}, num_threads=1)
    times: dict[str, list[float]] = {what: [] for what in timers}
    for what, timer in TURNS * list(timers.items()):
        times[what].append(timer.blocked_autorange(min_run_time=seconds).median)
    rates = {what: MODEL_BATCH_SIZE / statistics.median(values) for what, values in times.items()}
    return "\n".join(f"- {what}: {rate:,.0f}" for what, rate in rates.items())
