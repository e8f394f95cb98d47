"""Snapshots of the registered versions, as TorchServe writes them after a change."""

import json
from pathlib import Path

from serving.config import Config
from serving.state import Versions


def make_versions(default: str, *names: str) -> Versions:
    settings = {"minWorkers": 2, "maxWorkers": 2, "runtimeType": "python"}
    return {name: {"defaultVersion": name == default, "marName": f"digits-{name}.mar", **settings} for name in names}


def write_snapshot(config: Config, number: int, default: str, *names: str) -> Path:
    """Write a Java properties file as TorchServe does; names sort by number."""
    models = {"digits": make_versions(default, *names)} if names else {}
    text = json.dumps({"name": "x", "modelCount": len(names), "models": models}, indent=2)
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace(":", "\\:")
    path = config.logs / "config" / f"2026112315033374{number}-snapshot.cfg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#Saving snapshot\n#Mon Nov 23 15\\:03\ninference_address=http\\://x\nmodel_snapshot={escaped}\na=b\n"
    )
    return path
