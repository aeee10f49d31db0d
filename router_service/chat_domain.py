"""A conversation, and what is said next in it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LONGEST_REPLY = 100_000
"""Characters that a reply may have: as many as a message, so that it can be sent back with the next question."""


class ChatRole(StrEnum):
    """Who says a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class FinishReason(StrEnum):
    """Why a reply ends."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message."""

    role: ChatRole
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, oldest message first, and how to go on with it. None: what the model does by itself."""

    messages: tuple[ChatMessage, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What was counted, in tokens of the model."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What the model said, why it ended, and what was counted, if the engine said so."""

    text: str
    finish_reason: FinishReason | None = None
    usage: TokenUsage | None = None
