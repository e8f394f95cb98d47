"""Summarize a job: images by digit, acceptance and error, and drift, as table, JSON and picture."""

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import pyarrow.parquet as pq
from prometheus_client import Metric
from tabulate import tabulate

from bulk.scoring import METRICS_KEY
from bulk.shards import Job, Shard, resolve_location
from handler.drift import compare_features, count_features

SHIFT_PSI = 0.25  # drift above which to look into it, as in monitoring/rules/alerts.yml


def read_metrics(job: Job, shard: Shard) -> dict[str, float] | None:
    """Return the metrics in a shard's output; None if that is missing or damaged, or has not the shard's rows."""
    filesystem, folder = resolve_location(job.output)
    try:
        metadata = pq.read_metadata(f"{folder}/{shard.name}", filesystem=filesystem)
        return dict(json.loads(metadata.metadata[METRICS_KEY.encode()])) if metadata.num_rows == shard.rows else None
    except (OSError, ValueError, LookupError):  # pyarrow's errors are ValueErrors
        return None


def summarize(job: Job, total: Mapping[str, float], baseline: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Summarize the added metrics of all outputs; compare their features with the model's drift baseline."""
    family = Metric("total", "", "untyped")
    for sample, value in total.items():
        name, labels = json.loads(sample)
        family.add_sample(name, labels, value)

    def count(name: str, label: str) -> dict[str, int]:
        chosen = [sample for sample in family.samples if sample.name == f"digits_{name}_total" and sample.value]
        return {sample.labels[label]: int(sample.value) for sample in chosen}

    digits, numbers, errors = count("predictions", "digit"), count("numbers", "accepted"), count("errors", "reason")
    read = sum(digits.values()) + sum(numbers.values())
    rejected = numbers.get("false", 0) + sum(count("low_confidence", "version").values())
    features = count_features([family]).get(job.model_version)
    return {
        "model_version": job.model_version,
        "sha256": job.sha256,
        "images": read + sum(errors.values()),
        "accepted": read - rejected,
        "rejected": rejected,
        "errors": errors,
        "digits": digits,
        "drift": compare_features(features, baseline) if features else {},
    }


def format_summary(summary: Mapping[str, Any]) -> str:
    """Return the summary as a table."""
    counts = {name: summary[name] for name in ("images", "accepted", "rejected")}
    counts |= {f"error: {reason}": images for reason, images in summary["errors"].items()}
    counts |= {f"digit {digit}": images for digit, images in summary["digits"].items()}
    rows = [(name, f"{images:,}", f"{images / max(summary['images'], 1):.2%}") for name, images in counts.items()]
    rows += [(f"drift of {feature}", f"{psi:.3f}", "PSI") for feature, psi in summary["drift"].items()]
    return tabulate(rows, tablefmt="plain", colalign=("left", "right", "right"), disable_numparse=True)


def plot_summary(summary: Mapping[str, Any]) -> bytes:
    """Plot digits and drift; return a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(list(summary["digits"]), list(summary["digits"].values()))
    left.set(title=f"{summary['images']:,} images, {summary['accepted']:,} accepted", xlabel="digit", ylabel="images")
    right.barh(list(summary["drift"]), list(summary["drift"].values()))
    right.axvline(SHIFT_PSI, color="tab:red", linestyle=":")
    right.set(title="drift from the model's validation images", xlabel=f"PSI; above {SHIFT_PSI}, look into it")
    buffer = BytesIO()
    figure.savefig(buffer, dpi=100)
    return buffer.getvalue()
