"""The requests about a library: its items and collections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict

from atelier_client._calls.call import Body, Call, one, only_given, page_of, path_of
from atelier_client._decode import decode
from atelier_client.models import (
    ChangeResult,
    Collection,
    Item,
    ItemCounts,
    Page,
)


class ItemFilters(TypedDict, total=False):
    """What narrows a list of items; what is left out does not.

    Attributes:
        format: `image` or `video`.
        query: words of prompts, titles and tags; the last may be the beginning of one.
        model: the model's name, as the item's settings have it.
        seed: the very seed.
        tags: all of these.
        collection_id: in this collection.
        favourites: only favourites.
        created_from_at: saved then or later; with a time zone.
        created_until_at: saved before; with a time zone.
        trashed: what is in the trash, instead of what is not.
    """

    format: str
    query: str
    model: str
    seed: int | None
    tags: Sequence[str]
    collection_id: str
    favourites: bool
    created_from_at: datetime | None
    created_until_at: datetime | None
    trashed: bool


def _filters(filters: ItemFilters) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, value in filters.items():
        match value:
            case datetime():
                params[name] = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
            case bool():
                params |= {name: "true"} if value else {}
            case None | "" | () | []:
                continue
            case _:
                params[name] = value
    return params


def archived(item_ids: Sequence[str], filters: ItemFilters) -> dict[str, Any]:
    """Return what `POST /v1/items.zip` is asked: some items, or those that filters leave, or both."""
    # In a body a truth value is one; in an address it is a word.
    truths = {name: value for name, value in filters.items() if value is True}
    asked = _filters(filters) | truths | {"item_ids": list(item_ids)}
    return {name: value for name, value in asked.items() if value != []}


def list_items(filters: ItemFilters, sort: str, page_size: int | None, page_token: str) -> Call[Page[Item]]:
    """`GET /v1/items`."""
    params = _filters(filters) | only_given(sort=sort, page_size=page_size, page_token=page_token)
    return Call("GET", "/v1/items", page_of(Item, "items"), params=params)


def count_items(filters: ItemFilters) -> Call[ItemCounts]:
    """`GET /v1/item-counts`."""
    return Call("GET", "/v1/item-counts", lambda body: decode(ItemCounts, body), params=_filters(filters))


class ItemChanges(TypedDict, total=False):
    """What is done to many items; what is left out stays as it is.

    Attributes:
        move: `trash`, `restore` or `delete` (for good).
        add_tags: tags that they get.
        remove_tags: tags that they lose.
        is_favourite: whether they are favourites.
        add_to_collection_id: the collection that they are put into.
        remove_from_collection_id: the collection that they are taken out of.
    """

    move: str
    add_tags: Sequence[str]
    remove_tags: Sequence[str]
    is_favourite: bool
    add_to_collection_id: str
    remove_from_collection_id: str


def change_items(item_ids: Iterable[str], changes: ItemChanges) -> Call[tuple[ChangeResult, ...]]:
    """`POST /v1/change-items`."""

    def read(body: Body) -> tuple[ChangeResult, ...]:
        return tuple(decode(ChangeResult, entry) for entry in body.get("results") or ())

    lists = {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in changes.items()}
    return Call("POST", "/v1/change-items", read, json={"item_ids": list(item_ids)} | lists)


def get_recipe(item_id: str, as_enhanced: bool) -> Call[dict[str, Any]]:
    """`GET /v1/items/{item_id}/recipe`."""
    params = {"as_enhanced": "true"} if as_enhanced else {}
    path = path_of("/v1/items/{}/recipe", item_id)
    return Call("GET", path, lambda body: dict(body.get("request") or {}), params=params)


def create_collection(name: str) -> Call[Collection]:
    """`POST /v1/collections`."""
    return Call("POST", "/v1/collections", one(Collection, "collection"), json={"name": name})


def list_collections() -> Call[Page[Collection]]:
    """`GET /v1/collections`."""
    return Call("GET", "/v1/collections", page_of(Collection, "collections"))


def rename_collection(collection_id: str, name: str) -> Call[Collection]:
    """`PATCH /v1/collections/{collection_id}`."""
    path = path_of("/v1/collections/{}", collection_id)
    return Call("PATCH", path, one(Collection, "collection"), json={"name": name})


def delete_collection(collection_id: str) -> Call[None]:
    """`DELETE /v1/collections/{collection_id}`."""
    return Call("DELETE", path_of("/v1/collections/{}", collection_id), lambda body: None)


def get_item(item_id: str) -> Call[Item]:
    """`GET /v1/items/{item_id}`."""
    return Call("GET", path_of("/v1/items/{}", item_id), one(Item, "item"))


def update_item(
    item_id: str, title: str | None, notes: str | None, is_favourite: bool | None, tags: Iterable[str] | None
) -> Call[Item]:
    """`PATCH /v1/items/{item_id}`; what is None stays as it is."""
    said = {"title": title, "notes": notes, "is_favourite": is_favourite}
    body: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if tags is not None:
        body["tags"] = {"tags": list(tags)}
    return Call("PATCH", path_of("/v1/items/{}", item_id), one(Item, "item"), json=body)


def delete_item(item_id: str, permanently: bool) -> Call[None]:
    """`DELETE /v1/items/{item_id}`."""
    params = {"permanently": "true"} if permanently else {}
    return Call("DELETE", path_of("/v1/items/{}", item_id), lambda body: None, params=params)
