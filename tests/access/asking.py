"""How the access tests ask: with somebody's key, in any of the ways that a route takes its fields."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.http_rules import RpcRoute
from tests.access.cases import Bobs, Fields, Of
from tests.access.house import House

# How long a stream is listened to after its first event, which a busy machine takes its time for.
LISTENS_S, BEGINS_S = 0.3, 5.0
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# Times, and ids that a reply makes up; that none of Ann's is among them is looked at by itself.
VARIES = re.compile(rf"{_UUID}|\d{{4}}-\d\d-\d\dT[0-9:.]+Z")


def filled(value: Any, things: Mapping[str, str], house: House) -> Any:
    """Return a request of the table with ids in it."""
    match value:
        case Of():
            return things[value.thing]
        case Bobs():
            return house.bobs_item
        case dict():
            return {name: filled(each, things, house) for name, each in value.items()}
        case list():
            return [filled(each, things, house) for each in value]
        case _:
            return value


async def ask(house: House, key: str, method: str, path: str, body: str, fields: Fields) -> tuple[int, str]:
    """Send fields as a route takes them: in the path, the query or the body. Returns status and text."""
    left = dict(fields)
    for name in re.findall(r"{([^}=]*)[^}]*}", path):
        path = re.sub(r"{" + name + r"[^}]*}", left.pop(name), path)
    options: dict[str, Any] = {"json": left} if body == "*" else {"params": left}
    if body == "data":
        options["content"] = b"bytes"
    request = house.http.build_request(method, path, headers={"x-api-key": key}, **options)
    response = await house.http.send(request, stream=True)
    is_stream = "event-stream" in response.headers.get("content-type", "")
    text = ""
    try:
        async with asyncio.timeout(BEGINS_S if is_stream else 20) as limit:
            async for piece in response.aiter_text():
                text += piece
                if is_stream and "data:" in text:
                    limit.reschedule(asyncio.get_running_loop().time() + LISTENS_S)
    except TimeoutError:
        # A stream of events does not end by itself; anything else has to.
        if not is_stream:
            raise
    finally:
        await response.aclose()
    return response.status_code, text


async def asked(house: House, key: str, route: RpcRoute, fields: Fields) -> tuple[int, str]:
    return await ask(house, key, route.http_method, route.template, route.body, fields)


def plain(answer: tuple[int, str], fields: Fields, filled_fields: Fields) -> tuple[int, str]:
    """Return an answer without what differs from call to call, and with the ids that were sent under one name."""
    status, text = answer
    for of, sent in pairs(fields, filled_fields):
        text = text.replace(sent, f"<{of.thing}>")
    return status, VARIES.sub("", text)


def pairs(fields: Any, sent: Any) -> Iterator[tuple[Of, str]]:
    if isinstance(fields, Of):
        yield fields, sent
    elif isinstance(fields, dict):
        for name, value in fields.items():
            yield from pairs(value, sent[name])
    elif isinstance(fields, list):
        for value, each in zip(fields, sent, strict=True):
            yield from pairs(value, each)


def leaks(house: House, text: str, sent: Any) -> set[str]:
    said = json.dumps(sent)
    return {secret for secret in house.secrets() if secret in text and secret not in said}
