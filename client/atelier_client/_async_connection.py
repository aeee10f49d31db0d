"""How the client for asyncio sends requests; what each method does is told at its namesake of `Connection`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx

from atelier_client._calls.call import Call
from atelier_client._policy import END_SECONDS, SILENCE_SECONDS, Attempts, Deadline, Follower, Policy, answer
from atelier_client._results import Fetch
from atelier_client.events import JobEvent

T = TypeVar("T")
JobEvents = AsyncGenerator[JobEvent, None]


class AsyncConnection:
    """A gateway, the key to it, and the policy by which requests are repeated."""

    def __init__(self, url: str, key: str = "", *, policy: Policy | None = None) -> None:
        self.url = url.rstrip("/")
        self._policy = policy or Policy()
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(timeout=self._policy.httpx_timeout())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    def _request(self, call: Call[T], read: float | None = None) -> httpx.Request:
        return self._http.build_request(
            call.method,
            self.url + call.path,
            params=dict(call.params) or None,
            json=call.json,
            content=call.content,
            headers=self._headers | dict(call.headers),
            timeout=self._policy.httpx_timeout(read),
        )

    async def _send(self, call: Call[T]) -> T:
        attempts = Attempts(call, self._policy, self.url)
        while True:
            try:
                response = await self._http.send(self._request(call))
                pause = attempts.after_response(response)
                if pause is None:
                    return answer(call, response)
            except httpx.TransportError as error:
                pause = attempts.after_failure(error)
            await asyncio.sleep(pause)

    async def _events(self, follower: Follower, deadline: Deadline) -> JobEvents:
        request = self._request(follower.call(), read=deadline.cut(SILENCE_SECONDS))
        response = await self._http.send(request, stream=True)
        async with contextlib.aclosing(response):
            if response.status_code != 200:
                await response.aread()
            if follower.refused(response):
                return
            chunks = response.aiter_bytes()
            while (chunk := await _next(chunks, deadline)) is not None:
                events = follower.feed(chunk)
                if follower.ended:
                    # With its end the connection is free for the next request.
                    with contextlib.suppress(TimeoutError, httpx.TransportError):
                        async with asyncio.timeout(END_SECONDS):
                            await anext(chunks, None)
                for event in events:
                    yield event
                    deadline.left()

    async def _fetch(self, fetch: Fetch) -> Path:
        call = Call("GET", fetch.url, lambda body: None)
        attempts = Attempts(call, self._policy, fetch.url.split("?")[0])
        while True:
            try:
                # A signed address needs no key, and may lead to another host: the key stays here.
                headers = {"accept-encoding": "identity"} | (self._headers if fetch.asked is not None else {})
                async with self._http.stream(
                    "GET" if fetch.asked is None else "POST",
                    fetch.url,
                    json=fetch.asked,
                    headers=headers,
                    follow_redirects=fetch.asked is None,
                ) as response:
                    if not response.is_success:
                        await response.aread()
                        pause = attempts.after_response(response)
                        if pause is None:
                            answer(call, response)
                    else:
                        with fetch.arriving() as file:
                            async for chunk in response.aiter_bytes(1 << 16):
                                await asyncio.to_thread(file.write, chunk)
                        return fetch.target
            except httpx.TransportError as error:
                pause = attempts.after_failure(error)
            await asyncio.sleep(pause or 0.0)


async def _next(chunks: AsyncIterator[bytes], deadline: Deadline) -> bytes | None:
    """Return the next chunk, or None at the end. Raises Timeout."""
    try:
        async with asyncio.timeout(deadline.left()):
            return await anext(chunks)
    except StopAsyncIteration:
        return None
    except TimeoutError:
        deadline.left()
        raise
