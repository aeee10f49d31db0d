"""A text of a model as it is made: characters from tokens, without what the model thinks. Its weights are held."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from atelier_worker.engine import Cancelled, Context
from atelier_worker.engines.residency import Residency

from .texts import Detokenizer, Thinking

if TYPE_CHECKING:
    from collections.abc import Callable

    from .decoder import Ask, Decoder
    from .loading import ChatFiles


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token added to the text (often nothing), after `tokens` tokens; `ended` tells why it was the last."""

    text: str
    tokens: int
    thinking: bool = False
    ended: Literal["stop", "length"] | None = None


def write(ask: Ask, files: ChatFiles, residency: Residency[Decoder], context: Context) -> Generator[Piece]:
    """Yield the text piece by piece, the last piece with why it ended. A caller that stops early closes this.

    Raises:
        Cancelled: the job was cancelled; no token is made after the one in the making.
        EngineError: no room for the model or the conversation, or the model failed.
    """
    characters = Detokenizer(files.decode)
    thinking = Thinking(begun=files.begins_thinking(ask.prompt))
    working_bytes = files.shape.bytes_of(len(ask.prompt) + ask.most) + files.working_bytes
    made = 0
    with (
        residency.use(files.name, context, working_bytes=working_bytes) as decoder,
        closing(decoder.tokens(ask)) as events,
    ):
        for event in events:
            context.check_cancelled()
            if isinstance(event, str):
                text = thinking.feed(characters.end()) + thinking.end()
                yield Piece(text, made, thinking.inside, event)
                return
            made += 1
            text = thinking.feed(characters.feed(event))
            yield Piece(text, made, thinking.inside)


def cancelled_by(context: Context) -> Callable[[], bool]:
    """Return how to ask a context whether its job was cancelled."""

    def cancelled() -> bool:
        try:
            context.check_cancelled()
        except Cancelled:
            return True
        return False

    return cancelled
