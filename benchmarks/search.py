"""Search in a library of a million items: pages of 50 by words, against the same by hand, and late pages against first.

By hand is what somebody writes who has only PostgreSQL: one statement for the rows, with the same index and the same
keyset, and one for their files.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from bisect import bisect
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from atelier.library.v1 import library_service_pb2 as pb
from atelier.library.v1 import library_service_pb2_grpc
from atelier.type.v1 import generation_pb2
from benchmarks.comparison import percentile
from benchmarks.figures import Figure
from library_service.__main__ import open_service
from library_service.catalogue import Catalogue
from library_service.domain.selection import Place, Selection, Sort, encode_place
from library_service.domain.words import VERSION, owner_tag
from library_service.storage import MIGRATIONS
from service_kit import channels
from service_kit.clock import SystemClock
from service_kit.database import Database
from service_kit.identity import IssuedToken, KeyKind, Owner, TokenSource
from service_kit.keyring import Keyrings
from service_kit.migrate import upgrade
from service_kit.settings import for_tests
from tests.support.postgres import PostgresServer

ITEMS = 1_000_000
PAGE = 50
DEEP = 1000

_OWNER = Owner("bench", "ada")
_VOCABULARY = 30_000
_WORDS_PER_PROMPT = 20
_BLOBS = 1000
_EDGE = 50
_START = datetime(2026, 1, 1, tzinfo=UTC)
_SETTINGS = {"shared_buffers": "1GB", "maintenance_work_mem": "512MB", "max_wal_size": "4GB"}
# Words by their rank: the first is in most prompts, the last in a few hundred. All of the first have 1,000 pages.
_FREQUENT = ("w1", "w8", "w1 w2", "w3 w1")
_OTHERS = ("w60", "w400", "w900", "w3000", "w20000", "w30 w40", "w100 w200", "w12", "w2999")

_BY_HAND: LiteralString = """
SELECT item_id, asset_id, format, provenance, created_at, version, title, notes, is_favourite
FROM user_library
WHERE tenant_id = %(tenant)s AND owner_id = %(owner)s AND deleted_at IS NULL AND trashed_at IS NULL
  AND words @@ %(query)s::tsquery AND (created_at, item_id) < (%(at)s, %(id)s)
ORDER BY created_at DESC, item_id DESC LIMIT %(limit)s
"""
_FILES_BY_HAND: LiteralString = """
SELECT item_id, rendition, blobs.* FROM item_files JOIN blobs USING (blob_id)
WHERE item_id = ANY (%(item_ids)s) ORDER BY item_id, position
"""


@dataclass
class _Times:
    """Milliseconds of pages, in order: through the API, by the library's own query, and by hand."""

    api: list[float] = field(default_factory=list)
    query: list[float] = field(default_factory=list)
    by_hand: list[float] = field(default_factory=list)

    def add(self, other: _Times) -> None:
        """Add the times of other pages."""
        self.api += other.api
        self.query += other.query
        self.by_hand += other.by_hand


def measure(folder: Path, items: int = ITEMS) -> list[Figure]:
    """Fill a library and read it."""
    with PostgresServer(folder / "postgres-search", fsync=True, options=_SETTINGS) as server:
        url = server.url()
        asyncio.run(_migrate(url))
        _fill(url, items)
        shallow, deep = asyncio.run(_read(folder / "search", url))
    every = _Times()
    every.add(shallow)
    every.add(deep)
    hand = percentile(every.by_hand, 99)
    name = f"search in {items:,} items, page of {PAGE}"
    figures = []
    for what, times in (("the library's query", every.query), ("the whole answer of the API", every.api)):
        ninety_nine = percentile(times, 99)
        spoken = (
            f"p99 {ninety_nine:.1f} ms / {hand:.1f} ms, p50 {_middle(times):.1f} ms / {_middle(every.by_hand):.1f} ms"
        )
        figures.append(Figure(f"{name}: p99 of {what} to p99 by hand ({spoken})", ninety_nine / hand, "x", limit=2.0))
    flat = _middle(deep.query) / _middle(shallow.query[: len(deep.query)])
    spoken = f"p50 {_middle(deep.query):.1f} ms / {_middle(shallow.query[: len(deep.query)]):.1f} ms"
    figures.append(Figure(f"{name}: pages up to the {DEEP:,}th to the first ({spoken})", flat, "x", limit=1.5))
    return figures


def _middle(times: Sequence[float]) -> float:
    return statistics.median(times)


async def _migrate(url: str) -> None:
    db = Database(url, schema="library")
    await upgrade(db, MIGRATIONS)
    await db.close()


def _fill(url: str, items: int) -> None:
    """Write items as fast as PostgreSQL takes them: indexes are made afterwards."""
    with psycopg.connect(url, autocommit=True, options="-c search_path=library") as connection:
        indexes = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'user_library' AND indexname LIKE 'user%'"
        ).fetchall()
        indexes = [(name, definition) for name, definition in indexes if not name.endswith("_pkey")]
        for name, _ in indexes:
            connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
        _copy_blobs(connection)
        columns = "item_id, tenant_id, owner_id, asset_id, format, provenance, created_at, version, model, words"
        with (
            connection.transaction(),
            connection.cursor().copy(f"COPY user_library ({columns}, words_version) FROM STDIN") as copy,
        ):
            for row in _rows(items):
                copy.write_row(row)
        with (
            connection.transaction(),
            connection.cursor().copy("COPY item_files (item_id, position, rendition, blob_id) FROM STDIN") as copy,
        ):
            for number in range(items):
                copy.write_row((_item_id(number), 0, "", f"blob-{number % _BLOBS}"))
        for _, definition in indexes:
            connection.execute(definition)
        connection.execute("VACUUM (ANALYZE) user_library")
        connection.execute("VACUUM (ANALYZE) item_files")


def _copy_blobs(connection: psycopg.Connection[Any]) -> None:
    columns = "blob_id, tenant_id, owner_id, state, bucket, key, generation, content_type, size_bytes, sha256"
    more = "width, height, duration_ms, ref_count, created_at"
    with connection.transaction(), connection.cursor().copy(f"COPY blobs ({columns}, {more}) FROM STDIN") as copy:
        for number in range(_BLOBS):
            place = ("user-library", f"bench/ada/{number}", "1", "image/png", 1 << 20, f"{number:064x}")
            blob = (f"blob-{number}", _OWNER.tenant_id, _OWNER.owner_id, "live", *place)
            copy.write_row((*blob, 1024, 1024, 0, 1, _START))


def _rows(items: int) -> Iterator[tuple[Any, ...]]:
    """Give items a second apart, whose words are as frequent as those of a language: the n-th is 1/n of the first."""
    chance = random.Random(7)  # noqa: S311 - the same prompts in every run
    weights = list(itertools.accumulate(1 / rank for rank in range(1, _VOCABULARY + 1)))
    tag = owner_tag(_OWNER)
    narrow = f" {tag}fimage {tag}m0123456789abcdef"
    for number in range(items):
        drawn = {bisect(weights, chance.random() * weights[-1]) for _ in range(_WORDS_PER_PROMPT)}
        # No frequent word begins with another: each ends with a letter of its own.
        words = sorted(f"w{min(rank, _VOCABULARY - 1) + 1}x" for rank in drawn)
        provenance = generation_pb2.Provenance(job_id=f"job-{number}", prompt=" ".join(words), seed=number)
        provenance.settings.model = "sdxl-base"
        item_id = _item_id(number)
        tokens = narrow + "".join(f" {tag}w{word}" for word in words) + " "
        owner = (_OWNER.tenant_id, _OWNER.owner_id)
        made = (item_id, *owner, f"asset-{number}", "image", provenance.SerializeToString())
        yield (*made, _START + timedelta(seconds=number), 1, "sdxl-base", tokens, VERSION)


def _item_id(number: int) -> str:
    return f"01970000-0000-7000-8000-{number:012x}"


async def _read(folder: Path, url: str) -> tuple[_Times, _Times]:
    """Read the first pages of every text, and in turns with them the last ones of those that have a thousand."""
    settings = for_tests(folder, core__database_url=url)
    shallow, deep, rest = _Times(), _Times(), _Times()
    async with AsyncExitStack() as stack:
        service = await open_service(settings, stack)
        signer = Keyrings(settings.keys_dir).identity_signer(SystemClock())

        async def token() -> IssuedToken:
            return signer.issue(owner=_OWNER, kind=KeyKind.USER, key_id="0" * 16)

        channel = channels.connect(service.server.target, tokens=TokenSource(token, SystemClock()))
        stack.push_async_callback(channel.close)
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True, options="-c search_path=library")
        stack.push_async_callback(connection.close)
        reader = _Reader(service.catalogue, library_service_pb2_grpc.LibraryServiceStub(channel), connection)
        for text in (*_FREQUENT, *_OTHERS):
            first = await reader.places(text, 0)
            last = await reader.places(text, DEEP - _EDGE) if text in _FREQUENT else []
            await reader.read(text, first[:1], _Times())
            for number, place in enumerate(first):
                await reader.read(text, [place], shallow if last else rest)
                await reader.read(text, last[number : number + 1], deep)
    shallow.add(rest)
    return shallow, deep


class _Reader:
    """Reads one page in three ways, one after the other."""

    def __init__(self, catalogue: Catalogue, library: Any, connection: psycopg.AsyncConnection[Any]) -> None:
        self._catalogue = catalogue
        self._library = library
        self._connection = connection

    async def places(self, text: str, page: int) -> list[Place]:
        """Return where the next pages begin, some at most, from a page on."""
        limited = sql.SQL(_BY_HAND + " OFFSET %(skipped)s")
        places: list[Place] = [(_START + timedelta(days=9999), "")] if not page else []
        skipped = (page or 1) * PAGE - 1
        values = {**_values(text, (_START + timedelta(days=9999), "")), "limit": PAGE * _EDGE, "skipped": skipped}
        rows = await (await self._connection.execute(limited, values)).fetchall()
        places += [(row[4], row[0]) for row in rows[::PAGE]]
        return places[:_EDGE]

    async def read(self, text: str, places: Sequence[Place], times: _Times) -> None:
        """Read the pages that begin behind some places.

        Raises:
            RuntimeError: a page is not what it is by hand.
        """
        for place in places:
            token, said = encode_place(Sort.NEWEST, place), _spoken(text)
            moments = [time.perf_counter()]
            page = await self._library.ListItems(pb.ListItemsRequest(query=said, page_size=PAGE, page_token=token))
            moments.append(time.perf_counter())
            selection = Selection(text=said)
            await self._catalogue.list_items(_OWNER, selection, sort=Sort.NEWEST, page_size=PAGE, page_token=token)
            moments.append(time.perf_counter())
            rows = await (await self._connection.execute(_BY_HAND, _values(text, place) | {"limit": PAGE})).fetchall()
            item_ids = [row[0] for row in rows]
            await (await self._connection.execute(_FILES_BY_HAND, {"item_ids": item_ids})).fetchall()
            moments.append(time.perf_counter())
            if item_ids != [item.item_id for item in page.items]:
                raise RuntimeError(f"{text}: a page differs from the one by hand")
            api, query, by_hand = (1000 * (end - start) for start, end in itertools.pairwise(moments))
            times.add(_Times([api], [query], [by_hand]))


def _spoken(text: str) -> str:
    return " ".join(f"{word}x" for word in text.split())


def _values(text: str, place: Place) -> dict[str, Any]:
    tag = owner_tag(_OWNER)
    *whole, last = _spoken(text).split()
    query = " & ".join([*(f"'{tag}w{word}'" for word in whole), f"'{tag}w{last}':*"])
    at, item_id = place
    return {"tenant": _OWNER.tenant_id, "owner": _OWNER.owner_id, "query": query, "at": at, "id": item_id}
