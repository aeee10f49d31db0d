"""HTTP with an upstream: its address and key, its time, and what its refusals mean to a client and to the operator."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

import httpx

from atelier_worker.engine import EngineError
from service_kit.secret import Secret
from service_kit.version import __version__

from .patience import Again, asked_wait_s

log = logging.getLogger(__name__)

_CONNECT_S = 10.0
_LONGEST_REFUSAL_BYTES = 64 << 10
_LONGEST_QUOTE = 300
# No model reads so much at once; what is beyond would stop a limit of tokens for others and spoil the sums.
_MOST_TOKENS = 100_000_000
_BUSY = (408, 409, 425, 429)
_OUT_OF_MONEY = ("insufficient_quota", "billing_hard_limit_reached")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """`idle` is the longest silence of the upstream, `total` the longest that one request may take."""

    idle: timedelta
    total: timedelta


class Upstream:
    """One service. Any number of requests at a time, from any thread, each over a connection of its own.

    No redirect is followed, no proxy and nothing of ~/.netrc is used: the key goes to the address that is configured.
    """

    def __init__(self, url: str, key: Secret, timeouts: Timeouts) -> None:
        """Speak to `url`, such as `http://127.0.0.1:8000/v1`, with a key if there is one."""
        self._url = url.rstrip("/")
        self._key = key
        self._timeouts = timeouts
        self._tls: ssl.SSLContext | bool = (
            httpx.create_ssl_context(trust_env=False) if url.startswith("https") else False
        )

    @asynccontextmanager
    async def post(
        self,
        path: str,
        *,
        model: str,
        body: Mapping[str, object] | None = None,
        form: Mapping[str, str] | None = None,
        files: Mapping[str, tuple[str, bytes, str]] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Post JSON, or a form with files, and yield an answer of 200 whose content has not been read.

        Raises:
            Again: there was no connection, or the upstream is busy or broken; nothing was begun.
            EngineError: it refuses, is not what it should be, or took too long.
        """
        headers = {"user-agent": f"Atelier/{__version__}", "accept-encoding": "identity"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key.reveal()}"
        timeout = httpx.Timeout(self._timeouts.idle.total_seconds(), connect=_CONNECT_S)
        try:
            async with (
                asyncio.timeout(self._timeouts.total.total_seconds()),
                httpx.AsyncClient(timeout=timeout, verify=self._tls, trust_env=False, headers=headers) as client,
                client.stream("POST", f"{self._url}{path}", json=body, data=form, files=files) as response,
            ):
                if response.status_code != 200:
                    raise await self._refused(response, model)
                yield response
        except TimeoutError:
            took_s = self._timeouts.total.total_seconds()
            raise EngineError(f"The upstream was not done within {took_s:g} seconds.", retryable=True) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            log.warning("upstream_unreachable url=%s error=%s", self._url, type(error).__name__)
            raise Again(EngineError("The upstream cannot be reached.", retryable=True)) from None

    async def _refused(self, response: httpx.Response, model: str) -> Exception:
        """What an answer means that is not 200."""
        status = response.status_code
        said, code = await self._reason(response)
        if status in (401, 403):
            log.error(
                "upstream_refused_key status=%d url=%s said=%r; put a valid key into the file of api_key_file",
                *(status, self._url, said),
            )
            return EngineError("The upstream does not let this worker in; the worker's log says why.")
        if code in _OUT_OF_MONEY:
            log.error("upstream_out_of_quota url=%s said=%r", self._url, said)
            return EngineError("The upstream's quota is used up; the worker's log says more.")
        if status == 404:
            log.error("upstream_not_found url=%s model=%s said=%r", self._url, model, said)
            return EngineError(f"The upstream has no model {model!r}, or does not offer this.")
        if status in _BUSY or status >= 500:
            after_s = asked_wait_s(response.headers.get("retry-after"), datetime.now(UTC))
            busy = "is too busy" if status == 429 else "failed"
            return Again(EngineError(f"The upstream {busy} ({status}{_quoted(said)}).", retryable=True), after_s)
        if 300 <= status < 400 or status < 300:
            log.error("upstream_answered status=%d url=%s; is this the API's address?", status, self._url)
            return EngineError(
                f"The upstream answered {status}, which its API does not do; the worker's log says more."
            )
        return EngineError(f"The upstream refused the request ({status}{_quoted(said)}).")

    async def _reason(self, response: httpx.Response) -> tuple[str, str]:
        """The sentence and the code of a refusal; both empty when there are none."""
        try:
            data = await read_limited(response, _LONGEST_REFUSAL_BYTES)
            return self.reason_of(json.loads(data))
        except (httpx.HTTPError, EngineError, ValueError, RecursionError):
            return "", ""

    def reason_of(self, answer: object) -> tuple[str, str]:
        """What an answer of JSON gives as its error: a sentence that may be shown, and a code.

        Servers write `{"error": {"message": …, "code": …}}`, `{"error": …}`, `{"message": …}` or `{"detail": …}`.
        """
        fields = answer if isinstance(answer, dict) else {}
        error = fields.get("error", fields)
        if isinstance(error, str):
            return self.shown(error), ""
        if not isinstance(error, dict):
            return "", ""
        said = error.get("message") or error.get("detail") or ""
        code = error.get("code") or error.get("type") or ""
        return self.shown(said if isinstance(said, str) else json.dumps(said)), str(code)

    def shown(self, text: str) -> str:
        """A text of the upstream as a client may read it: one line, not long, without the key and without addresses."""
        line = _UNPRINTABLE.sub(" ", text).strip()
        if self._key:
            line = line.replace(self._key.reveal(), "********")
        line = re.sub(r"\b(?:sk|key)-[\w*.-]{4,}", "********", line)
        line = line.replace(self._url, "its address")
        return line if len(line) <= _LONGEST_QUOTE else f"{line[:_LONGEST_QUOTE].rsplit(' ', 1)[0]} …"


def counted(read: object, written: object) -> tuple[int, int] | None:
    """Tokens read and written as an answer counts them; None when it does not say both, or nothing that can be."""
    for count in (read, written):
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MOST_TOKENS:
            return None
    return cast(int, read), cast(int, written)


async def read_limited(response: httpx.Response, most_bytes: int) -> bytes:
    """Read an answer's content. Raises EngineError when it is larger than `most_bytes`."""
    pieces, size_bytes = [], 0
    async for piece in response.aiter_bytes():
        size_bytes += len(piece)
        if size_bytes > most_bytes:
            raise EngineError(f"The upstream answered with more than {most_bytes} bytes.")
        pieces.append(piece)
    return b"".join(pieces)


def _quoted(said: str) -> str:
    return f": {said.rstrip('.')}" if said else ""
