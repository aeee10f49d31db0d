"""`atelier models`: the routing table and the workers that run it."""

from __future__ import annotations

from atelier_cli.context import Context
from atelier_cli.exits import OK
from service_kit.units import sized


def list_models(context: Context) -> int:
    """List the routing table with the connected workers."""
    with context.client() as client:
        page = client.models()
    if context.json:
        context.print_json(page.raw)
        return OK
    context.table(
        ("MODEL", "STAGE", "WORKER TYPE", "FORMATS", "WORKERS", "FREE SLOTS", "ALIASES"),
        [
            (
                model.name,
                model.stage,
                model.worker_type,
                ",".join(model.formats) or "-",
                model.connected_workers,
                model.free_slots,
                ", ".join(model.aliases) or "-",
            )
            for model in page
        ],
    )
    for hint in dict.fromkeys(model.hint for model in page if model.hint):
        context.note(hint)
    return OK


def list_workers(context: Context) -> int:
    """List the connected workers."""
    arguments = context.arguments
    with context.client() as client:
        page = client.workers(page_size=arguments.page_size, page_token=arguments.page_token)
    if context.json:
        context.print_json(page.raw)
        return OK
    context.table(
        ("WORKER", "KEY", "WORKER TYPES", "MODELS", "SLOTS", "LEASES", "LOADED", "LABELS", "VERSION"),
        [
            (
                worker.name,
                worker.key_id,
                ",".join(worker.worker_types),
                ",".join(worker.models) or "all",
                worker.slots,
                worker.leases,
                ", ".join(f"{model.name} ({model.device}, {sized(model.size_bytes)})" for model in worker.loaded)
                or "-",
                ",".join(f"{name}={text}" for name, text in worker.labels.items()) or "-",
                worker.version or "-",
            )
            for worker in page
        ],
    )
    if page.next_page_token:
        context.note(f"more: --page-token {page.next_page_token}")
    return OK


def put(context: Context) -> int:
    """Add a row, or replace the row of that name."""
    from atelier_client import Model

    arguments = context.arguments
    wanted = Model(
        name=arguments.name,
        aliases=tuple(arguments.aliases),
        stage=arguments.stage,
        worker_type=arguments.worker_type,
        formats=tuple(arguments.formats),
        max_quantity=arguments.max_quantity,
        base_size=arguments.base_size,
        default_steps=arguments.default_steps,
        default_frame_rate=arguments.default_frame_rate,
        deadline_seconds=arguments.deadline_seconds,
        position=arguments.position,
    )
    with context.client() as client:
        model = client.put_model(wanted)
    context.print_json({"model": model.raw}) if context.json else context.print(
        f"{model.name} runs on {model.worker_type}"
    )
    return OK


def delete(context: Context) -> int:
    """Remove a row."""
    with context.client() as client:
        client.delete_model(context.arguments.name)
    context.print_json({}) if context.json else context.print(f"{context.arguments.name} deleted")
    return OK
