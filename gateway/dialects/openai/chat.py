"""`POST /chat/completions`: the next message of a conversation, waited for or streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from atelier.router.v1 import chat_pb2, job_pb2, router_service_pb2
from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint
from gateway.dialects.fields import Kind, Values, mapped, refused
from gateway.dialects.openai import text
from gateway.dialects.openai.errors import error_body
from gateway.dialects.openai.images import JOB_ID
from gateway.http import Reply
from gateway.render import dump
from gateway.sse import unnamed
from gateway.status import HttpProblem, http_status
from service_kit.errors import AtelierError, ErrorReason, InvalidArgument

_DONE = unnamed(b"[DONE]")
_OPENING = dump({"role": "assistant", "content": ""})
_GOES_ON = b',"logprobs":null,"finish_reason":null}]}\n\n'


async def complete(call: Call) -> Reply | None:
    """Write the next message."""
    values = await call.values()
    messages = [text.message(given, f"messages[{index}]") for index, given in enumerate(values.list("messages"))]
    include_usage = _include_usage(values)
    name, most = _most(values)
    accepted = await text.submit(
        call, values, messages, {"max_tokens": name}, max_tokens=most, stop=values.list("stop")
    )
    if values.get("stream"):
        chunks = _Chunks(accepted, include_usage=include_usage)
        await call.stream(_frames(call, accepted.job_id, chunks), chunks.opening)
        return None
    job = await call.finished(accepted.job_id)
    answer = {
        **_head(accepted, "chat.completion"),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": job.reply.text, "refusal": None},
                "logprobs": None,
                "finish_reason": _finish_reason(job.reply),
            }
        ],
        **({"usage": usage(job.reply)} if job.reply.HasField("usage") else {}),
    }
    return json_reply(answer, headers={JOB_ID: job.job_id})


def usage(reply: chat_pb2.ChatReply) -> dict[str, int] | None:
    """Return what was counted, None when nothing was."""
    if not reply.HasField("usage"):
        return None
    read, written = reply.usage.prompt_tokens, reply.usage.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _most(values: Values) -> tuple[str, int | None]:
    """Return the most tokens to write, and under which of its two names that was said."""
    old, new = values.get("max_tokens"), values.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        message = "says something else than max_completion_tokens: leave it out"
        raise InvalidArgument.field("max_tokens", message, ErrorReason.CONFLICTING_FIELDS)
    return ("max_tokens", old) if new is None else ("max_completion_tokens", new)


def _include_usage(values: Values) -> bool:
    options = values.get("stream_options")
    if options is None:
        return False
    if not values.get("stream"):
        message = "means nothing without stream: leave it out"
        raise InvalidArgument.field("stream_options", message, ErrorReason.CONFLICTING_FIELDS)
    for name, value in options.items():
        if name == "include_usage" and isinstance(value, bool):
            continue
        if name != "include_obfuscation" or value is not False:
            message = "cannot be chosen" if name == "include_obfuscation" else "is not known, or no true or false"
            raise InvalidArgument.field(f"stream_options.{name}"[:300], message)
    return bool(options.get("include_usage"))


def _finish_reason(reply: chat_pb2.ChatReply) -> str:
    return "length" if text.is_cut(reply) else "stop"


def _head(accepted: router_service_pb2.GenerateContentResponse, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{accepted.job_id}",
        "object": kind,
        "created": int(accepted.created_at.seconds),
        "model": accepted.generation_settings.model,
    }


class _Chunks:
    """The events of one streamed reply."""

    def __init__(self, accepted: router_service_pb2.GenerateContentResponse, *, include_usage: bool) -> None:
        self._head = _head(accepted, "chat.completion.chunk") | ({"usage": None} if include_usage else {})
        self._include_usage = include_usage
        # Put together as bytes: everything but the delta and the end is the same in each of them.
        self._before = b"data: " + dump(self._head)[:-1] + b',"choices":[{"index":0,"delta":'

    @property
    def opening(self) -> bytes:
        """The chunk that comes before the text."""
        return self._before + _OPENING + _GOES_ON

    def piece(self, text: str) -> bytes:
        """Return the chunk of a piece of the text."""
        return self._before + b'{"content":' + dump(text) + b"}" + _GOES_ON

    def end(self, reply: chat_pb2.ChatReply) -> bytes:
        """Return all that comes after the text."""
        counted = unnamed(dump({**self._head, "choices": [], "usage": usage(reply)})) if self._include_usage else b""
        last = self._before + b'{},"logprobs":null,"finish_reason":' + dump(_finish_reason(reply)) + b"}]}\n\n"
        return last + counted + _DONE


async def _frames(call: Call, job_id: str, chunks: _Chunks) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(text.pieces(call, job_id)) as pieces:
            async for piece in pieces:
                yield chunks.end(piece.reply) if isinstance(piece, job_pb2.Job) else chunks.piece(piece)
    except HttpProblem as problem:
        yield unnamed(dump(error_body(problem.error, problem.status or 500, call.exchange.request_id)))
    except AtelierError as error:
        yield unnamed(dump(error_body(error, http_status(error), call.exchange.request_id)))


_WRITES_FREELY = "cannot be chosen: the model writes freely"
FIELDS = (
    mapped(
        "messages",
        "`chat.messages`: of system or developer, user, assistant; content is text, or parts of the type `text`, which "
        "begin on lines of their own",
        {"role": "user", "content": "Say how you would draw a heron."},
        Kind.OBJECT,
        required=True,
        repeated=True,
    ),
    *text.COMMON_FIELDS,
    mapped("max_tokens", "`chat.max_tokens`", 100, Kind.INTEGER),
    mapped("max_completion_tokens", "`chat.max_tokens`", 100, Kind.INTEGER),
    mapped("stop", "`chat.stop`", ["###"], repeated=True),
    mapped("seed", "`seed`", 7, Kind.INTEGER, wide=True),
    mapped("n", "one message is written", 1, Kind.INTEGER, choices=(1,)),
    mapped(
        "stream_options",
        "`include_usage`: one more chunk, with what was counted; only with `stream`",
        {"include_usage": True},
        Kind.OBJECT,
    ),
    refused("frequency_penalty", "cannot be chosen", 0.5, harmless=(0,)),
    refused("presence_penalty", "cannot be chosen", 0.5, harmless=(0,)),
    refused("logit_bias", "cannot be chosen", {"50256": -100}, harmless=({},)),
    refused("logprobs", "are not known", True, harmless=(False,)),
    refused("functions", "cannot be used: models are asked for text alone", [{"name": "f"}], harmless=([],)),
    refused(
        "function_call", "cannot be used: models are asked for text alone", {"name": "f"}, harmless=("auto", "none")
    ),
    refused("response_format", _WRITES_FREELY, {"type": "json_object"}, harmless=({"type": "text"},)),
    refused("modalities", _WRITES_FREELY, ["text", "audio"], harmless=(["text"],)),
    refused("audio", "is not made here", {"voice": "x", "format": "mp3"}),
    refused("prediction", "cannot be used", {"type": "content", "content": "x"}),
    refused("reasoning_effort", "cannot be chosen", "high"),
    refused("verbosity", "cannot be chosen", "low"),
    refused("web_search_options", "cannot be used: nothing is searched", {}),
)

ENDPOINTS = (
    Endpoint(
        "POST",
        "/openai/v1/chat/completions",
        complete,
        FIELDS,
        note="A client that goes, from a stream too, has not cancelled its job. A stream that fails ends with `error`.",
    ),
)
