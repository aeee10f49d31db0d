"""How the client that blocks sends requests: repeated where that does no harm, streams cut off in time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx

from atelier_client._calls.call import Call
from atelier_client._policy import END_SECONDS, SILENCE_SECONDS, Attempts, Deadline, Follower, Policy, answer
from atelier_client._results import Fetch
from atelier_client.events import JobEvent

T = TypeVar("T")


class Connection:
    """A gateway, the key to it, and the policy by which requests are repeated."""

    def __init__(self, url: str, key: str = "", *, policy: Policy | None = None) -> None:
        """Prepare a client; nothing is sent yet. `key` is an API key's text."""
        self.url = url.rstrip("/")
        self._policy = policy or Policy()
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(timeout=self._policy.httpx_timeout())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

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

    def _send(self, call: Call[T]) -> T:
        attempts = Attempts(call, self._policy, self.url)
        while True:
            try:
                response = self._http.send(self._request(call))
                pause = attempts.after_response(response)
                if pause is None:
                    return answer(call, response)
            except httpx.TransportError as error:
                pause = attempts.after_failure(error)
            time.sleep(pause)

    def _events(self, follower: Follower, deadline: Deadline) -> Iterator[JobEvent]:
        """Yield the events of one connection."""
        request = self._request(follower.call(), read=deadline.cut(SILENCE_SECONDS))
        response = self._http.send(request, stream=True)
        with contextlib.closing(response), _cut_off(response, deadline.left()):
            if response.status_code != 200:
                response.read()
            if follower.refused(response):
                return
            chunks = response.iter_bytes()
            for chunk in chunks:
                events = follower.feed(chunk)
                if follower.ended:
                    # With its end the connection is free for the next request.
                    with contextlib.suppress(httpx.TransportError), _cut_off(response, END_SECONDS):
                        next(chunks, None)
                for event in events:
                    yield event
                    deadline.left()

    def _fetch(self, fetch: Fetch) -> Path:
        call = Call("GET", fetch.url, lambda body: None)
        attempts = Attempts(call, self._policy, fetch.url.split("?")[0])
        while True:
            try:
                # A signed address needs no key, and may lead to another host: the key stays here.
                headers = {"accept-encoding": "identity"} | (self._headers if fetch.asked is not None else {})
                with self._http.stream(
                    "GET" if fetch.asked is None else "POST",
                    fetch.url,
                    json=fetch.asked,
                    headers=headers,
                    follow_redirects=fetch.asked is None,
                ) as response:
                    if not response.is_success:
                        response.read()
                        pause = attempts.after_response(response)
                        if pause is None:
                            answer(call, response)
                    else:
                        with fetch.arriving() as file:
                            for chunk in response.iter_bytes(1 << 16):
                                file.write(chunk)
                        return fetch.target
            except httpx.TransportError as error:
                pause = attempts.after_failure(error)
            time.sleep(pause or 0.0)


@contextlib.contextmanager
def _cut_off(response: httpx.Response, seconds: float | None) -> Iterator[None]:
    """Break a response's connection after a time: a blocking read has no other way to be ended punctually."""
    stream = response.extensions.get("network_stream")
    raw = stream.get_extra_info("socket") if stream is not None and seconds is not None else None
    if not isinstance(raw, socket.socket):
        yield
        return

    def cut() -> None:
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds or 0.0, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
