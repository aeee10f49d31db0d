"""`atelier config show`, `migrate` and `completion`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from atelier_cli.context import Context
from atelier_cli.exits import OK

if TYPE_CHECKING:
    from service_kit.settings import Settings

MIGRATED = ("router", "asset", "library")
"""The services that have a database."""


def config_show(context: Context) -> int:
    """Show every setting, its value and where it comes from."""
    rows = context.settings.explain()
    if context.json:
        context.print_json({"settings": [{"name": row.name, "value": row.value, "source": row.source} for row in rows]})
    else:
        context.table(("NAME", "VALUE", "SOURCE"), [(row.name, row.value or "-", row.source) for row in rows])
    return OK


def migrate(context: Context) -> int:
    """Bring the databases of all services, or of one, up to date; refused while a service holds its folder."""
    chosen = context.arguments.service
    reached = asyncio.run(migrate_services(context.settings, (chosen,) if chosen else MIGRATED))
    if context.json:
        context.print_json({"services": [{"name": name, "revision": revision} for name, revision in reached.items()]})
    else:
        for name, revision in reached.items():
            context.print(f"{name}: {f'now at {revision}' if revision else 'was up to date'}")
    return OK


async def migrate_services(settings: Settings, names: Iterable[str]) -> dict[str, str | None]:
    """Bring databases up to date. Returns for each service the revision that was reached; None if it was there."""
    from service_kit.database import Database
    from service_kit.migrate import ensure_schema

    reached: dict[str, str | None] = {}
    for name in names:
        db = await Database.open_service(settings, name)
        try:
            reached[name] = await ensure_schema(db, f"{name}_service.storage.migrations")
        finally:
            await db.close()
    return reached


def completion(context: Context) -> int:
    """Print a completion script."""
    from atelier_cli.completions import script
    from atelier_cli.parser import build_parser

    sys.stdout.write(script(context.arguments.shell, build_parser()))
    return OK
