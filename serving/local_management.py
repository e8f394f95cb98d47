"""Management client for the server's own machine, where archives can be checked before they are registered."""

from contextlib import suppress
from typing import Any

from digits_client.management import ManagementClient
from digits_client.smoke_test import Smoke
from digits_client.types import Version
from serving.archive import check_archive, read_smoke
from serving.config import Config, ServingError


class LocalManagementClient(ManagementClient):
    """ManagementClient that raises ServingError unless an archive is unchanged and in the model store."""

    def __init__(self, config: Config, **options: Any) -> None:
        self.store = config.model_store
        super().__init__(**{"server": config.make_server()} | options)

    def register(self, archive: str) -> Version:
        return super().register(check_archive(self.store, archive).path.name)

    def promote(self, version: str) -> Version:
        check_archive(self.store, self.get_version(version).archive)
        return super().promote(version)

    def read_smoke(self, version: Version) -> Smoke:
        """Return the smoke images in the archive, or in the version's description if the archive cannot be read."""
        with suppress(ServingError):
            return read_smoke(self.store / version.archive)
        return super().read_smoke(version)
