"""`atelier keys`: API keys."""

from __future__ import annotations

import os
from pathlib import Path

from atelier_cli.commands.jobs import moment
from atelier_cli.context import Context
from atelier_cli.exits import OK, UsageError


def create(context: Context) -> int:
    """Make a key and print its text, this one time; with --out into a new file that only its owner can read."""
    arguments = context.arguments
    out = Path(arguments.out).expanduser() if arguments.out else None
    if out is not None and out.exists():
        raise UsageError(f"{out} is there already: a key file is never overwritten.")
    with context.client() as client:
        made = client.create_key(
            arguments.owner_id,
            kind=arguments.kind,
            tenant_id=arguments.tenant_id,
            name=arguments.name,
            valid_days=arguments.valid_days,
            worker_types=arguments.worker_type,
            requests_per_minute=arguments.requests_per_minute,
            queued_jobs=arguments.queued_jobs,
            running_jobs=arguments.running_jobs,
        )
    if out is not None:
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(made.secret + "\n")
    if context.json:
        context.print_json({name: value for name, value in made.raw.items() if name != "secret" or out is None})
        return OK
    context.note(f"key {made.key.key_id} of kind {made.key.kind} for {made.key.tenant_id}/{made.key.owner_id}")
    if out is None:
        context.note("This is the only time that its text is shown:")
        context.print(made.secret)
    else:
        context.print(str(out))
    return OK


def list_keys(context: Context) -> int:
    """List keys, newest first, without their texts."""
    arguments = context.arguments
    with context.client() as client:
        page = client.keys(owner_id=arguments.owner_id, page_size=arguments.page_size, page_token=arguments.page_token)
    if context.json:
        context.print_json(page.raw)
        return OK
    context.table(
        ("KEY", "KIND", "OWNER", "CREATED", "STATE", "NAME"),
        [
            (
                key.key_id,
                key.kind,
                f"{key.tenant_id}/{key.owner_id}",
                moment(key.created_at),
                f"revoked {moment(key.revoked_at)}"
                if key.revoked_at
                else f"until {moment(key.expires_at) or 'revoked'}",
                key.name,
            )
            for key in page
        ],
    )
    if page.next_page_token:
        context.note(f"more: --page-token {page.next_page_token}")
    return OK


def limit(context: Context) -> int:
    """Set what a key may do."""
    arguments = context.arguments
    with context.client() as client:
        key = client.update_key(
            arguments.key_id,
            requests_per_minute=arguments.requests_per_minute,
            queued_jobs=arguments.queued_jobs,
            running_jobs=arguments.running_jobs,
        )
    if context.json:
        context.print_json({"key": key.raw})
        return OK
    for name, value in (
        ("requests a minute", key.requests_per_minute),
        ("queued jobs", key.queued_jobs),
        ("running jobs", key.running_jobs),
    ):
        context.print(f"{name}: {'as the settings say' if value is None else value or 'any number'}")
    return OK


def revoke(context: Context) -> int:
    """Revoke a key."""
    with context.client() as client:
        key = client.revoke_key(context.arguments.key_id)
    context.print_json({"key": key.raw}) if context.json else context.print(
        f"{key.key_id} revoked {moment(key.revoked_at)}"
    )
    return OK
