"""`atelier workspace`: what jobs made and what was brought in, until it expires."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from atelier_cli.commands.jobs import moment, shortened
from atelier_cli.context import Context
from atelier_cli.exits import OK, REFUSED, UsageError


def folder(context: Context) -> Path:
    """Return the folder of --out, made if it is not there."""
    path = Path(context.arguments.out).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def list_assets(context: Context) -> int:
    """List assets, newest first."""
    arguments = context.arguments
    with context.client() as client:
        page = client.assets(arguments.job_id, page_size=arguments.page_size, page_token=arguments.page_token)
    if context.json:
        context.print_json(page.raw)
        return OK
    context.table(
        ("ASSET", "TYPE", "SIZE", "SAVED", "EXPIRES", "WHAT"),
        [
            (
                asset.asset_id,
                asset.media.content_type,
                f"{asset.media.width}x{asset.media.height}",
                "saved" if asset.saved_item_id else "-",
                moment(asset.expires_at),
                shortened(asset.provenance.prompt or asset.filename),
            )
            for asset in page
        ],
    )
    if page.next_page_token:
        context.note(f"more: --page-token {page.next_page_token}")
    if not len(page):
        context.note("nothing in the workspace")
    return OK


def show(context: Context) -> int:
    """Show one asset."""
    with context.client() as client:
        asset = client.get_asset(context.arguments.asset_id)
    if context.json:
        context.print_json({"asset": asset.raw})
        return OK
    media, made = asset.media, asset.provenance
    lines = {
        "asset": asset.asset_id,
        "type": f"{media.content_type} {media.width}x{media.height} {media.size_bytes} bytes",
        "sha256": media.sha256,
        "job": f"{asset.job_id} output {asset.asset_index}" if asset.job_id else "",
        "file": asset.filename,
        "prompt": made.prompt,
        "enhanced": made.enhanced_prompt,
        "enhancer": str(made.enhanced_by or ""),
        "made by": f"{made.settings.model} seed {made.seed} engine {made.engine}" if asset.job_id else "",
        "saved as": asset.saved_item_id,
        "expires": moment(asset.expires_at),
        "url": asset.url,
    }
    for name, value in lines.items():
        if value:
            context.print(f"{name:9} {value}")
    return OK


def open_asset(context: Context) -> int:
    """Open an asset in the browser; print its address for where there is none."""
    with context.client() as client:
        url = client.get_asset(context.arguments.asset_id).url
    return open_url(context, url)


def open_url(context: Context, url: str) -> int:
    """Print a signed address and hand it to the browser."""
    context.print_json({"url": url}) if context.json else context.print(url)
    if not webbrowser.open(url):
        context.note("no browser was found: open the address yourself")
    return OK


def download(context: Context) -> int:
    """Download assets."""
    target = folder(context)
    with context.client() as client:
        files = [client.download(client.get_asset(asset_id), target) for asset_id in context.arguments.asset_ids]
    print_files(context, files)
    return OK


def print_files(context: Context, files: list[Path]) -> None:
    """Print the paths of files that were written."""
    if context.json:
        context.print_json({"files": [str(path) for path in files]})
    else:
        for path in files:
            context.print(str(path))


def discard(context: Context) -> int:
    """Remove assets from the workspace."""
    with context.client() as client:
        assets = [client.discard(asset_id) for asset_id in context.arguments.asset_ids]
    if context.json:
        context.print_json({"assets": [asset.raw for asset in assets]})
    else:
        for asset in assets:
            context.print(f"{asset.asset_id} {asset.state}")
    return OK


def clear(context: Context) -> int:
    """Save what is not saved, and remove it; tell what became of each asset."""
    arguments = context.arguments
    if bool(arguments.asset_ids) + bool(arguments.job_id) + arguments.all != 1:
        raise UsageError("Name assets, or a job with --job, or take --all.")
    with context.client() as client:
        if arguments.all:
            page = client.clear_workspace()
            results = list(page)
            while page.next_page_token:
                page = client.clear_workspace(page_token=page.next_page_token)
                results += page
        elif arguments.job_id:
            results = list(client.clear_job(arguments.job_id))
        else:
            results = list(client.clear(*arguments.asset_ids))
    if context.json:
        context.print_json({"results": [result.raw for result in results]})
    for result in results:
        if not context.json and result.item is not None:
            context.print(f"{result.asset_id} is saved as {result.item.item_id} and removed")
        elif result.failure is not None:
            context.note(f"{result.asset_id} stays: {result.failure.message}")
    return OK if all(result.failure is None for result in results) else REFUSED


def upload(context: Context) -> int:
    """Bring in pictures."""
    with context.client() as client:
        assets = [client.upload(Path(file).expanduser()) for file in context.arguments.files]
    if context.json:
        context.print_json({"assets": [asset.raw for asset in assets]})
    else:
        for asset in assets:
            media = asset.media
            context.print(f"{asset.asset_id}  {media.content_type}  {media.width}x{media.height}  {asset.filename}")
    return OK
