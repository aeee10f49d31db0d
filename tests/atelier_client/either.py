"""One face for the blocking and the async client, so that every test holds for both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

from atelier_client import AsyncAtelier, Atelier, Policy

QUICK = Policy(timeout=5.0, attempts=3, reconnect_for=5.0, first_pause=0.001, longest_pause=0.002)


class Either:
    """Calls a method of one of the clients, each time with a fresh client; streams come back as lists."""

    def __init__(self, kind: str, url: str, policy: Policy = QUICK) -> None:
        self._kind, self._url, self._policy = kind, url, policy

    def with_policy(self, policy: Policy) -> Either:
        return Either(self._kind, self._url, policy)

    def at(self, url: str) -> Either:
        return Either(self._kind, url, self._policy)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._kind == "async":
                return asyncio.run(self._call(name, args, kwargs))
            with Atelier(self._url, "atl_key", policy=self._policy) as client:
                answer = getattr(client, name)(*args, **kwargs)
                return list(answer) if inspect.isgenerator(answer) else answer

        return call

    async def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        async with AsyncAtelier(self._url, "atl_key", policy=self._policy) as client:
            answer = getattr(client, name)(*args, **kwargs)
            if isinstance(answer, AsyncIterator):
                return [event async for event in answer]
            return await answer
