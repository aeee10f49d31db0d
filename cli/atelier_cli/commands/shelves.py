"""`atelier library`: what owners do with items that they have: search, tag, trash, restore, collect."""

from __future__ import annotations

import argparse
from typing import Any

from atelier_cli.commands.jobs import moment, shortened
from atelier_cli.context import Context
from atelier_cli.exits import OK, REFUSED, UsageError

_EMPTY = {"nothing_saved": "nothing is saved yet", "nothing_matches": "something is saved, but nothing matches"}


def search(context: Context) -> int:
    """List items that have everything that is asked; with `--count` only say how many."""
    arguments = context.arguments
    filters = filters_of(arguments)
    with context.client() as client:
        if arguments.count:
            return _count(context, client.count_items(**filters))
        page = client.items(
            sort=arguments.sort, page_size=arguments.page_size, page_token=arguments.page_token, **filters
        )
    return print_items(context, page)


def filters_of(arguments: argparse.Namespace) -> Any:
    """Return what narrows a list, as the client takes it."""
    return {
        "query": " ".join(arguments.words),
        "format": arguments.format,
        "model": arguments.model,
        "seed": arguments.seed,
        "tags": arguments.tags,
        "collection_id": arguments.collection,
        "favourites": arguments.favourites,
        "trashed": arguments.trashed,
    }


def print_items(context: Context, page: Any) -> int:
    """Print a page of items; an empty one says why it is empty."""
    if context.json:
        context.print_json(page.raw)
        return OK
    rows = [
        (
            item.item_id,
            item.media.content_type,
            f"{item.media.width}x{item.media.height}",
            moment(item.created_at),
            shortened(item.title or item.provenance.prompt),
        )
        for item in page
    ]
    context.table(("ITEM", "TYPE", "SIZE", "SAVED", "TITLE OR PROMPT"), rows)
    if page.next_page_token:
        context.note(f"more: --page-token {page.next_page_token}")
    if not len(page):
        context.note(_EMPTY.get(page.empty_state, "nothing"))
    return OK


def _count(context: Context, counts: Any) -> int:
    if context.json:
        context.print_json(counts.raw)
        return OK
    context.print(f"{counts.total}{' or more' if counts.is_bound else ''} items, {counts.favourites} favourites")
    for name, parts in (("format", counts.formats), ("model", counts.models), ("tag", counts.tags)):
        for part in parts:
            context.print(f"{name:8} {part.name}: {part.count}")
    return OK


def tag(context: Context) -> int:
    """Give items tags, take them away, make favourites."""
    arguments = context.arguments
    changes: dict[str, Any] = {"add_tags": arguments.add, "remove_tags": arguments.remove}
    if arguments.favourite is not None:
        changes["is_favourite"] = arguments.favourite
    if not any((arguments.add, arguments.remove, arguments.favourite is not None)):
        raise UsageError("nothing to change: give --add, --remove, --favourite or --no-favourite.")
    return _change(context, "changed", changes)


def trash(context: Context) -> int:
    """Put items into the trash; without items list what is in it."""
    if context.arguments.item_ids:
        return _change(context, "in the trash", {"move": "trash"})
    with context.client() as client:
        return print_items(context, client.items(trashed=True))


def restore(context: Context) -> int:
    """Take items out of the trash."""
    return _change(context, "restored", {"move": "restore"})


def collect(context: Context) -> int:
    """Put items into a collection, take them out of one, or both at once."""
    arguments = context.arguments
    if not (arguments.into or arguments.out_of):
        raise UsageError("nothing to change: give --into, --out-of or both.")
    changes = {"add_to_collection_id": arguments.into, "remove_from_collection_id": arguments.out_of}
    return _change(context, "collected", {name: value for name, value in changes.items() if value})


def collections(context: Context) -> int:
    """List collections; make, rename or delete one."""
    arguments = context.arguments
    with context.client() as client:
        if arguments.delete:
            client.delete_collection(arguments.delete)
        elif arguments.rename:
            client.rename_collection(*arguments.rename)
        elif arguments.create:
            client.create_collection(arguments.create)
        page = client.collections()
    if context.json:
        context.print_json(page.raw)
        return OK
    context.table(("COLLECTION", "ITEMS", "NAME"), [(each.collection_id, str(each.size), each.name) for each in page])
    if not len(page):
        context.note("no collections")
    return OK


def _change(context: Context, done: str, changes: Any) -> int:
    """Change items; ends with `refused` when one of them was not changed."""
    with context.client() as client:
        results = client.change_items(*context.arguments.item_ids, **changes)
    if context.json:
        context.print_json({"results": [result.raw for result in results]})
    for result in results:
        if result.failure is not None:
            context.note(f"{result.item_id} not changed: {result.failure.message} ({result.failure.reason})")
        elif not context.json:
            context.print(f"{result.item_id} {done}")
    return OK if all(result.failure is None for result in results) else REFUSED
