"""`atelier webhooks`: what was posted to receivers, and the secret that it is signed with."""

from __future__ import annotations

from atelier_cli.commands.jobs import moment
from atelier_cli.context import Context
from atelier_cli.exits import OK
from atelier_client import WebhookDelivery


def deliveries(context: Context) -> int:
    """List deliveries, newest first, with what became of them."""
    arguments = context.arguments
    with context.client() as client:
        page = client.webhook_deliveries(
            job_id=arguments.job_id,
            state=arguments.state,
            page_size=arguments.page_size,
            page_token=arguments.page_token,
        )
    if context.json:
        context.print_json(page.raw)
        return OK
    context.table(
        ("DELIVERY", "JOB", "EVENT", "STATE", "TRIES", "LAST", "NEXT", "URL"),
        [
            (
                delivery.delivery_id,
                delivery.job_id,
                delivery.event,
                delivery.state,
                str(delivery.attempts),
                _last(delivery),
                moment(delivery.next_attempt_at),
                delivery.url,
            )
            for delivery in page
        ],
    )
    if page.next_page_token:
        context.note(f"more: --page-token {page.next_page_token}")
    if not len(page):
        context.note("no deliveries")
    return OK


def redeliver(context: Context) -> int:
    """Send a delivery again, whatever became of it."""
    with context.client() as client:
        delivery = client.redeliver_webhook(context.arguments.delivery_id)
    if context.json:
        context.print_json({"delivery": delivery.raw})
    else:
        context.print(f"{delivery.delivery_id} is posted again to {delivery.url}")
    return OK


def secret(context: Context) -> int:
    """Print the secret."""
    with context.client() as client:
        found = client.webhook_secret()
    context.print_json(found.raw) if context.json else context.print(found.secret)
    return OK


def rotate_secret(context: Context) -> int:
    """Make a new secret and print it; for a day the one before signs, too."""
    with context.client() as client:
        made = client.rotate_webhook_secret()
    if context.json:
        context.print_json(made.raw)
        return OK
    context.note(f"webhooks are signed with the secret before, too, until {moment(made.previous_ends_at)}")
    context.print(made.secret)
    return OK


def _last(delivery: WebhookDelivery) -> str:
    """Return what the last attempt came to."""
    return delivery.last_error or (str(delivery.last_status) if delivery.last_status else "")
