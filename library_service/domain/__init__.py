"""Items, their files and the blobs behind them: what the library is about. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from library_service.domain.words import NO_LABELS, Facts, Labels
from service_kit.errors import AtelierError
from service_kit.identity import Owner

MAIN_FILE = ""
"""The rendition name of an item's own bytes."""


class BlobState(StrEnum):
    """The life of a blob of the library. It only ever goes forward."""

    COPYING = "copying"
    LIVE = "live"
    DELETING = "deleting"


class EmptyState(StrEnum):
    """Why a list has no items."""

    NOTHING_SAVED = "nothing_saved"
    NOTHING_MATCHES = "nothing_matches"


@dataclass(frozen=True, slots=True)
class Media:
    """What the bytes of one file are, as the asset service measured them; dimensions in pixels."""

    content_type: str
    size_bytes: int
    sha256: str
    width: int
    height: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes lie."""

    bucket: str
    key: str
    generation: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of an item or asset: `rendition` is a kind such as `thumb_256`, or `MAIN_FILE`."""

    rendition: str
    media: Media
    place: Place


@dataclass(frozen=True, slots=True)
class HeldAsset:
    """An asset whose bytes stay for a time. Its own file comes first; `provenance` is the message as it came.

    One that was copied from an item names it in `source_item_id`; one that `awaits_renditions` gets more files later.
    """

    asset_id: str
    format: str
    provenance: bytes
    files: tuple[StoredFile, ...]
    facts: Facts | None = None
    source_item_id: str = ""
    awaits_renditions: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in a library, or what is left of it: a deleted item has no files and no provenance.

    An item in the trash has everything, and `trashed_at`: nobody sees it but in the trash, its asset is not saved, and
    saving the asset brings it back.
    """

    item_id: str
    owner: Owner
    asset_id: str
    format: str
    provenance: bytes
    files: tuple[StoredFile, ...]
    created_at: datetime
    deleted_at: datetime | None
    version: int
    trashed_at: datetime | None = None
    labels: Labels = NO_LABELS
    notes: str = ""
    title_key: str = ""


@dataclass(frozen=True, slots=True)
class Copying:
    """A copy that was announced by a row before its first byte: from `source` to a fresh key of the library."""

    blob_id: str
    bucket: str
    key: str
    source: StoredFile


@dataclass(frozen=True, slots=True)
class SaveResult:
    """What became of one asset: an item, or the reason why it stays where it was."""

    asset_id: str
    item: Item | None = None
    failure: AtelierError | None = None


@dataclass(frozen=True, slots=True)
class ClearResult:
    """What became of one asset: it is saved as an item and no longer in the workspace, or why it stays there."""

    asset_id: str
    item: Item | None = None
    failure: AtelierError | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """As which item an asset is saved; empty: it is not. `version` grows with every change for this asset."""

    owner: Owner
    asset_id: str
    item_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of items. `next_page_token` is empty on the last."""

    items: tuple[Item, ...]
    next_page_token: str
    empty_state: EmptyState | None


@dataclass(frozen=True, slots=True)
class ItemSaved:
    """An item was saved."""

    cursor: str
    item: Item


@dataclass(frozen=True, slots=True)
class ItemChanged:
    """What its owner says of an item was changed."""

    cursor: str
    item: Item


@dataclass(frozen=True, slots=True)
class ItemDeleted:
    """An item was deleted."""

    cursor: str
    item: Item


@dataclass(frozen=True, slots=True)
class ItemsSnapshot:
    """The newest items, for a watcher that does not resume."""

    cursor: str
    items: tuple[Item, ...]


ItemEvent = ItemSaved | ItemChanged | ItemDeleted | ItemsSnapshot
