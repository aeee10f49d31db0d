"""`atelier sweep` and `atelier erase`: what an operator does to the bytes and the rows of all."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from atelier_cli.context import Context
from atelier_cli.exits import OK, TIMED_OUT, UsageError

if TYPE_CHECKING:
    from atelier_client import Atelier

BUCKETS = ("workspace", "library")
# The router first: nothing new comes then. What it still has to end, the others let it end.
PARTS = ("jobs", "workspace", "library")
_PAUSE_S = 1.0
# A copy that was being written keeps its row for as long as it may still arrive.
_PATIENCE_S = 300.0


def sweep(context: Context) -> int:
    """Compare buckets with rows, page by page, and tell what does not fit, and why."""
    arguments = context.arguments
    findings: list[dict[str, Any]] = []
    looked = {"blobs": 0, "rows": 0, "verified_bytes": 0}
    with context.client() as client:
        for bucket in (arguments.bucket,) if arguments.bucket else BUCKETS:
            token, is_first = "", True
            while token or is_first:
                page = client.sweep(bucket, dry_run=arguments.dry_run, verify=arguments.verify, page_token=token)
                findings += [dict(found.raw) for found in page]
                for name in looked:
                    looked[name] += int(page.raw.get(name) or 0)
                token, is_first = page.next_page_token, False
    if context.json:
        context.print_json({"findings": findings, **looked, "dry_run": arguments.dry_run})
        return OK
    for found in findings:
        what = found["subject"] or f"{found['size_bytes']} bytes"
        context.print(f"{found['action']}: {found['kind']} {found['bucket']}/{found['key']} ({what})")
        context.print(f"    {found['explanation']}")
    read = f", {looked['verified_bytes']} bytes read" if arguments.verify else ""
    context.note(f"{looked['blobs']} blobs and {looked['rows']} rows looked at{read}, {len(findings)} do not fit")
    return OK


def erase(context: Context) -> int:
    """Erase an owner from the router, the workspace and the library, until nothing is left."""
    arguments = context.arguments
    if not arguments.yes and not sys.stdin.isatty():
        raise UsageError(f"Without a terminal nobody can be asked: give --yes to erase {arguments.owner_id} for good.")
    with context.client() as client:
        # Before anybody is asked: a name that was mistyped looks like this one.
        had_keys = _has_keys(client, arguments.owner_id, arguments.tenant_id)
        if not had_keys:
            context.note(
                f"No key of {arguments.owner_id} is known: it was erased before, or only services act for it, or its "
                "name is another one."
            )
        if not arguments.yes:
            context.note(f"Everything of {arguments.owner_id} goes, for good: jobs, assets, items, keys.")
            if _answer("Type the owner's name to go on: ") != arguments.owner_id:
                raise UsageError("Nothing was erased.")
        until = time.monotonic() + _PATIENCE_S
        while left := _round(client, arguments.owner_id, arguments.tenant_id):
            if time.monotonic() > until:
                context.note(f"not done yet, something is still being written: {left}; repeat this command")
                return TIMED_OUT
            time.sleep(_PAUSE_S)
    if context.json:
        context.print_json({"owner_id": arguments.owner_id, "done": True, "had_keys": had_keys})
    elif had_keys:
        context.print(f"{arguments.owner_id} is erased")
    else:
        context.print(f"{arguments.owner_id} is erased; no key of it was known any more")
    return OK


def _has_keys(client: Atelier, owner_id: str, tenant_id: str) -> bool:
    """Tell whether an owner has a key at this moment, in a tenant; empty for the tenant of whoever asks."""
    tenant_id = tenant_id or client.identity().tenant_id
    token, is_first = "", True
    while token or is_first:
        page = client.keys(owner_id=owner_id, page_size=200, page_token=token)
        if any(key.tenant_id == tenant_id for key in page):
            return True
        token, is_first = page.next_page_token, False
    return False


def _answer(question: str) -> str:
    try:
        return input(question)
    except EOFError:
        # Ctrl-D.
        return ""


def _round(client: Atelier, owner_id: str, tenant_id: str) -> dict[str, int]:
    """Ask every service once. Returns what is left, by part; empty when nothing is."""
    answers = {part: client.erase_owner(part, owner_id, tenant_id=tenant_id) for part in PARTS}
    return {part: answer.left for part, answer in answers.items() if not answer.done}
