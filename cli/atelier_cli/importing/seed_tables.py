"""Rows of the tables that a gallery of the first system kept: `workspace_items`, `workspace_assets`, `user_library`.

A dump is CSV with a header, JSON (a list of rows) or a row of JSON on each line. Rows of different
times name the same thing differently, keep what they cannot name in a JSON column, and say where a file is as a path,
as a path with its bucket, or as an address that has long expired.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from service_kit.descriptions.described import Described, clean, count, fraction, model_name, size, whole

WORKSPACE_TABLES = ("workspace_items", "workspace_assets")
LIBRARY_TABLES = ("user_library",)
TABLES = (*WORKSPACE_TABLES, *LIBRARY_TABLES)
KINDS = ("csv", "json", "jsonl")

_PATHS = (
    *("storage_path", "temp_storage_path", "file_path", "asset_path", "storage_paths", "path"),
    *("file_url", "url", "signed_url", "image_url", "video_url", "signed_urls", "image_urls"),
)
_BUCKETS = ("bucket_name", "bucket", "storage_bucket")
_NESTED = ("generation_settings", "generation_params", "generation_metadata", "settings", "metadata")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("original_prompt", "prompt", "prompt_text"),
    "enhanced_prompt": ("enhanced_prompt",),
    "negative_prompt": ("negative_prompt",),
    "model": ("model_used", "model", "model_type"),
    "seed": ("generation_seed", "seed"),
    "steps": ("steps", "num_inference_steps"),
    "sampler": ("sampler", "scheduler", "sampler_name"),
    "guidance": ("guidance_scale", "cfg_scale", "cfg"),
    "width": ("width",),
    "height": ("height",),
    "size": ("size", "resolution"),
}
_OBJECT_ADDRESS = re.compile(r"/object/(?:sign|public|authenticated)/")
_LONGEST_FIELD = 16 << 20
_MOST_FILES = 100
_MOST_TAGS = 100
# Numbers from here on are seconds since 1970 (in 1973), and from there on milliseconds.
_SECONDS, _MILLISECONDS = 1e8, 1e11
_LONGEST_MOMENT = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One row: whose it is, where its files may be, and what it says of them.

    Attributes:
        name: `user_library 17`, with the row's id or else its number.
        files: for each file of the row, where it may be below the folder of files, the likeliest first.
        problem: why the row cannot be taken; empty when it can.
    """

    name: str
    table: str
    user: str
    files: tuple[tuple[str, ...], ...]
    described: Described
    title: str = ""
    tags: tuple[str, ...] = ()
    favourite: bool = False
    problem: str = ""

    @property
    def saved(self) -> bool:
        """Whether the row is of the library; else it is of the workspace."""
        return self.table in LIBRARY_TABLES


def read_rows(text: str, kind: str) -> Iterator[Mapping[str, Any] | str]:
    """Give the rows of a dump; a text in place of a row that cannot be read says why.

    Raises:
        ValueError: the whole dump cannot be read.
    """
    if kind == "csv":
        yield from _csv_rows(text)
    elif kind == "jsonl":
        for line in text.removeprefix("\ufeff").split("\n"):
            if line.strip():
                yield _json_row(line)
    else:
        yield from _json_rows(text)


def read_row(table: str, number: int, given: Mapping[str, Any]) -> Row:
    """Return what a row means. Never raises: what cannot be used is left out, or is the row's `problem`."""
    nested = [found for name in _NESTED if (found := _object(given.get(name)))]

    def first(names: Sequence[str]) -> Any:
        every = (part.get(name) for part in (given, *nested) for name in names)
        return next((value for value in every if value not in (None, "")), None)

    said = {name: first(names) for name, names in _NAMES.items()}
    width, height = size(said["size"])
    created = first(("created_at",))
    described = Described(
        tool="tables",
        prompt=clean(said["prompt"]),
        negative_prompt=clean(said["negative_prompt"]),
        enhanced_prompt=clean(said["enhanced_prompt"]),
        model=model_name(said["model"]),
        seed=whole(said["seed"]),
        width=count(said["width"]) or width,
        height=count(said["height"]) or height,
        steps=count(said["steps"]),
        sampler=clean(said["sampler"]),
        guidance=fraction(said["guidance"]),
        made_at=_moment(created),
        notes=() if created is None or _moment(created) else (f"created_at is no date: {str(created)[:60]!r}",),
    )
    files = tuple(places for path in _paths(first) if (places := places_of(path, clean(first(_BUCKETS)))))
    identity = clean(str(given.get("id") or "")) or f"number {number}"
    return Row(
        name=f"{table} {identity[:80]}",
        table=table,
        user=clean(str(first(("user_id", "owner_id")) or "")),
        files=files,
        described=described.within_limits(),
        title=clean(first(("custom_title", "title", "display_name")))[:200],
        tags=_tags(first(("tags",))),
        favourite=str(first(("is_favorite", "is_favourite", "favorite", "is_liked"))).lower() in ("true", "t", "1"),
        problem="" if files else "the row names no file, or only one that would be outside of the folder",
    )


def places_of(path: str, bucket: str) -> tuple[str, ...]:
    """Return where a file may be below the folder of files: with its bucket, and without. Never outside of it."""
    if "://" in path[:12]:
        path = unquote(urlsplit(path).path)
        path = _OBJECT_ADDRESS.split(path, maxsplit=1)[-1]
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or ".." in parts or any(len(part) > 250 or "\0" in part for part in parts):
        return ()
    plain = "/".join(parts)
    found = [plain]
    if bucket and "/" not in bucket and bucket not in (".", "..") and parts[0] != bucket:
        found.insert(0, f"{bucket}/{plain}")
    if len(parts) > 1:
        found.append("/".join(parts[1:]))
    return tuple(found)


def _csv_rows(text: str) -> Iterator[Mapping[str, Any] | str]:
    csv.field_size_limit(_LONGEST_FIELD)
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            # What follows a quotation mark that is never closed cannot be told apart any more.
            yield f"line {rows.line_num} is no CSV: {error}; what follows it was not read"
            return
        if None in row or None in row.values():
            yield f"line {rows.line_num} has another number of fields than the header"
        else:
            yield row


def _json_row(line: str) -> Mapping[str, Any] | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is no JSON: {str(error)[:200]}"
    return row if isinstance(row, dict) else "is no JSON object"


def _json_rows(text: str) -> Iterator[Mapping[str, Any] | str]:
    try:
        rows = json.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(rows, list):
        raise ValueError("is no list of rows")
    for row in rows:
        yield row if isinstance(row, dict) else "is no JSON object"


def _paths(first: Any) -> list[str]:
    value = first(_PATHS)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    values = value if isinstance(value, list) else [value]
    return [path.strip() for path in values[:_MOST_FILES] if isinstance(path, str) and path.strip()]


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str) and value.lstrip().startswith("{") and len(value) <= _LONGEST_FIELD:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _tags(value: Any) -> tuple[str, ...]:
    """Return tags of a JSON list, or of an array as PostgreSQL prints it: `{a,"b c"}`."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("{") and text.endswith("}"):
            value = next(csv.reader([text[1:-1]], escapechar="\\"), [])
        elif text.startswith("["):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                value = []
        else:
            value = text.split(",")
    tags = (clean(tag) for tag in value[:_MOST_TAGS]) if isinstance(value, list) else ()
    return tuple(dict.fromkeys(tag[:60] for tag in tags if tag))


def _moment(value: Any) -> datetime | None:
    """Return a moment that is told as ISO 8601, as e-mails do, or in seconds or milliseconds since 1970; else None."""
    for read in (_numbered, datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = read(str(value)[:_LONGEST_MOMENT].strip())
            found = found if found.tzinfo else found.replace(tzinfo=UTC)
            if 1970 <= found.year <= 9000:
                return found.astimezone(UTC)
        except (ValueError, OverflowError, IndexError, TypeError):
            continue
    return None


def _numbered(text: str) -> datetime:
    number = float(text)
    if number < _SECONDS:
        raise ValueError(f"{text} may as well be a year or a day")
    return datetime.fromtimestamp(number / 1000 if number >= _MILLISECONDS else number, UTC)
