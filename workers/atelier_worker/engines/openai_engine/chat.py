"""Conversations with an upstream: what is asked, and the stream of pieces that comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from atelier_worker.engine import Chat, EngineError

from .options import Model
from .patience import Again
from .sse import BadStream, EventReader
from .upstream import Upstream, counted, read_limited

_DONE = "[DONE]"
_LONGEST_ERROR_BYTES = 64 << 10
# What an error in the stream is called when another try may help.
_PASSING = ("server_error", "rate_limit", "overloaded", "timeout", "unavailable", "internal")
_NOT_TEXT = ("tool_calls", "function_call")


# Takes a piece of text; tells whether anything was ever passed on to the client.
Write = Callable[[str], bool]


class Enough(Exception):
    """Raised by a `Write` that needs no more of the text."""


@dataclass(slots=True)
class Reply:
    """What came back so far. `wrote` is true once a piece of text was passed on."""

    wrote: bool = False
    reason: str = ""
    done: bool = False
    usage: tuple[int, int] | None = None
    write: Write = field(default=lambda _: True)

    @property
    def finish(self) -> Literal["stop", "length"]:
        """Why the text ends, in the words of the engine protocol."""
        return "length" if self.reason == "length" else "stop"


def body_of(model: Model, chat: Chat, seed: int) -> dict[str, object]:
    """The request: only what was asked for; the rest is whatever the upstream does by itself."""
    body: dict[str, object] = {
        "model": model.source,
        "messages": [{"role": message.role, "content": message.content} for message in chat.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if model.seeds:
        body["seed"] = seed
    if chat.max_tokens is not None:
        body[model.max_tokens_field] = chat.max_tokens
    if chat.temperature is not None:
        body["temperature"] = chat.temperature
    if chat.top_p is not None:
        body["top_p"] = chat.top_p
    if chat.stop:
        body["stop"] = list(chat.stop)
    return body


async def converse(upstream: Upstream, model: Model, body: dict[str, object], write: Write) -> Reply:
    """Ask once, and pass every piece of text on as it comes, until there is no more or `write` has enough.

    Raises:
        Again: it failed before anything was written.
        EngineError: it failed, and what was written cannot be taken back; or it would fail again.
    """
    reply = Reply(write=write)
    try:
        async with upstream.post("/chat/completions", model=model.source, body=body) as response:
            await _read(response, reply, upstream)
    except Enough:
        reply.done = True
    except (httpx.TransportError, BadStream) as error:
        raise _cut(reply, "took too long" if isinstance(error, httpx.TimeoutException) else "broke off") from error
    if not reply.done and not reply.reason:
        raise _cut(reply, "ended without saying why")
    if reply.reason == "content_filter":
        raise EngineError("The upstream's filter of contents ended the text.")
    if reply.reason in _NOT_TEXT:
        raise EngineError("The upstream wants to call a tool, and was offered none.")
    return reply


async def _read(response: httpx.Response, reply: Reply, upstream: Upstream) -> None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "text/event-stream":
        await _read_error(response, reply, upstream)
        raise EngineError(
            f"The upstream answered with {kind or 'nothing that has a type'} and not with a stream of events."
        )
    reader = EventReader()
    async for piece in response.aiter_bytes():
        for event in reader.feed(piece):
            if event == _DONE:
                reply.done = True
                return
            _take(event, reply, upstream)


async def _read_error(response: httpx.Response, reply: Reply, upstream: Upstream) -> None:
    """Some answer 200 and then say in JSON why there is no text: that is as good as an error in the stream."""
    try:
        answer = json.loads(await read_limited(response, _LONGEST_ERROR_BYTES))
    except (EngineError, ValueError, RecursionError):
        return
    if isinstance(answer, dict) and answer.get("error"):
        raise _failed(answer, reply, upstream)


def _take(event: str, reply: Reply, upstream: Upstream) -> None:
    try:
        chunk: Any = json.loads(event)
    except (ValueError, RecursionError):
        raise BadStream("The upstream sent an event that is not JSON.") from None
    if not isinstance(chunk, dict):
        raise BadStream("The upstream sent an event that is not an object of JSON.")
    if chunk.get("error"):
        raise _failed(chunk, reply, upstream)
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        reply.usage = counted(usage.get("prompt_tokens"), usage.get("completion_tokens")) or reply.usage
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        # Counts come in a piece without choices; some send pieces that only keep the connection open.
        return
    delta = choices[0].get("delta")
    text = delta.get("content") if isinstance(delta, dict) else None
    if isinstance(text, str) and text:
        reply.wrote = reply.write(text)
    reason = choices[0].get("finish_reason")
    if isinstance(reason, str):
        reply.reason = reason


def _failed(chunk: dict[str, Any], reply: Reply, upstream: Upstream) -> Exception:
    """What an error in the midst of a stream means."""
    said, code = upstream.reason_of(chunk)
    quoted = f": {said}" if said else "."
    passing = code.isdecimal() and (code == "429" or int(code) >= 500)
    passing = passing or any(word in code.lower() for word in _PASSING)
    if reply.wrote:
        return EngineError(f"The upstream failed in the middle of the text{quoted}")
    problem = EngineError(f"The upstream failed{quoted}", retryable=passing)
    return Again(problem) if passing else problem


def _cut(reply: Reply, how: str) -> Exception:
    if reply.wrote:
        return EngineError(f"The upstream's answer {how} in the middle of the text.")
    return Again(EngineError(f"The upstream's answer {how} before it began.", retryable=True))
