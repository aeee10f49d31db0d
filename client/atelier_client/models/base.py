"""What every answer has: the JSON object as it came, and pages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def as_it_came() -> Any:
    """Return the field `raw` of an answer: shown and compared by nobody."""
    return dataclasses.field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. `next_page_token` is empty on the last; `empty_state` says why a page of items is empty."""

    entries: tuple[T, ...] = ()
    next_page_token: str = ""
    empty_state: str = ""
    raw: Mapping[str, Any] = as_it_came()

    def __iter__(self) -> Iterator[T]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)
