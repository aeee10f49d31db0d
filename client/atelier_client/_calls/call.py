"""One request to the API: its method, its path, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from atelier_client._decode import decode
from atelier_client.errors import BadReply
from atelier_client.models import (
    Page,
)

T = TypeVar("T")


Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request.

    Attributes:
        repeatable: whether a repeat after a broken connection does no harm.
        accept: HTTP statuses other than 2xx that carry an answer and not an error.
    """

    method: str
    path: str
    read: Callable[[Body], T]
    params: Mapping[str, str | int | Sequence[str]] = field(default_factory=dict)
    json: Body | None = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    accept: frozenset[int] = frozenset()


def one(cls: type[T], name: str) -> Callable[[Body], T]:
    """Read `{"job": {...}}`."""

    def read(body: Body) -> T:
        if name not in body:
            raise BadReply(f"The reply has no {name!r}.")
        return decode(cls, body[name])

    return read


def page_of(cls: type[T], name: str) -> Callable[[Body], Page[T]]:
    """Read `{"jobs": [...], "next_page_token": ""}`."""

    def read(body: Body) -> Page[T]:
        entries = tuple(decode(cls, entry) for entry in body.get(name) or ())
        return Page(entries, body.get("next_page_token") or "", body.get("empty_state") or "", raw=body)

    return read


def path_of(template: str, *parts: str) -> str:
    """Fill `{}` with percent-encoded parts. Raises ValueError for an empty one, which would be another route."""
    if not all(parts):
        raise ValueError(f"an empty id cannot be put into {template}")
    return template.format(*(quote(part, safe="") for part in parts))


def only_given(**values: Any) -> dict[str, Any]:
    """Return what is neither None nor empty text."""
    return {name: value for name, value in values.items() if value is not None and value != ""}
