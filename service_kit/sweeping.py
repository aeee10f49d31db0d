"""What the sweeps of services have in common: findings, and pages that go on where the last one ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import quote, unquote

from service_kit.blobs import BlobInfo, BlobStore, NotABlob
from service_kit.errors import AtelierError
from service_kit.paging import decode_page_token, encode_page_token, not_of_this_list
from service_kit.telemetry import get_logger

log = get_logger(__name__)

BLOBS_AT_ONCE = 2000
ROWS_AT_ONCE = 500
_LONGEST_PLACE = 1024
_LONGEST_SHOWN = 300
"""How much of a name is shown that is not of our making: a page of thousands of them goes into one message."""
_TO_RESTORE = "Put it back from a backup."
_TO_MOVE_OUT = "Nothing uses it: look at it, and move it out of the store."
# After a start the store has other things to do.
_FIRST_AFTER = timedelta(minutes=10)


class SweepKind(StrEnum):
    """What does not fit."""

    BLOB_WITHOUT_ROW = "blob_without_row"
    ROW_WITHOUT_BLOB = "row_without_blob"
    UNUSED_BLOB = "unused_blob"
    NOT_A_BLOB = "not_a_blob"
    DAMAGED_BLOB = "damaged_blob"


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
    """What one page of a sweep found, how much it looked at, and where the next begins; empty on the last.

    `verified_bytes` were read to compare their digests.
    """

    findings: tuple[Finding, ...]
    blobs: int
    rows: int
    next_page_token: str
    verified_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Listed:
    """What one page of a list gave: blobs, what lies beside them, and where the next begins; None on the last.

    `after` is the last key, quoted as in an address.
    """

    blobs: list[BlobInfo]
    others: list[NotABlob]
    after: str | None

    @property
    def keys(self) -> list[str]:
        """The keys that a row may know: names of what is no blob need not even be text."""
        return [info.key for info in self.blobs] + [entry.key for entry in self.others if entry.key.isascii()]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: in which part of a sweep, behind which key or id."""

    part: str
    after: str


Page = Callable[[bool, str], Awaitable[SweptPage]]
"""Sweeps one page: whether nothing is deleted, and where it begins."""


async def list_some(store: BlobStore, bucket: str, after: str, *, most_bytes: int | None = None) -> Listed:
    """Return what comes after a page: `BLOBS_AT_ONCE`, or fewer that have `most_bytes` together, but one at least."""
    listed, size_bytes = Listed([], [], None), 0
    async with aclosing(store.look(bucket, after=unquote(after, errors="surrogateescape"))) as found:
        async for entry in found:
            if isinstance(entry, BlobInfo):
                listed.blobs.append(entry)
                size_bytes += entry.size_bytes
            else:
                listed.others.append(entry)
            is_much = len(listed.blobs) + len(listed.others) >= BLOBS_AT_ONCE
            is_much = is_much or (most_bytes is not None and size_bytes >= most_bytes)
            # A name that is not of our making need not be text, and may be too long for a token.
            place = quote(entry.key, safe="/=@~+", errors="surrogateescape") if is_much else ""
            if is_much and len(place) <= _LONGEST_PLACE:
                return replace(listed, after=place)
    return listed


def not_a_blob(entry: NotABlob, subject: str) -> Finding:
    """Return what is said about what lies where a blob could lie. `subject` is the row that has its bytes there."""
    what = _TO_RESTORE if subject else _TO_MOVE_OUT
    # What a row knows has a key of our making.
    key, name = (entry.key, entry.name) if subject else map(_shown, (entry.key, entry.name))
    why = f"{name} in {entry.bucket} is torn, or not a blob of ours: {entry.why}. {what}"
    return Finding(SweepKind.NOT_A_BLOB, entry.bucket, key, "", entry.size_bytes, why, subject=subject)


def _shown(name: str) -> str:
    """Return the name of a file, which need not be text and may be long, as something that a terminal shows."""
    printable = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)
    return printable if len(printable) <= _LONGEST_SHOWN else f"{printable[:_LONGEST_SHOWN]}…"


def damaged(info: BlobInfo, subject: str, why: str) -> Finding:
    """Return what is said about a blob whose bytes are others than those that were written."""
    why = f"{why} {_TO_RESTORE if subject else _TO_MOVE_OUT}"
    return Finding(
        SweepKind.DAMAGED_BLOB,
        info.bucket,
        info.key,
        info.generation,
        info.size_bytes,
        why,
        subject=subject,
        created_at=info.created_at,
    )


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
