"""Protobuf to domain and back for conversations."""

from __future__ import annotations

from atelier.router.v1 import chat_pb2 as pb
from router_service.chat_domain import Chat, ChatMessage, ChatReply, ChatRole, FinishReason, TokenUsage
from service_kit.errors import ErrorReason, InvalidArgument

_ROLES = {
    ChatRole.SYSTEM: pb.CHAT_ROLE_SYSTEM,
    ChatRole.USER: pb.CHAT_ROLE_USER,
    ChatRole.ASSISTANT: pb.CHAT_ROLE_ASSISTANT,
}
_KNOWN_ROLES = {number: role for role, number in _ROLES.items()}
_FINISH_REASONS = {FinishReason.STOP: pb.FINISH_REASON_STOP, FinishReason.LENGTH: pb.FINISH_REASON_LENGTH}
_KNOWN_FINISH_REASONS = {number: reason for reason, number in _FINISH_REASONS.items()}
_MOST_CHARACTERS = 200_000
_LONGEST_STOP = 500


def chat_from_proto(message: pb.Chat) -> Chat:
    """Return a conversation; the limits that the contract carries are checked before.

    Raises:
        InvalidArgument: nobody says a message, all of them together are too long, or a stop text cannot be one.
    """
    characters = sum(len(one.content) for one in message.messages)
    if characters > _MOST_CHARACTERS:
        problem = f"must together have at most {_MOST_CHARACTERS} characters, got {characters}"
        raise InvalidArgument.field("chat.messages", problem, ErrorReason.OUT_OF_RANGE)
    for index, text in enumerate(message.stop):
        if not 1 <= len(text) <= _LONGEST_STOP or "\0" in text:
            problem = f"must have 1..{_LONGEST_STOP} characters, none of them U+0000, got {len(text)}"
            raise InvalidArgument.field(f"chat.stop[{index}]", problem, ErrorReason.OUT_OF_RANGE)
    return Chat(
        messages=tuple(_message_from_proto(one, index) for index, one in enumerate(message.messages)),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        temperature=message.temperature if message.HasField("temperature") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        stop=tuple(message.stop),
    )


def _message_from_proto(message: pb.ChatMessage, index: int) -> ChatMessage:
    role = _KNOWN_ROLES.get(message.role)
    if role is None:
        raise InvalidArgument.field(
            f"chat.messages[{index}].role", f"has no value with the number {message.role}: send system, user, assistant"
        )
    return ChatMessage(role, message.content)


def chat_to_proto(chat: Chat) -> pb.Chat:
    """Return a conversation as workers are given it."""
    return pb.Chat(
        messages=[pb.ChatMessage(role=_ROLES[one.role], content=one.content) for one in chat.messages],
        max_tokens=chat.max_tokens,
        temperature=chat.temperature,
        top_p=chat.top_p,
        stop=chat.stop,
    )


def reply_to_proto(reply: ChatReply) -> pb.ChatReply:
    """Return what a model said."""
    usage = None
    if reply.usage is not None:
        counted = reply.usage
        usage = pb.TokenUsage(prompt_tokens=counted.prompt_tokens, completion_tokens=counted.completion_tokens)
    reason = pb.FINISH_REASON_UNSPECIFIED if reply.finish_reason is None else _FINISH_REASONS[reply.finish_reason]
    return pb.ChatReply(text=reply.text, finish_reason=reason, usage=usage)


def finish_reason_from_proto(number: int) -> FinishReason | None:
    """Return why a reply ends, as a worker says it; None for a reason that nobody knows."""
    return _KNOWN_FINISH_REASONS.get(pb.FinishReason.ValueType(number))


def usage_from_proto(message: pb.TokenUsage) -> TokenUsage:
    """Return what a worker has counted."""
    return TokenUsage(max(message.prompt_tokens, 0), max(message.completion_tokens, 0))
