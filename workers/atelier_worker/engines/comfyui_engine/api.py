"""ComfyUI's HTTP interface, as far as it is needed. What it answers is never trusted: bounded, and checked for shape.

Seen of the real one (see `scripts/record_comfyui.py`): a prompt keeps the id that the client chose; it is in `/queue`
until it has ended and in `/history` from then on, without a moment in neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from atelier_worker.engine import EngineError
from service_kit.comfy_template import Workflow

_MOST_JSON_BYTES = 64 * 1024 * 1024
_LONGEST_NAME = 400


class NotThere(EngineError):
    """ComfyUI cannot be reached; nothing was sent."""

    def __init__(self) -> None:
        super().__init__("ComfyUI cannot be reached; is it running?", retryable=True)


class AnswerLost(EngineError):
    """Something was sent, and no answer came: it may have arrived or not."""

    def __init__(self) -> None:
        super().__init__("ComfyUI did not answer.", retryable=True)


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
    """One ComfyUI. Every method may be called from any thread."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Speak to `url` (`http://127.0.0.1:8188`).

        Raises:
            ValueError: it is no address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"an address such as http://127.0.0.1:8188 is needed; got {url!r}")
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
            trust_env=False,
            # To load all authorities takes a while, and means nothing without TLS.
            verify=parts.scheme == "https",
        )

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

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
        with self._ask("POST", "/prompt", json=body) as answer:
            if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
                # Said by whatever stands in front of ComfyUI, too, which does not know.
                raise AnswerLost
            found = _json(answer, allowed=(200, 400))
            if answer.status_code == httpx.codes.BAD_REQUEST:
                raise Refused(found)
        return str(found.get("prompt_id", prompt_id))

    def find(self, prompt_id: str) -> Place:
        """Return where a prompt is.

        Raises:
            NotThere: ComfyUI cannot be reached.
            AnswerLost: it did not answer.
        """
        # In this order, since a prompt moves from the queue to the history.
        running, waiting = self._queue()
        with self._ask("GET", f"/history/{prompt_id}") as answer:
            found = _json(answer).get(prompt_id)
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
        with self._ask("POST", "/queue", json={"delete": [prompt_id]}):
            pass

    def interrupt(self, prompt_id: str) -> None:
        """Stop a prompt that runs. Older releases stop whatever runs: look first what does."""
        with self._ask("POST", "/interrupt", json={"prompt_id": prompt_id}):
            pass

    def upload(self, name: str, content: bytes, content_type: str) -> str:
        """Send a picture; return what a loader has to be told to find it."""
        form = {"type": "input", "subfolder": "atelier", "overwrite": "true"}
        files = {"image": (name, content, content_type)}
        with self._ask("POST", "/upload/image", data=form, files=files) as answer:
            found = _json(answer)
        parts = (found.get("subfolder"), found.get("name"))
        if not all(isinstance(part, str) and 0 < len(part) < _LONGEST_NAME for part in parts):
            raise EngineError("ComfyUI did not say where it put a picture.", retryable=True)
        return f"{parts[0]}/{parts[1]}"

    def download(self, saved: Saved, target: Path, *, limit_bytes: int, check: Callable[[], None]) -> bool:
        """Write what was saved to `target`; return False when it is not there any more.

        `check` is called with each piece, and raises to end it.

        Raises:
            EngineError: it is larger than the limit, or ComfyUI does not hand it out.
        """
        names = {"filename": saved.filename, "subfolder": saved.subfolder, "type": saved.type}
        with self._ask("GET", "/view", params=names) as answer:
            if answer.status_code == httpx.codes.NOT_FOUND:
                return False
            if answer.status_code != httpx.codes.OK:
                raise EngineError(f"ComfyUI answered {answer.status_code} to a request for what it had saved.")
            size = 0
            with target.open("wb") as out:
                for chunk in answer.iter_bytes():
                    check()
                    size += len(chunk)
                    if size > limit_bytes:
                        raise EngineError(f"ComfyUI made a file of more than {limit_bytes} bytes, which is the limit.")
                    out.write(chunk)
        return True

    def _queue(self) -> tuple[list[str], list[str]]:
        with self._ask("GET", "/queue") as answer:
            found = _json(answer)
        return _ids(found.get("queue_running")), _ids(found.get("queue_pending"))

    @contextmanager
    def _ask(self, method: str, path: str, **parts: Any) -> Iterator[httpx.Response]:
        try:
            with self._http.stream(method, path, **parts) as answer:
                yield answer
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotThere from error
        except httpx.HTTPError as error:
            raise AnswerLost from error


def _json(answer: httpx.Response, allowed: tuple[int, ...] = (200,)) -> dict[str, Any]:
    if answer.status_code not in allowed:
        raise EngineError(
            f"ComfyUI answered {answer.status_code} to {answer.request.method} {answer.request.url.path}.",
            retryable=answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR,
        )
    data = bytearray()
    for chunk in answer.iter_bytes():
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
