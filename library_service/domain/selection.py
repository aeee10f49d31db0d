"""What an owner asks of a library: which items, in which order, from where on. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service_kit.clock import parse_rfc3339, rfc3339
from service_kit.paging import decode_page_token, encode_page_token, not_of_this_list

Place = tuple[datetime | str, str]
"""Where a list goes on: what it is sorted by of the last item, and that item's id."""


class Sort(StrEnum):
    """The order of a list; equals come in the order of their ids."""

    NEWEST = "newest"
    OLDEST = "oldest"
    TITLE = "title"


@dataclass(frozen=True, slots=True)
class Selection:
    """Items that have all of this; what is empty or None does not narrow.

    `text` is words of prompts, titles and tags, the last of which may be the beginning of one. `created_from` is
    included, `created_until` is not.
    """

    text: str = ""
    format: str | None = None
    model: str | None = None
    seed: int | None = None
    is_favourite: bool = False
    tags: tuple[str, ...] = ()
    collection_id: str | None = None
    created_from: datetime | None = None
    created_until: datetime | None = None
    item_ids: tuple[str, ...] = ()
    in_trash: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """How many items a selection has; more than that when it is a bound. The parts add up to what was counted."""

    total: int
    is_bound: bool
    favourites: int
    formats: Mapping[str, int]
    models: Mapping[str, int]
    tags: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Collection:
    """A named heap of items; `size` counts those outside the trash."""

    collection_id: str
    name: str
    created_at: datetime
    version: int
    size: int


def encode_place(sort: Sort, place: Place) -> str:
    """Return the token of a page that goes on after a place."""
    key, item_id = place
    return encode_page_token(_kind(sort), [key if isinstance(key, str) else rfc3339(key), item_id])


def decode_place(sort: Sort, token: str) -> Place:
    """Return what `encode_place` was given for the same order.

    Raises:
        InvalidArgument: it is not such a token.
    """
    match decode_page_token(_kind(sort), token):
        case [str(key), str(item_id)]:
            try:
                return (key if sort is Sort.TITLE else parse_rfc3339(key)), item_id
            except ValueError:
                raise not_of_this_list() from None
        case _:
            raise not_of_this_list()


def _kind(sort: Sort) -> str:
    # Tokens of the newest first are older than the other orders.
    return "library.items" if sort is Sort.NEWEST else f"library.items.{sort.value}"
