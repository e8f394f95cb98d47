"""A Debian with Python and make alone, without procps: the README's commands as typed, over a real installation.

DIGITS_TEST_SUITE=trixie tries Python 3.13 instead of 3.11.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.config import ROOT

SUITE = os.environ.get("DIGITS_TEST_SUITE", "bookworm")
PACKAGES = "python3,python3-venv,make,ca-certificates"
COMMANDS = """
set -eu
cd /root/checkout
test ! -e /bin/kill
make serve > serve.log 2>&1 &
until grep -q ^curl serve.log; do kill -0 $!; sleep 1; done
make archive VERSION=1.1
make register VERSION=1.1
make promote VERSION=1.1
make rollback
make unregister VERSION=1.1
make predict IMAGES=handler/smoke/7.png
make stop
wait $!
"""


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Path]:
    """The root folder of a Debian with the checkout; mounts are in the test's own namespace."""
    folder = tmp_path / "debian"
    try:
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(folder))
        shutil.copy("/etc/resolv.conf", folder / "etc")
        listed = run("git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (folder / "root" / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / "root" / "checkout" / name)
        config = folder / "root" / "checkout" / "config.properties"
        config.write_text(re.sub("(?m)(?<=[:=])(80|70)..$", r"2\g<0>", config.read_text()))  # ports: 28080 and so on
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(*command: str, **environment: str) -> str:
    run = subprocess.run(command, env=environment or None, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    return run.stdout


def read_pip_settings() -> dict[str, str]:
    """Return this machine's settings of pip, as environment variables."""
    lines = run(sys.executable, "-m", "pip", "config", "list").splitlines()
    pairs = sorted(line.partition("=")[::2] for line in lines)  # `global` after `:env:`
    return {
        f"PIP_{name.rpartition('.')[2].replace('-', '_').upper()}": ast.literal_eval(value) for name, value in pairs
    }


def find_local_paths(settings: dict[str, str]) -> set[Path]:
    """Return the files and folders that the settings name; for an index, its folder."""
    words = " ".join(settings.values()).split()
    named = {Path(word.removeprefix("file://")) for word in words if re.match("(file://)?/", word)}
    return {path.parent if path.name == "simple" else path for path in named if path.exists()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a chroot")
@pytest.mark.skipif(not shutil.which("debootstrap"), reason="needs Debian's package debootstrap")
def test_every_command_works_without_procps(debian: Path) -> None:
    settings = read_pip_settings()
    mounts = [f"mount -t proc proc '{debian}/proc'", f"mount --rbind /dev '{debian}/dev'"]
    for path in find_local_paths(settings):
        inside = debian / path.relative_to("/")
        (inside if path.is_dir() else inside.parent).mkdir(parents=True, exist_ok=True)
        inside.touch()
        mounts.append(f"mount --bind '{path}' '{inside}'")
    (debian / "root" / "commands").write_text(COMMANDS)
    script = " && ".join([*mounts, f"exec chroot '{debian}' /bin/sh /root/commands"])
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"} | settings
    try:
        said = run("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, **environment)
    finally:
        print((debian / "root" / "checkout" / "serve.log").read_text()[-5000:])
    assert re.search(r"handler/smoke/7\.png\t7\t", said)
