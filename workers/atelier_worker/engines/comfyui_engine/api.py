"""ComfyUI's HTTP interface, as far as it is needed. What it answers is never trusted: bounded, and checked for shape.

Seen of the real one (see `scripts/record_comfyui.py`): a prompt keeps the id that the client chose; it is in `/queue`
until it has ended and in `/history` from then on, without a moment in neither.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from atelier_worker.engine import EngineError
from atelier_worker.engines.watched import run_watched
from service_kit.comfy_template import Workflow

_MOST_JSON_BYTES = 64 * 1024 * 1024
_LONGEST_NAME = 400
_CONNECT_S = 5.0
# A picture on its way there may take so many times as long as an answer.
_UPLOAD_TIMES = 10
T = TypeVar("T")


class NotThere(EngineError):
    """ComfyUI cannot be reached; nothing was sent."""

    def __init__(self) -> None:
        super().__init__("ComfyUI cannot be reached; is it running?", retryable=True)


class AnswerLost(EngineError):
    """Something was sent, and no answer came: it may have arrived or not."""

    def __init__(self, message: str = "ComfyUI did not answer.") -> None:
        super().__init__(message, retryable=True)


class Refused(Exception):
    """ComfyUI answered 400 to a prompt. `answer` is what it said."""

    def __init__(self, answer: object) -> None:
        super().__init__("refused")
        self.answer = answer


class State(Enum):
    """Where a prompt is."""

    UNKNOWN = "unknown"
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a prompt is, how often it waits, and how it ended."""

    state: State
    waiting: int = 0
    succeeded: bool = False
    outputs: Mapping[str, Any] = field(default_factory=dict)
    messages: object = None


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that ComfyUI saved, by its names there. They are sent back as they came and are never a path here."""

    filename: str
    subfolder: str
    type: str


class ComfyApi:
    """One ComfyUI. Every method may be called from any thread, and none takes longer than its time.

    No redirect is followed, and no proxy is used. Each request has a connection of its own, in an event loop of its
    own, so that it can be given up wherever it waits, whoever answers a byte now and then.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Speak to `url` (`http://127.0.0.1:8188`); an answer is there after `timeout_s`, or it is lost.

        Raises:
            ValueError: it is no address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"an address such as http://127.0.0.1:8188 is needed; got {url!r}")
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        # To load all authorities takes a while, and means nothing without TLS.
        self._tls = httpx.create_ssl_context(trust_env=False) if parts.scheme == "https" else False
        self._check: Callable[[], None] = _go_on

    def for_task(self, check: Callable[[], None]) -> ComfyApi:
        """Return the same ComfyUI for a task: all but `submit` ends with whatever `check` raises, wherever it waits."""
        mine = copy.copy(self)
        mine._check = check
        return mine

    def within(self, timeout_s: float) -> ComfyApi:
        """Return the same ComfyUI for somebody who has no more time than this."""
        mine = copy.copy(self)
        mine._timeout_s = min(timeout_s, self._timeout_s)
        return mine

    def submit(self, prompt_id: str, client_id: str, workflow: Workflow) -> str:
        """Hand a workflow in, once; return the id under which it runs.

        Raises:
            NotThere: nothing was sent.
            AnswerLost: it may run.
            Refused: it does not.
        """
        body = {
            "prompt": workflow,
            "prompt_id": prompt_id,
            "client_id": client_id,
            # Releases that know this show previews whatever they were started with.
            "extra_data": {"preview_method": "latent2rgb"},
        }

        async def read(answer: httpx.Response) -> str:
            found = await _json(answer, allowed=(200, 400))
            if answer.status_code == httpx.codes.BAD_REQUEST:
                raise Refused(found)
            return str(found.get("prompt_id", prompt_id))

        # Whoever gives up while it is on its way does not know whether it arrives, so this is waited for.
        return asyncio.run(self._asked("POST", "/prompt", read, self._timeout_s, json=body))

    def find(self, prompt_id: str) -> Place:
        """Return where a prompt is.

        Raises:
            NotThere: ComfyUI cannot be reached.
            AnswerLost: it did not answer.
        """
        # In this order, since a prompt moves from the queue to the history.
        queue = self._ask("GET", "/queue", _json)
        running, waiting = _ids(queue.get("queue_running")), _ids(queue.get("queue_pending"))
        found = self._ask("GET", f"/history/{prompt_id}", _json).get(prompt_id)
        if isinstance(found, dict):
            status, outputs = found.get("status"), found.get("outputs")
            status = status if isinstance(status, dict) else {}
            return Place(
                State.ENDED,
                waiting=waiting.count(prompt_id),
                succeeded=status.get("status_str", "success") == "success",
                outputs=outputs if isinstance(outputs, dict) else {},
                messages=status.get("messages"),
            )
        if prompt_id in running:
            return Place(State.RUNNING, waiting.count(prompt_id))
        return Place(State.WAITING if prompt_id in waiting else State.UNKNOWN, waiting.count(prompt_id))

    def drop(self, prompt_id: str) -> None:
        """Take a prompt out of those that wait, once."""
        self._ask("POST", "/queue", _nothing, json={"delete": [prompt_id]})

    def interrupt(self, prompt_id: str) -> None:
        """Stop a prompt that runs. Older releases stop whatever runs: look first what does."""
        self._ask("POST", "/interrupt", _nothing, json={"prompt_id": prompt_id})

    def upload(self, name: str, content: bytes, content_type: str) -> str:
        """Send a picture; return what a loader has to be told to find it."""
        form = {"type": "input", "subfolder": "atelier", "overwrite": "true"}
        files = {"image": (name, content, content_type)}
        longest_s = self._timeout_s * _UPLOAD_TIMES
        found = self._ask("POST", "/upload/image", _json, longest_s=longest_s, data=form, files=files)
        parts = (found.get("subfolder"), found.get("name"))
        if not all(isinstance(part, str) and 0 < len(part) < _LONGEST_NAME for part in parts):
            raise EngineError("ComfyUI did not say where it put a picture.", retryable=True)
        return f"{parts[0]}/{parts[1]}"

    def download(self, saved: Saved, target: Path, *, limit_bytes: int, longest_s: float) -> bool:
        """Write what was saved to `target`; return False when it is not there any more.

        Raises:
            EngineError: it is larger than the limit, takes longer than `longest_s`, or ComfyUI does not hand it out.
        """

        async def read(answer: httpx.Response) -> bool:
            if answer.status_code == httpx.codes.NOT_FOUND:
                return False
            if answer.status_code != httpx.codes.OK:
                raise EngineError(f"ComfyUI answered {answer.status_code} to a request for what it had saved.")
            size = 0
            with target.open("wb") as out:
                async for chunk in answer.aiter_bytes():
                    self._check()
                    size += len(chunk)
                    if size > limit_bytes:
                        raise EngineError(f"ComfyUI made a file of more than {limit_bytes} bytes, which is the limit.")
                    out.write(chunk)
            return True

        names = {"filename": saved.filename, "subfolder": saved.subfolder, "type": saved.type}
        return self._ask("GET", "/view", read, longest_s=longest_s, params=names)

    def _ask(
        self,
        method: str,
        path: str,
        read: Callable[[httpx.Response], Awaitable[T]],
        *,
        longest_s: float | None = None,
        **parts: Any,
    ) -> T:
        """Ask, and return what `read` makes of the answer."""
        return run_watched(self._asked(method, path, read, longest_s or self._timeout_s, **parts), self._check)

    async def _asked(
        self, method: str, path: str, read: Callable[[httpx.Response], Awaitable[T]], longest_s: float, **parts: Any
    ) -> T:
        timeout = httpx.Timeout(self._timeout_s, connect=min(self._timeout_s, _CONNECT_S))
        try:
            async with (
                asyncio.timeout(longest_s),
                httpx.AsyncClient(timeout=timeout, verify=self._tls, trust_env=False) as client,
                client.stream(method, f"{self.url}{path}", **parts) as answer,
            ):
                if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
                    # Said by whatever stands in front of ComfyUI, too, which does not know.
                    raise AnswerLost(f"ComfyUI answered {answer.status_code} to {method} {path.split('/')[1]}.")
                return await read(answer)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotThere from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise AnswerLost from error


def _go_on() -> None:
    """Check nothing."""


async def _nothing(answer: httpx.Response) -> None:
    """Read nothing of an answer."""


async def _json(answer: httpx.Response, allowed: tuple[int, ...] = (200,)) -> dict[str, Any]:
    if answer.status_code not in allowed:
        request = answer.request
        raise EngineError(f"ComfyUI answered {answer.status_code} to {request.method} {request.url.path}.")
    data = bytearray()
    async for chunk in answer.aiter_bytes():
        data += chunk
        if len(data) > _MOST_JSON_BYTES:
            raise EngineError("ComfyUI answered with more than can be read.")
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise EngineError("What answers at the address of ComfyUI is no ComfyUI.", retryable=True) from error
    if not isinstance(found, dict):
        raise EngineError("What answers at the address of ComfyUI is no ComfyUI.", retryable=True)
    return found


def _ids(items: object) -> list[str]:
    found = items if isinstance(items, list) else []
    return [item[1] for item in found if isinstance(item, list) and len(item) > 1 and isinstance(item[1], str)]
