"""Management on the server's own machine, where archives can be checked before they are registered."""

from contextlib import suppress
from typing import Any

from digits_client.management import ManagementClient
from digits_client.smoke_test import Smoke
from digits_client.types import Version
from serving.archive import check_archive, read_smoke
from serving.config import Config, ServingError


class LocalManagementClient(ManagementClient):
    """Accepts only archives of our own store that are unchanged, else raises ServingError.

    Smoke images come from the archive itself.
    """

    def __init__(self, config: Config, **options: Any) -> None:
        self.store = config.model_store
        super().__init__(**{"server": config.make_server()} | options)

    def register(self, archive: str) -> Version:
        return super().register(check_archive(self.store, archive).path.name)

    def promote(self, version: str) -> Version:
        check_archive(self.store, self.get_version(version).archive)
        return super().promote(version)

    def read_smoke(self, version: Version) -> Smoke:
        """Return the smoke images of the archive, or of the version's description if the archive cannot be read."""
        with suppress(ServingError):
            return read_smoke(self.store / version.archive)
        return super().read_smoke(version)
