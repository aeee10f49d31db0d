"""Items of a library, its collections, how many there are, and what came of a save."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from atelier_client.models.assets import Media, Provenance, Rendition
from atelier_client.models.base import as_it_came
from atelier_client.models.generation import Failure


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in a library. `url` is signed: fetch it without a key until `url_expires_at`."""

    item_id: str = ""
    asset_id: str = ""
    format: str = ""
    media: Media = dataclasses.field(default_factory=Media)
    provenance: Provenance = dataclasses.field(default_factory=Provenance)
    renditions: tuple[Rendition, ...] = ()
    url: str = ""
    url_expires_at: datetime | None = None
    created_at: datetime | None = None
    version: int = 0
    trashed_at: datetime | None = None
    title: str = ""
    notes: str = ""
    is_favourite: bool = False
    tags: tuple[str, ...] = ()
    collection_ids: tuple[str, ...] = ()
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Collection:
    """A named heap of items; `size` counts those outside the trash."""

    collection_id: str = ""
    name: str = ""
    size: int = 0
    created_at: datetime | None = None
    version: int = 0
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class ItemCount:
    """How many items have something, such as a tag."""

    name: str = ""
    count: int = 0
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class ItemCounts:
    """How many items there are, and of what; with `is_bound` there are more than were counted."""

    total: int = 0
    is_bound: bool = False
    favourites: int = 0
    formats: tuple[ItemCount, ...] = ()
    models: tuple[ItemCount, ...] = ()
    tags: tuple[ItemCount, ...] = ()
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """What became of one item: nothing to say when it is as it was asked, or why it was not changed."""

    item_id: str = ""
    failure: Failure | None = None
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class SaveResult:
    """What became of one asset: the item that keeps it, or why it was not saved."""

    asset_id: str = ""
    item: Item | None = None
    failure: Failure | None = None
    raw: Mapping[str, Any] = as_it_came()
