"""How long to wait, when to try again, and what an answer means: everything the two clients share around a request."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from atelier_client._calls.call import Call
from atelier_client._calls.jobs import watch_job
from atelier_client.errors import AtelierError, BadReply, Timeout, Unreachable, refusal
from atelier_client.events import JobEvent, SseDecoder, job_event, json_object

T = TypeVar("T")

CONNECT_SECONDS = 5.0
# The gateway sends a comment at least every 15 s; three times that without a byte is a dead connection.
SILENCE_SECONDS = 45.0
# The gateway ends the stream of a job right after its last event.
END_SECONDS = 0.1
LONGEST_RETRY_AFTER = 30.0
_RETRIED_STATUSES = frozenset({429, 503})
# Stream errors after which the cursor leads on: the identity was renewed, or a service was restarted.
_RESUMED_STATUSES = frozenset({"UNAVAILABLE", "INTERNAL", "ABORTED", "CANCELLED", "RESOURCE_EXHAUSTED"})


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of time, in seconds, and how often a request is tried.

    Attributes:
        timeout: how long one request may wait for the next bytes of its answer.
        attempts: how often a request is tried in all.
        reconnect_for: how long `watch` tries to come back before it gives up.
    """

    timeout: float = 30.0
    attempts: int = 4
    reconnect_for: float = 60.0
    first_pause: float = 0.2
    longest_pause: float = 5.0

    def pause(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row: doubling, with jitter against herds."""
        return float(min(self.longest_pause, self.first_pause * 2 ** (failures - 1)) * random.uniform(0.5, 1.0))  # noqa: S311

    def httpx_timeout(self, read: float | None = None) -> httpx.Timeout:
        """Return the limits for one request."""
        return httpx.Timeout(self.timeout, connect=min(CONNECT_SECONDS, self.timeout), read=read or self.timeout)


class Attempts:
    """The tries of one request."""

    def __init__(self, call: Call[Any], policy: Policy, address: str) -> None:
        self._call, self._policy, self._address = call, policy, address
        self._failures = 0

    def after_failure(self, error: httpx.TransportError) -> float:
        """Return how long to wait before the next try.

        Raises:
            Unreachable, Timeout: there is no next try.
        """
        self._failures += 1
        # Before a connection stands nothing was sent, so even what must not be repeated may be tried again.
        sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
        if self._failures >= self._policy.attempts or (sent and not self._call.repeatable):
            raise transport_error(error, self._address, self._policy.timeout) from error
        return self._policy.pause(self._failures)

    def after_response(self, response: httpx.Response) -> float | None:
        """Return how long to wait before the next try, or None when this answer stands."""
        if response.status_code not in _RETRIED_STATUSES or response.status_code in self._call.accept:
            return None
        self._failures += 1
        retry_after = retry_after_of(response)
        if self._failures >= self._policy.attempts or not self._call.repeatable:
            return None
        if retry_after is None:
            return self._policy.pause(self._failures) if response.status_code == 503 else None
        return retry_after if retry_after <= LONGEST_RETRY_AFTER else None


def transport_error(error: httpx.TransportError, address: str, timeout: float) -> AtelierError:
    """Return the exception for a request that got no answer."""
    if isinstance(error, (httpx.ReadTimeout, httpx.WriteTimeout)):
        return Timeout(f"{address} did not answer within {timeout:g} s.")
    if isinstance(error, httpx.UnsupportedProtocol):
        return Unreachable(f"{address} is no address: one begins with http:// or https://.")
    return Unreachable(f"{address} cannot be reached: {str(error) or type(error).__name__}.")


def retry_after_of(response: httpx.Response) -> float | None:
    """Return the seconds of the header `Retry-After`; None without it or when it is a date."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return None


def answer(call: Call[T], response: httpx.Response) -> T:
    """Return what a whole response says.

    Raises:
        Refused and its kin: the API's error. BadReply: it is not the API's.
    """
    try:
        body = response.json() if response.content else {}
    except ValueError:
        body = None
    if not (response.is_success or response.status_code in call.accept):
        raise refusal(body, http_status=response.status_code, retry_after=retry_after_of(response))
    if not isinstance(body, Mapping):
        raise BadReply(f"{call.method} {call.path} was answered with what is not a JSON object.")
    return call.read(body)


class Deadline:
    """A limit of time in seconds; None for no limit."""

    def __init__(self, seconds: float | None, what: str) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._seconds, self._what = seconds, what

    def left(self) -> float | None:
        """Return the seconds that are left. Raises Timeout when there are none."""
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise Timeout(f"{self._what} did not end within {self._seconds:g} s.")
        return left

    def cut(self, pause: float) -> float:
        """Return a pause, shortened to what is left. Raises Timeout when nothing is."""
        left = self.left()
        return pause if left is None else min(pause, left)


class Follower:
    """Follows one job over as many connections as it takes: cursor, pauses, and when it is over."""

    def __init__(self, job_id: str, after: str, policy: Policy, address: str) -> None:
        self._job_id, self._cursor, self._policy, self._address = job_id, after, policy, address
        self._decoder = SseDecoder()
        self._failures = 0
        self._broken_since: float | None = None
        self._pending: AtelierError | None = None
        self._heard = False
        self.ended = False

    def call(self) -> Call[None]:
        """Return the request for the next connection."""
        self._decoder = SseDecoder()
        self._pending = None
        return watch_job(self._job_id, self._cursor)

    def refused(self, response: httpx.Response) -> bool:
        """Say whether the (wholly read) response is no stream.

        After 204 nothing more comes. Raises the API's error when a repeat would not help.
        """
        if response.status_code == 204:
            self.ended = True
            return True
        if response.is_success:
            return False
        try:
            body = response.json()
        except ValueError:
            body = None
        error = refusal(body, http_status=response.status_code, retry_after=retry_after_of(response))
        if response.status_code not in _RETRIED_STATUSES:
            raise error
        self._pending = error
        return True

    def feed(self, chunk: bytes) -> list[JobEvent]:
        """Take bytes of the stream and return the events that they complete. Raises the stream's own error."""
        events: list[JobEvent] = []
        for server_event in self._decoder.feed(chunk):
            if server_event.event == "error":
                self._stream_error(refusal(json_object(server_event)))
                break
            event = job_event(server_event)
            self._cursor = event.cursor or self._cursor
            self._failures, self._broken_since, self._heard = 0, None, True
            events.append(event)
            if event.job is not None and event.job.ended:
                self.ended = True
                break
        return events

    def _stream_error(self, error: AtelierError) -> None:
        if error.status not in _RESUMED_STATUSES and error.reason != "expired_identity":
            raise error
        self._pending = error

    def pause(self, error: httpx.TransportError | None = None) -> float:
        """Return how long to wait before the next connection.

        Raises:
            Unreachable: no connection brought an event for too long.
        """
        now = time.monotonic()
        self._broken_since = self._broken_since or now
        self._failures += 1
        never_there = error is not None and not self._heard and self._failures >= self._policy.attempts
        if never_there or now - self._broken_since > self._policy.reconnect_for:
            raise self._given_up(error) from error
        if self._pending is not None and self._pending.retry_after is not None:
            return min(self._pending.retry_after, LONGEST_RETRY_AFTER)
        return self._policy.pause(self._failures)

    def _given_up(self, error: httpx.TransportError | None) -> AtelierError:
        if self._pending is not None:
            return self._pending
        if error is not None:
            return transport_error(error, self._address, SILENCE_SECONDS)
        return Unreachable(f"{self._address} ends its stream about job {self._job_id} again and again.")
