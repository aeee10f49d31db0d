"""Bodies as values: JSON, or multipart forms with the bracket notation of the SDKs: `image[]`, `reference[url]`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from gateway.dialects.fields import Upload
from gateway.http import Exchange
from gateway.requests import check_json_type, query_pairs
from gateway.status import body_too_large, malformed
from gateway.transcode import parse_json

MAX_FORM_BYTES = 32 << 20
"""The largest form that is taken, files included."""

# Of a large body nearly all is the text of files: many small values are slow to read, and hold up everybody.
_PLAIN_BYTES = 1 << 20
_MOST_VALUES = 200_000
_MAX_FILES = 20
# Of 40 MB the parser takes a twentieth of a second, which the event loop does not have.
_LARGE_BYTES = 1 << 20
_SMALL_CHARACTERS = 16 << 10
_MAX_FIELDS = 200
_FORM = "multipart/form-data"
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PARTS = re.compile(r"\[([^\[\]]*)\]")
_MAX_DEPTH = 4


def is_form(exchange: Exchange) -> bool:
    """Tell whether the body is a multipart form."""
    return exchange.headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM


async def read_json(exchange: Exchange, max_bytes: int) -> dict[str, Any]:
    """Return a JSON body, `{}` for none.

    Raises:
        InvalidArgument: it is not JSON, no object, holds more values than any request, or halves of characters.
        ResourceExhausted: it is too large.
        HttpProblem: it is said to be something else (415).
    """
    body = await exchange.body(max_bytes, body_too_large)
    if not body:
        return {}
    check_json_type(exchange.headers.get("content-type", ""))
    if len(body) > _PLAIN_BYTES and sum(body.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise malformed(f"The body has more than {_MOST_VALUES} values, or commas and brackets in its texts.")
    value = parse_json(body) if len(body) < _LARGE_BYTES else await asyncio.to_thread(parse_json, body)
    if not isinstance(value, dict):
        raise malformed("The body must be a JSON object.")
    if b"\\u" in body:
        await asyncio.to_thread(_check_characters, value)
    return value


def _check_characters(given: Mapping[str, Any]) -> None:
    """Raise InvalidArgument for what JSON can escape, and no UTF-8 can hold: neither answers, nor the contracts."""
    for name, value in given.items():
        shown = name.encode("ascii", "replace").decode("ascii")[:100] or "name"
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except RecursionError:
            raise malformed("is nested too deep", shown) from None
        except UnicodeEncodeError:
            raise malformed("holds half of a surrogate pair, which is no character", shown) from None


async def read_form(exchange: Exchange) -> dict[str, Any]:
    """Return the fields of a form, nested as their names say; files as `Upload`.

    Raises:
        InvalidArgument: it is no form, or a name stands for a value and a group at once.
        ResourceExhausted: it is larger than `MAX_FORM_BYTES`.
    """
    stream = _limited(exchange)
    parser = MultiPartParser(
        Headers(exchange.headers), stream, max_files=_MAX_FILES, max_fields=_MAX_FIELDS, max_part_size=1 << 20
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise malformed(f"The form cannot be read: {str(error)[:200]}") from error
    finally:
        await stream.aclose()
    try:
        return await _values(form)
    finally:
        await form.close()


async def _limited(exchange: Exchange) -> AsyncGenerator[bytes, None]:
    announced, total = exchange.headers.get("content-length", "0"), 0
    if announced.isdecimal() and int(announced) > MAX_FORM_BYTES:
        raise body_too_large(MAX_FORM_BYTES)
    async for chunk in exchange.body_chunks():
        total += len(chunk)
        if total > MAX_FORM_BYTES:
            raise body_too_large(MAX_FORM_BYTES)
        yield chunk


async def _values(form: FormData) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            content = await value.read()
            _put(found, name, Upload(value.filename or "", (value.content_type or "").lower(), content))
        else:
            _put(found, name, value)
    return found


def query_values(exchange: Exchange) -> dict[str, Any]:
    """Return the parameters of the query, nested as their names say.

    Raises:
        InvalidArgument: it is not percent-encoded UTF-8, or a name stands for a value and a group at once.
    """
    found: dict[str, Any] = {}
    for name, value in query_pairs(exchange.query_string):
        _put(found, name, value)
    return found


def _put(found: dict[str, Any], name: str, value: Any) -> None:
    """Put a value where its name says: `a`, `a[]` (a list), `a[0]` (a list), `a[b]` (an object). Twice is a list."""
    match = _NAME.fullmatch(name)
    parts = _PARTS.findall(match[2]) if match else []
    if match is None or len(parts) > _MAX_DEPTH:
        raise malformed("is not a name that a field can have", name[:100] or "name")
    key, *rest = match[1], *parts
    holder = found
    while rest and not _is_index(rest[0]):
        holder = holder.setdefault(key, {})
        if not isinstance(holder, dict):
            raise malformed("is a value and a group of values at once", name[:100])
        key, *rest = rest
    if len(rest) > 1:
        raise malformed("nests deeper than forms are read here; send JSON", name[:100])
    if rest or key in holder:
        before = holder.get(key, [])
        if isinstance(before, dict):
            raise malformed("is a value and a group of values at once", name[:100])
        holder[key] = [*(before if isinstance(before, list) else [before]), value]
    else:
        holder[key] = value


def _is_index(part: str) -> bool:
    return part == "" or part.isdecimal()


async def digest_of(route: str, values: Mapping[str, Any]) -> str:
    """Return what names a request by what its client sent, so that the same again has the same digest.

    The bytes of a form differ each time (its boundary does), and so do the ids of the assets made of its files.
    """
    if _is_small(values):
        # Changing threads takes longer, and much longer on a busy machine.
        return _digest(route, values)
    return await asyncio.to_thread(_digest, route, values)


def _is_small(values: Mapping[str, Any]) -> bool:
    """Tell whether what a client sent is read in less time than it takes to change threads."""
    left, found = _SMALL_CHARACTERS, [values]
    while found and left >= 0:
        value: Any = found.pop()
        left -= 1
        if isinstance(value, str):
            left -= len(value)
        elif isinstance(value, Mapping):
            left -= sum(map(len, value))
            found += value.values()
        elif isinstance(value, list):
            found += value
        elif isinstance(value, Upload):
            return False
    return left >= 0


def _digest(route: str, values: Mapping[str, Any]) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, Upload):
            return {"sha256": hashlib.sha256(value.content).hexdigest(), "type": value.content_type}
        raise TypeError(f"{type(value).__name__} is no value of a request")

    text = json.dumps([route, values], default=plain, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
