"""`POST /responses`: the next message of a conversation as one item of output, waited for or streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
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
from gateway.sse import frame
from gateway.status import HttpProblem, http_status
from service_kit.errors import AtelierError, ErrorReason, InvalidArgument

_NAMES = {"messages": "input", "max_tokens": "max_output_tokens"}


async def respond(call: Call) -> Reply | None:
    """Write the next message."""
    values = await call.values()
    accepted = await text.submit(call, values, _messages(values), _NAMES, max_tokens=values.get("max_output_tokens"))
    answer = _Answer(accepted, values)
    if values.get("stream"):
        await call.stream(_Events(call, answer).frames())
        return None
    job = await call.finished(accepted.job_id)
    return json_reply(answer.ended(job), headers={JOB_ID: job.job_id})


def _messages(values: Values) -> list[chat_pb2.ChatMessage]:
    messages = []
    if values.text("instructions"):
        messages.append(chat_pb2.ChatMessage(role=chat_pb2.CHAT_ROLE_SYSTEM, content=values.text("instructions")))
    given = values.get("input")
    if isinstance(given, str):
        return [*messages, chat_pb2.ChatMessage(role=chat_pb2.CHAT_ROLE_USER, content=given)]
    if not isinstance(given, list):
        raise InvalidArgument.field("input", "must be a text, or a list of messages", ErrorReason.MALFORMED_REQUEST)
    for index, item in enumerate(given):
        path = f"input[{index}]"
        kind = item.get("type", "message") if isinstance(item, Mapping) else None
        if kind != "message":
            raise InvalidArgument.field(f"{path}.type", f"must be message: {str(kind)[:60]!r} is not read here")
        messages.append(text.message(item, path))
    return messages


@dataclass(frozen=True, slots=True)
class _Answer:
    """The response object of one request."""

    accepted: router_service_pb2.GenerateContentResponse
    values: Values

    @property
    def item_id(self) -> str:
        """The id of its one item."""
        return f"msg_{self.accepted.job_id}"

    def of(self, status: str, **more: Any) -> dict[str, Any]:
        """Return it in some status."""
        values = self.values
        return {
            "id": f"resp_{self.accepted.job_id}",
            "object": "response",
            "created_at": int(self.accepted.created_at.seconds),
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": values.get("instructions"),
            "max_output_tokens": values.get("max_output_tokens"),
            "metadata": values.get("metadata", {}),
            "model": self.accepted.generation_settings.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": values.get("temperature"),
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": values.get("top_p"),
            "truncation": "disabled",
            "usage": None,
            **more,
        }

    def ended(self, job: job_pb2.Job) -> dict[str, Any]:
        """Return it when its job has succeeded."""
        is_cut = text.is_cut(job.reply)
        status = "incomplete" if is_cut else "completed"
        more = {"incomplete_details": {"reason": "max_output_tokens"}} if is_cut else {}
        return self.of(
            status,
            completed_at=int(job.finished_at.seconds),
            output=[self.item(status, [part(job.reply.text)])],
            usage=_usage(job.reply),
            **more,
        )

    def item(self, status: str, content: list[Any]) -> dict[str, Any]:
        """Return its one item."""
        return {"id": self.item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def part(said: str) -> dict[str, Any]:
    """Return a part of the output."""
    return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}


def _usage(reply: chat_pb2.ChatReply) -> dict[str, Any] | None:
    if not reply.HasField("usage"):
        return None
    read, written = reply.usage.prompt_tokens, reply.usage.completion_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }


class _Events:
    """The events of one stream, numbered."""

    def __init__(self, call: Call, answer: _Answer) -> None:
        self._call = call
        self._answer = answer
        self._number = -1

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Give the events of a job: what begins, the pieces of its text, what ends."""
        answer, job_id = self._answer, self._answer.accepted.job_id
        place = {"item_id": answer.item_id, "output_index": 0, "content_index": 0}
        yield self._event("response.created", response=answer.of("in_progress"))
        yield self._event("response.in_progress", response=answer.of("in_progress"))
        yield self._event("response.output_item.added", output_index=0, item=answer.item("in_progress", []))
        yield self._event("response.content_part.added", **place, part=part(""))
        try:
            async with aclosing(text.pieces(self._call, job_id)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        yield self._event("response.output_text.delta", **place, delta=piece, logprobs=[])
                        continue
                    for event in self._last(piece, place):
                        yield event
        except HttpProblem as problem:
            # Only the job's own end is told so; a stream that breaks off ends with `error`.
            failure = {"code": "server_error", "message": problem.error.message}
            yield self._event("response.failed", response=answer.of("failed", error=failure))
        except AtelierError as error:
            body = error_body(error, http_status(error), self._call.exchange.request_id)["error"]
            yield self._event("error", message=body["message"], code=body["code"], param=body["param"])

    def _last(self, job: job_pb2.Job, place: Mapping[str, Any]) -> list[bytes]:
        ended = self._answer.ended(job)
        (item,) = ended["output"]
        return [
            self._event("response.output_text.done", **place, text=job.reply.text, logprobs=[]),
            self._event("response.content_part.done", **place, part=part(job.reply.text)),
            self._event("response.output_item.done", output_index=0, item=item),
            self._event(f"response.{ended['status']}", response=ended),
        ]

    def _event(self, kind: str, **data: Any) -> bytes:
        self._number += 1
        return frame(kind, dump({"type": kind, "sequence_number": self._number, **data}))


FIELDS = (
    mapped(
        "input",
        "`chat.messages`: a text of the user, or a list of messages; content is text, or parts of the types "
        "`input_text` and `output_text`, which begin on lines of their own",
        "Say how you would draw a heron.",
        Kind.ANY,
        required=True,
    ),
    mapped("instructions", "`chat.messages`: the first message, of the system", "Be brief."),
    *text.COMMON_FIELDS,
    mapped("max_output_tokens", "`chat.max_tokens`", 100, Kind.INTEGER),
    mapped("truncation", "nothing is left out", "disabled", choices=("disabled",)),
    refused("previous_response_id", "cannot be used: send the conversation", "resp_1"),
    refused("conversation", "cannot be used: send the conversation", "conv_1"),
    refused("background", "cannot be chosen: a job goes on without its client anyway", True, harmless=(False,)),
    refused("background_options", "cannot be chosen", {"x": 1}, harmless=({},)),
    refused("include", "cannot be chosen", ["message.output_text.logprobs"], harmless=([],)),
    refused(
        "stream_options", "cannot be chosen", {"include_obfuscation": True}, harmless=({"include_obfuscation": False},)
    ),
    refused(
        "text",
        "cannot be chosen: the model writes freely",
        {"format": {"type": "json_object"}},
        harmless=({}, {"format": {"type": "text"}}),
    ),
    refused("reasoning", "cannot be chosen", {"effort": "high"}, harmless=({},)),
    refused("max_tool_calls", "cannot be used: models are asked for text alone", 3),
    refused("prompt", "is not kept here", {"id": "pmpt_1"}),
    refused("context_management", "cannot be chosen", [{"type": "compaction"}], harmless=([],)),
    refused("access_programs", "cannot be used", ["x"], harmless=([],)),
    refused("image", "is not made here: ask /openai/v1/images", {"size": "auto"}),
)

ENDPOINTS = (
    Endpoint(
        "POST",
        "/openai/v1/responses",
        respond,
        FIELDS,
        note="Responses are not stored: they cannot be retrieved. A client that goes has not cancelled its job.",
    ),
)
