"""One answer in a conversation: what was asked for, checked and streamed to the client."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from atelier_worker.engine import Chat, Context, EngineError, Task
from atelier_worker.engines.residency import Residency

from .options import EngineOptions
from .texts import StopTexts
from .writing import Piece, cancelled_by, write

if TYPE_CHECKING:
    from .decoder import Decoder
    from .loading import ChatFiles
    from .sampling import Habits


def run(task: Task, context: Context, files: ChatFiles, residency: Residency[Decoder], options: EngineOptions) -> None:
    """Write the next message of the conversation.

    Raises:
        EngineError: there is no conversation, or it is longer than the model can read.
    """
    from .decoder import Ask

    chat = task.chat
    if chat is None or not chat.messages:
        raise EngineError("There is no conversation to go on with.")
    prompt = files.prompt(chat.messages)
    most = most_tokens(chat.max_tokens, len(prompt), files.context_length, options.max_tokens)
    ask = Ask(prompt, most, _habits(chat, files.habits), task.seed, files.ends, cancelled_by(context))
    stops = StopTexts(chat.stop)
    with closing(write(ask, files, residency, context)) as pieces:
        for piece in pieces:
            text = stops.feed(piece.text)
            if piece.ended and not stops.stopped:
                text += stops.end()
            context.write(text)
            if piece.ended or stops.stopped:
                _finish(context, piece, len(prompt), stopped=stops.stopped)
                return


def most_tokens(asked: int | None, prompt: int, context_length: int, unasked: int) -> int:
    """Return how many tokens an answer may have: `asked`, or at most `unasked` and what the context leaves.

    Raises:
        EngineError: the model cannot read so much.
    """
    if asked is not None and asked < 1:
        raise EngineError(f"max_tokens must be at least 1, got {asked}.")
    left = context_length - prompt
    if left < (asked or 1):
        wanted = "" if asked is None else f" and max_tokens {asked}, {prompt + asked} together"
        raise EngineError(
            f"The conversation has {prompt} tokens{wanted}; this model reads and writes at most {context_length}. "
            "Leave out older messages, or ask for fewer max_tokens."
        )
    return asked or min(unasked, left)


def _habits(chat: Chat, own: Habits) -> Habits:
    """What the request says goes before what the model does by itself."""
    if chat.temperature is not None:
        own = replace(own, temperature=chat.temperature)
    elif chat.top_p is not None and own.temperature == 0:
        # Who says which tokens to choose among wants a choice.
        own = replace(own, temperature=1.0)
    return own if chat.top_p is None else replace(own, top_p=chat.top_p)


def _finish(context: Context, piece: Piece, prompt_tokens: int, *, stopped: bool) -> None:
    if piece.thinking:
        context.warn(f"The model was still thinking after {piece.tokens} tokens, so it answered nothing.")
    reason = "stop" if stopped else piece.ended or "stop"
    context.finish(reason, prompt_tokens=prompt_tokens, completion_tokens=piece.tokens)
