"""Servers and models that tests share: real TorchServe, real archives, free ports."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from playwright.sync_api import Browser

import training.torchvision_import  # noqa: F401 - makes torchvision importable beside a CPU-only torch
from digits_client.client import DigitsClient
from digits_client.exceptions import TOKEN_VARIABLES
from handler.digit_handler import DigitHandler
from serving.config import Config
from serving.local_management import LocalManagementClient
from tests.archives import CACHE, copy_project, provide_archive
from tests.browser import DrawPage, launch_chromium
from tests.handler_calls import make_context
from tests.servers import configure_with_archives, run_supervised

os.environ["LOKY_MAX_CPU_COUNT"] = "2"  # tests expect two workers on any machine
for variable in ("DIGITS_HOME", *TOKEN_VARIABLES.values()):  # they may name a server of the user
    os.environ.pop(variable, None)


def pytest_configure(config: pytest.Config) -> None:
    """Share archives among the run's processes; give children a SIGINT that works, also below a background shell."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if CACHE not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="archives-")
        config.add_cleanup(folder.cleanup)
        os.environ[CACHE] = folder.name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="DIR", help="write the screenshots there: docs for the README")


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration with free ports and a store that contains version 1.0."""
    return configure_with_archives(tmp_path_factory.mktemp("server"), "1.0")


@pytest.fixture(scope="session")
def server(config: Config) -> Iterator[Config]:
    """TorchServe with version 1.0, ready."""
    with run_supervised(config):
        yield config


@pytest.fixture
def client(server: Config) -> Iterator[DigitsClient]:
    """A client without retries, so that a test sees the server's first response."""
    with DigitsClient(server=server.make_server(), retries=0) as client:
        yield client


@pytest.fixture
def management(server: Config) -> Iterator[LocalManagementClient]:
    """A management client of the same server, without retries."""
    with LocalManagementClient(server, retries=0) as client:
        yield client


@pytest.fixture
def own(tmp_path: Path) -> Config:
    """A configuration for a server that the test starts and stops itself."""
    return configure_with_archives(tmp_path, "1.0")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of an archive's sources, which the test may change."""
    return copy_project(tmp_path)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of version 2.5, unpacked as TorchServe does it."""
    folder = tmp_path_factory.mktemp("model_dir")
    with ZipFile(provide_archive("2.5", tmp_path_factory.mktemp("store"))) as mar:
        mar.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def handler(model_dir: Path) -> DigitHandler:
    """The handler as a worker initializes it."""
    threads = torch.get_num_threads()
    handler = DigitHandler()
    handler.initialize(make_context(model_dir, 0))
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    return handler


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; for a module alone, as Playwright occupies the thread's event loop."""
    with launch_chromium() as launched:
        yield launched


@contextmanager
def open_draw_page(browser: Browser, server: Config, **options: Any) -> Iterator[DrawPage]:
    """Open the page; its console must stay empty."""
    with browser.new_context(**options) as context:
        page = DrawPage(context, server)
        yield page
        assert page.errors == []


@pytest.fixture
def desktop(browser: Browser, server: Config) -> Iterator[DrawPage]:
    """The page on a desktop computer."""
    with open_draw_page(browser, server, viewport={"width": 1100, "height": 900}) as page:
        yield page


@pytest.fixture
def phone(browser: Browser, server: Config) -> Iterator[DrawPage]:
    viewport = {"width": 360, "height": 740}
    options = {"viewport": viewport, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    with open_draw_page(browser, server, color_scheme="dark", **options) as page:
        yield page
