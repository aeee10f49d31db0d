"""What other systems say about files that are brought in: kept until the bytes come, which make one asset per key."""

from __future__ import annotations

import re

from asset_service.domain import Asset
from asset_service.storage import Storage, Transaction
from service_kit.errors import FailedPrecondition, InvalidArgument
from service_kit.identity import Owner
from service_kit.ids import new_id

_KEY = re.compile(r"[0-9a-f]{64}")


class Imports:
    """Descriptions of files that are about to be brought in."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def describe(self, owner: Owner, import_key: str, provenance: bytes) -> tuple[str, Asset | None]:
        """Keep what is said about a file. Returns the id of its asset, and the asset when it was brought in before.

        Raises:
            InvalidArgument: the key is not 64 lower-case hexadecimal digits.
        """
        check_key(import_key)
        async with self._storage.write() as tx:
            await tx.erased.refuse(owner)
            asset_id = await tx.imports.describe(owner, import_key, new_id(), provenance)
            return asset_id, await tx.assets.find(asset_id, owner)

    async def find(self, owner: Owner, import_key: str) -> tuple[str, Asset | None]:
        """Return the id of the asset of an import, and the asset when it was brought in before.

        Raises:
            FailedPrecondition: the import was not described.
        """
        check_key(import_key)
        async with self._storage.read() as tx:
            asset_id = await tx.imports.find(owner, import_key)
            if asset_id is None:
                raise not_described()
            return asset_id, await tx.assets.find(asset_id, owner)


async def take_provenance(tx: Transaction, owner: Owner, import_key: str) -> bytes:
    """Return the provenance of an import, which nobody else can take before the transaction ends.

    Raises:
        FailedPrecondition: the import was not described.
    """
    provenance = await tx.imports.take(owner, import_key)
    if provenance is None:
        raise not_described()
    return provenance


def check_key(import_key: str) -> None:
    """Raise InvalidArgument unless a text may name an import."""
    if not _KEY.fullmatch(import_key):
        raise InvalidArgument.field("import_key", "must be 64 lower-case hexadecimal digits")


def not_described() -> FailedPrecondition:
    """Return what is said of a key that nobody has described."""
    return FailedPrecondition("The import was not described, or too long ago: describe it (again) before its bytes.")
