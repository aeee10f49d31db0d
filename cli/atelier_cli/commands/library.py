"""`atelier library`: what was saved for good."""

from __future__ import annotations

from pathlib import Path

from atelier_cli.commands.jobs import moment
from atelier_cli.commands.shelves import print_items
from atelier_cli.commands.workspace import folder, open_url, print_files
from atelier_cli.context import Context
from atelier_cli.exits import OK, REFUSED, UsageError


def list_items(context: Context) -> int:
    """List items, newest first; an empty list says why it is empty."""
    arguments = context.arguments
    with context.client() as client:
        page = client.items(format=arguments.format, page_size=arguments.page_size, page_token=arguments.page_token)
    return print_items(context, page)


def show(context: Context) -> int:
    """Show one item."""
    with context.client() as client:
        item = client.get_item(context.arguments.item_id)
    if context.json:
        context.print_json({"item": item.raw})
        return OK
    media, made = item.media, item.provenance
    lines = {
        "item": item.item_id,
        "asset": item.asset_id,
        "type": f"{media.content_type} {media.width}x{media.height} {media.size_bytes} bytes",
        "sha256": media.sha256,
        "title": item.title,
        "tags": ", ".join(item.tags),
        "notes": item.notes,
        "prompt": made.prompt,
        "enhanced": made.enhanced_prompt,
        "enhancer": str(made.enhanced_by or ""),
        "made by": f"{made.settings.model} seed {made.seed} engine {made.engine}" if made.job_id else "",
        "job": f"{made.job_id} output {made.asset_index}" if made.job_id else "",
        "saved": moment(item.created_at),
        "url": item.url,
    }
    for name, value in lines.items():
        if value:
            context.print(f"{name:9} {value}")
    return OK


def open_item(context: Context) -> int:
    """Open an item in the browser."""
    with context.client() as client:
        url = client.get_item(context.arguments.item_id).url
    return open_url(context, url)


def save(context: Context) -> int:
    """Save assets for good; ends with `refused` when one of them was not."""
    with context.client() as client:
        results = client.save(*context.arguments.asset_ids)
    if context.json:
        context.print_json({"results": [result.raw for result in results]})
    for result in results:
        if result.item is not None and not context.json:
            context.print(f"{result.asset_id} saved as {result.item.item_id}")
        elif result.failure is not None:
            context.note(f"{result.asset_id} not saved: {result.failure.message} ({result.failure.reason})")
    return OK if all(result.item is not None for result in results) else REFUSED


def download(context: Context) -> int:
    """Download items, each as a file or all as one archive."""
    arguments = context.arguments
    if not arguments.zip and (not arguments.item_ids or arguments.query or arguments.collection):
        raise UsageError("Name the items; --query and --collection go with --zip.")
    if arguments.zip:
        if not (arguments.item_ids or arguments.query or arguments.collection):
            raise UsageError("Name the items of the archive, or say --query or --collection.")
        with context.client() as client:
            path = client.download_zip(
                *arguments.item_ids,
                to=Path(arguments.zip).expanduser(),
                query=arguments.query,
                collection_id=arguments.collection,
            )
        print_files(context, [path])
        return OK
    target = folder(context)
    with context.client() as client:
        files = [client.download(client.get_item(item_id), target) for item_id in context.arguments.item_ids]
    print_files(context, files)
    return OK


def delete(context: Context) -> int:
    """Delete items, for good."""
    with context.client() as client:
        for item_id in context.arguments.item_ids:
            client.delete_item(item_id, permanently=True)
            if not context.json:
                context.print(f"{item_id} deleted")
    if context.json:
        context.print_json({})
    return OK
