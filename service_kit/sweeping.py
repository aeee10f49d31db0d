"""What the sweeps of services have in common: findings, and pages that go on where the last one ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from service_kit.blobs import BlobInfo, BlobStore
from service_kit.errors import AtelierError
from service_kit.paging import decode_page_token, encode_page_token, not_of_this_list
from service_kit.telemetry import get_logger

log = get_logger(__name__)

BLOBS_AT_ONCE = 2000
ROWS_AT_ONCE = 500
# After a start the store has other things to do.
_FIRST_AFTER = timedelta(minutes=10)


class SweepKind(StrEnum):
    """What does not fit."""

    BLOB_WITHOUT_ROW = "blob_without_row"
    ROW_WITHOUT_BLOB = "row_without_blob"
    UNUSED_BLOB = "unused_blob"


class SweepAction(StrEnum):
    """What the sweep did about it."""

    REPORTED = "reported"
    WOULD_DELETE = "would_delete"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not fit. Only a row has a `subject`, and only a blob `created_at`."""

    kind: SweepKind
    bucket: str
    key: str
    generation: str
    size_bytes: int
    explanation: str
    action: SweepAction = SweepAction.REPORTED
    subject: str = ""
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SweptPage:
    """What one page of a sweep found, how much it looked at, and where the next begins; empty on the last."""

    findings: tuple[Finding, ...]
    blobs: int
    rows: int
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: in which part of a sweep, behind which key or id."""

    part: str
    after: str


Page = Callable[[bool, str], Awaitable[SweptPage]]
"""Sweeps one page: whether nothing is deleted, and where it begins."""


async def list_some(store: BlobStore, bucket: str, after: str) -> list[BlobInfo]:
    """Return the blobs of one page: those that come after a key, `BLOBS_AT_ONCE` at most."""
    found: list[BlobInfo] = []
    async with aclosing(store.list(bucket, after=after)) as listed:
        async for info in listed:
            found.append(info)
            if len(found) == BLOBS_AT_ONCE:
                break
    return found


def place_of(name: str, token: str, first: str, parts: frozenset[str]) -> Place:
    """Return where a token says that a page begins; the beginning of the first part for an empty one.

    Raises:
        InvalidArgument: the token is not of this sweep.
    """
    if not token:
        return Place(first, "")
    match decode_page_token(name, token):
        case [str(part), str(after)] if part in parts:
            return Place(part, after)
        case _:
            raise not_of_this_list()


def token_of(name: str, place: Place | None) -> str:
    """Return the token of a place; empty for None."""
    return "" if place is None else encode_page_token(name, [place.part, place.after])


async def sweep_all(page: Page, *, dry_run: bool) -> list[Finding]:
    """Sweep from the first page to the last. Returns all that was found, which is also logged."""
    findings: list[Finding] = []
    token = ""
    while True:
        swept = await page(dry_run, token)
        for found in swept.findings:
            log.warning(
                "sweep_found",
                kind=found.kind,
                action=found.action,
                key=found.key,
                subject=found.subject,
                of=found.bucket,
            )
        findings += swept.findings
        token = swept.next_page_token
        if not token:
            return findings


async def sweep_regularly(page: Page, interval: timedelta) -> None:
    """Sweep again and again, until cancelled. What fails is tried again at the next time."""
    await asyncio.sleep(min(interval, _FIRST_AFTER).total_seconds())
    while True:
        try:
            found = await sweep_all(page, dry_run=False)
        except (AtelierError, OSError) as error:
            log.warning("sweep_broke_off", error=str(error))
        else:
            log.info("swept", findings=len(found))
        await asyncio.sleep(interval.total_seconds())
