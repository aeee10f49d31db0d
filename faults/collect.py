"""Reads databases and blobs when a run is over, and waits for that: nothing queued, leased or unsettled any more."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import re
import struct
from datetime import date, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from faults.evidence import Evidence, Row

TABLES = (
    "router.jobs",
    "router.queue",
    "router.leases",
    "router.outbox",
    "router.outcomes",
    "router.submissions",
    "router.events",
    "asset.workspace_assets",
    "asset.uploads",
    "asset.settlements",
    "asset.holds",
    "asset.events",
    "library.user_library",
    "library.item_files",
    "library.blobs",
    "library.outbox",
)
# Tables that are empty when every job has ended and everything was told and cleaned up.
MUST_EMPTY = ("router.queue", "router.leases", "router.outbox", "asset.holds", "library.outbox")
# Uploads of those who lost a race, which expire; and items whose renditions the library asks for now and then.
_MAY_EMPTY = ("asset.uploads", "library.late_items")
_PAUSE_S = 0.2
_ONE_FILE = b"atlrblob"
_SEVERAL = b"atlrmany"
_MARK = re.compile(rb"atelier-faults plan=\d+ index=\d+;")


async def quiet(database_url: str, *, limit_s: float, patience_s: float) -> None:
    """Wait until nothing is left to be done, at most `limit_s`; for what may stay at most `patience_s`."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    while clock() - begun < limit_s:
        try:
            async with await psycopg.AsyncConnection.connect(database_url, connect_timeout=5) as connection:
                left = [await _count(connection, table) for table in MUST_EMPTY]
                staying = [await _count(connection, table) for table in _MAY_EMPTY]
        except psycopg.OperationalError:
            # It was killed a moment ago.
            left, staying = [1], [1]
        if not any(left) and (not any(staying) or clock() - begun > patience_s):
            return
        await asyncio.sleep(_PAUSE_S)


async def read_tables(database_url: str) -> dict[str, list[Row]]:
    """Return every row of the tables that the auditor reads, as JSON values."""
    tables: dict[str, list[Row]] = {}
    async with await psycopg.AsyncConnection.connect(database_url, row_factory=dict_row) as connection:
        for table in TABLES:
            rows = await connection.execute(sql.SQL("SELECT * FROM {}").format(_named(table)))
            tables[table] = [{name: _plain(value) for name, value in row.items()} async for row in rows]
    return tables


def read_blobs(root: Path) -> list[Row]:
    """Return every blob of the workspace's bucket: its key, its size and its digest as they are on the disk."""
    bucket = root / "workspace-temp"
    blobs = []
    for path in sorted(bucket.rglob("*.blob")):
        if path.relative_to(bucket).parts[0].startswith("."):
            continue
        data, meta = read_blob(path)
        mark = _MARK.search(data)
        blobs.append(
            {
                "key": path.relative_to(bucket).as_posix().removesuffix(".blob"),
                "size_bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "generation": meta.get("generation", ""),
                "mark": mark.group().decode() if mark else "",
            }
        )
    return blobs


def read_blob(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of a blob as they are on the disk, and what is noted of it.

    It is a folder of two files, or one file: the bytes, a JSON object, the object's length and eight more bytes. Or it
    is one of several in a file, whose end tells by the digest of a name where the bytes and the object are.
    """
    if path.is_dir():
        data, meta = (path / "data").read_bytes(), json.loads((path / "meta.json").read_text("utf-8"))
        # A copy of one file has all of that file by a link.
        return (_parted(data)[0] if data.endswith(_ONE_FILE) else data), meta
    content = path.read_bytes()
    data, noted = _member(content, path.name) if content.endswith(_SEVERAL) else _parted(content)
    return data, json.loads(noted)


def _member(content: bytes, name: str) -> tuple[bytes, bytes]:
    """Return the bytes of the blob of a name in a file of several, and what is noted of it."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    count = int.from_bytes(content[-12:-8])
    for entry in range(len(content) - 12 - 32 * count, len(content) - 12, 32):
        if content[entry : entry + 16] == digest:
            start, size, length = struct.unpack_from(">QII", content, entry + 16)
            return content[start : start + size], content[start + size : start + size + length]
    raise FileNotFoundError(errno.ENOENT, f"{name} is not among the blobs of its file")


def _parted(content: bytes) -> tuple[bytes, bytes]:
    """Part what is one file into the bytes of the blob and what is noted of it."""
    end = len(content) - 12
    start = end - int.from_bytes(content[end : end + 4])
    return content[:start], content[start:end]


async def collect(evidence: Evidence, database_url: str, blobs: Path) -> None:
    """Put databases and blobs into the evidence."""
    evidence.tables = await read_tables(database_url)
    evidence.blobs = await asyncio.to_thread(read_blobs, blobs)


async def _count(connection: psycopg.AsyncConnection[Any], table: str) -> int:
    rows = await connection.execute(sql.SQL("SELECT count(*) FROM {}").format(_named(table)))
    found = await rows.fetchone()
    return int(found[0]) if found else 0


def _named(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        # Long payloads are of no use here; that they are equal or not is.
        return hashlib.sha256(bytes(value)).hexdigest()
    return value
