"""What both of OpenAI's APIs for text share: conversations out of their messages, and replies as they are written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from atelier.router.v1 import chat_pb2, job_pb2, router_service_pb2
from gateway.dialects.call import Call
from gateway.dialects.failures import problem_of
from gateway.dialects.fields import Field, Kind, Values, mapped, noted, refused, renamed
from gateway.dialects.jobs import has_ended, job_of
from service_kit.errors import AtelierError, ErrorReason, FieldProblem, Internal, InvalidArgument
from service_kit.events.watching import NEWS

METADATA = "metadata."
"""How the annotations begin that are the client's `metadata`."""

_ROLES = {
    "system": chat_pb2.CHAT_ROLE_SYSTEM,
    "developer": chat_pb2.CHAT_ROLE_SYSTEM,
    "user": chat_pb2.CHAT_ROLE_USER,
    "assistant": chat_pb2.CHAT_ROLE_ASSISTANT,
}
_TEXT_PARTS = ("text", "input_text", "output_text")
# What replies carry and clients send back with them.
_KEPT = frozenset({"role", "content", "id", "status", "type"})
_NO_TOOLS = "cannot be used: models are asked for text alone"

COMMON_FIELDS: tuple[Field, ...] = (
    mapped("model", "`model`: a name of the routing table, of the stage `chat`", "chat", required=True),
    mapped("temperature", "`chat.temperature`", 0.5, Kind.NUMBER),
    mapped("top_p", "`chat.top_p`", 0.9, Kind.NUMBER),
    mapped("stream", "server-sent events", False, Kind.BOOLEAN),
    mapped("metadata", "annotations of the job, each named `metadata.` and its name", {"run": "7"}, Kind.OBJECT),
    noted("user", "u-1"),
    noted("safety_identifier", "u-1"),
    noted("prompt_cache_key", "k-1"),
    noted("service_tier", "auto", choices=("auto", "default")),
    refused("tools", _NO_TOOLS, [{"type": "function", "function": {"name": "f"}}], harmless=([],)),
    refused("tool_choice", _NO_TOOLS, "required", harmless=("auto", "none")),
    refused("parallel_tool_calls", _NO_TOOLS, 1.5, harmless=(True, False)),
    refused("top_logprobs", "are not known", 3, harmless=(0,)),
    refused("store", "cannot be chosen: a job is kept for its time, and is found by /v1/jobs", True, harmless=(False,)),
    refused("prompt_cache_options", "cannot be chosen", {"mode": "x"}, harmless=({},)),
    refused("prompt_cache_retention", "cannot be chosen", "24h"),
    refused("moderation", "cannot be chosen", {"model": "x"}),
)
"""What both take."""


def message(given: Mapping[str, Any], path: str) -> chat_pb2.ChatMessage:
    """Return one message. Raises InvalidArgument, which names what of it is not text, at its path."""
    for name, value in given.items():
        if name not in _KEPT and value not in (None, [], {}):
            raise InvalidArgument.field(f"{path}.{name}", "is not read here: leave it out", ErrorReason.UNKNOWN_FIELD)
    role = given.get("role")
    if role not in _ROLES:
        known = ", ".join(_ROLES)
        raise InvalidArgument.field(f"{path}.role", f"must be one of {known}; got {str(role)[:60]!r}")
    return chat_pb2.ChatMessage(role=_ROLES[role], content=_content(given.get("content"), f"{path}.content"))


def _content(given: Any, path: str) -> str:
    """Return the text of a message; parts of it begin on lines of their own."""
    if given is None:
        return ""
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise InvalidArgument.field(path, "must be a text, or a list of parts", ErrorReason.MALFORMED_REQUEST)
    return "\n".join(_part(part, f"{path}[{index}]") for index, part in enumerate(given))


def _part(given: Any, path: str) -> str:
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind not in _TEXT_PARTS:
        raise InvalidArgument.field(f"{path}.type", f"must be text: a part of the type {str(kind)[:60]!r} is not read")
    text = given.get("text")
    if not isinstance(text, str):
        raise InvalidArgument.field(f"{path}.text", "must be a text", ErrorReason.MALFORMED_REQUEST)
    return text


async def submit(
    call: Call, values: Values, messages: Sequence[chat_pb2.ChatMessage], names: Mapping[str, str], **options: Any
) -> router_service_pb2.GenerateContentResponse:
    """Submit a conversation; what is refused is blamed on OpenAI's own fields.

    Args:
        call: the request.
        values: what it says.
        messages: the conversation.
        names: what members of `Chat` are called there.
        options: other members of `Chat`, None for absent ones.
    """
    chat = chat_pb2.Chat(messages=messages, temperature=values.get("temperature"), top_p=values.get("top_p"), **options)
    request = router_service_pb2.GenerateContentRequest(model=values.text("model"), chat=chat)
    request.cannot_restart = bool(values.get("stream"))
    if "seed" in values:
        request.seed = values.get("seed")
    try:
        return await call.submit(request, {**values.notes, **_metadata(values)})
    except AtelierError as error:
        raise renamed(_without_chat(error), names) from error


def _metadata(values: Values) -> dict[str, str]:
    found = {}
    for name, text in values.get("metadata", {}).items():
        if not isinstance(text, str):
            raise InvalidArgument.field(f"metadata.{name}"[:300], "must be a text", ErrorReason.MALFORMED_REQUEST)
        found[f"{METADATA}{name}"] = text
    return found


def _without_chat(error: AtelierError) -> AtelierError:
    fields = [FieldProblem(problem.field.removeprefix("chat."), problem.message) for problem in error.fields]
    return type(error)(error.message.removeprefix("chat."), error.reason, fields=fields, retry_after=error.retry_after)


async def pieces(call: Call, job_id: str) -> AsyncGenerator[str | job_pb2.Job, None]:
    """Give the reply of a job piece by piece as it is written, and at last the job, when it has succeeded.

    Raises:
        HttpProblem: it has failed, or was cancelled.
        Internal: what was written is not how the reply begins.
    """
    told = ""
    async with aclosing(call.jobs.watch(job_id, NEWS)) as events:
        async for event in events:
            if event.HasField("text_delta") and event.text_delta.offset <= len(told):
                piece = event.text_delta.text[len(told) - event.text_delta.offset :]
                if piece:
                    told += piece
                    yield piece
            job = job_of(event)
            if job is None or not has_ended(job):
                continue
            if job.state != job_pb2.JOB_STATE_SUCCEEDED:
                raise problem_of(job)
            if not job.reply.text.startswith(told):
                raise Internal("The reply was written anew after a part of it was sent.")
            if len(told) < len(job.reply.text):
                yield job.reply.text[len(told) :]
            yield job
            return


def is_cut(reply: chat_pb2.ChatReply) -> bool:
    """Tell whether a reply ends because it may be no longer."""
    return reply.finish_reason == chat_pb2.FINISH_REASON_LENGTH
