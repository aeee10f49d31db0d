"""A conversation, what is said next in it, and how such stages are kept from workers that do not know them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LONGEST_REPLY = 100_000
"""Characters that a reply may have: as many as a message, so that it can be sent back with the next question."""

# Stages of a conversation wait in a pool of their own beside that of their worker type. A router of a release that has
# none looks only into the other one, and a worker that does not know such stages is never asked.
_POOL = "/chat"


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


def chat_pool(worker_type: str) -> str:
    """Return the pool in which stages of conversations wait for a worker type."""
    return worker_type + _POOL


def worker_type_of(pool: str) -> tuple[str, bool]:
    """Return the worker type of a pool, and whether it is its pool of conversations."""
    return pool.removesuffix(_POOL), pool.endswith(_POOL)
