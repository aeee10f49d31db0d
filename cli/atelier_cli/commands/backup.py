"""`atelier backup` and `atelier restore`: everything that a system keeps, as it was at one moment."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atelier_cli.commands.care import MIGRATED
from atelier_cli.context import Context
from atelier_cli.exits import INCOMPLETE, OK, UsageError, complain

if TYPE_CHECKING:
    from service_kit.backup import Service
    from service_kit.backup.blob_copies import Copied

_WITH_BLOBS = ("asset", "library")
_TOLD = 100


def services() -> list[Service]:
    """Return the services that have a database, and what their rows know of blobs."""
    from service_kit.backup import Service

    found = []
    for name in MIGRATED:
        storage = f"{name}_service.storage"
        if name in _WITH_BLOBS:
            kept = importlib.import_module(f"{storage}.kept_blobs")
            found.append(Service(name, f"{storage}.migrations", kept.kept_blobs, kept.regenerate))
        else:
            found.append(Service(name, f"{storage}.migrations"))
    return found


def backup(context: Context) -> int:
    """Add a snapshot to a folder of backups. Ends with INCOMPLETE if a blob is missing, unless that is allowed."""
    from service_kit.backup import back_up

    if context.arguments.keep < 1:
        raise UsageError("--keep takes the number of snapshots, at least 1")
    root = Path(context.arguments.dest).expanduser()
    with _shown(context) as tell:
        done = asyncio.run(back_up(context.settings, services(), root, keep=context.arguments.keep, tell=tell))
    manifest = done.manifest
    if context.json:
        context.print_json(
            {
                "snapshot": str(done.folder),
                "created_at": manifest.created_at,
                "blobs": manifest.blobs,
                "blob_bytes": manifest.blob_bytes,
                "new_blobs": done.new_blobs,
                "missing": [f"{bucket}/{key}" for bucket, key in done.missing],
                "lost": list(manifest.lost),
            }
        )
    else:
        context.print(str(done.folder))
        context.note(f"{manifest.blobs} blobs, {done.new_blobs} of them new, {manifest.blob_bytes >> 20} MiB in all")
        context.note("it holds the keys of the system: keep it where only you can read it")
    if not done.missing:
        return OK
    lost = set(manifest.lost)
    for place in map("/".join, done.missing[:_TOLD]):
        what = "no snapshot has it" if place in lost else "an earlier snapshot has it, and this one keeps it"
        complain(f"missing: {place} is not where a row says that it is; {what}")
    if len(done.missing) > _TOLD:
        complain(f"and {len(done.missing) - _TOLD} more; --json names them all")
    return OK if context.arguments.allow_missing else INCOMPLETE


def restore(context: Context) -> int:
    """Put a backup in its place on an empty machine."""
    from service_kit.backup import restore as put_back

    source = Path(context.arguments.source).expanduser()
    with _shown(context) as tell:
        manifest = asyncio.run(put_back(context.settings, services(), source, tell=tell))
    if context.json:
        context.print_json({"created_at": manifest.created_at, "blobs": manifest.blobs})
    else:
        context.print(f"restored the state of {manifest.created_at}: {manifest.blobs} blobs")
    return OK


@contextmanager
def _shown(context: Context) -> Iterator[Callable[[Copied], None]]:
    """Give what shows how many blobs were copied; only on a terminal."""
    if context.json or not sys.stderr.isatty():
        yield lambda copied: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("databases", total=None)
        yield lambda copied: progress.update(
            task, description=f"{copied.blobs} blobs, {copied.new} new, {copied.blob_bytes >> 20} MiB"
        )
