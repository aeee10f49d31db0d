"""Talking about pictures: the next message says how the sketch engine would draw what the last one of the user names.

It understands no more than the words that it draws by, and says so. A token is a word with the space before it.
"""

from __future__ import annotations

from atelier_worker.engine import Chat, Context, EngineError, Task

from .enhance import enhanced, tokens_of
from .language import is_english
from .pace import pause
from .reading import read

_STEPS = 12
_LONGEST_QUOTE = 200
_GREETING = "I am the sketch engine: I draw from a word list, and know nothing else. "
_NOTHING = _GREETING + "Name something to draw, and I will say how I would begin."
_NOT_ENGLISH = _GREETING + "I can only talk in English; drawing I can from the words that I know."


def run(task: Task, context: Context, step_delay: float) -> None:
    """Write the next message word by word, and say why it ends and how many words were read and written.

    Raises:
        EngineError: there is no conversation.
    """
    if task.chat is None:
        raise EngineError("There is no conversation to go on with.")
    chat = task.chat
    text = _before_stop(reply(chat, task.seed), chat.stop)
    tokens = list(tokens_of(text))
    most = len(tokens) if chat.max_tokens is None else chat.max_tokens
    written = tokens[:most]
    for token in written:
        context.write(token)
        pause(step_delay * _STEPS / len(tokens), context)
    context.finish(
        "length" if len(written) < len(tokens) else "stop",
        prompt_tokens=sum(len(message.content.split()) for message in chat.messages),
        completion_tokens=len(written),
    )


def reply(chat: Chat, seed: int) -> str:
    """What is said next. The same conversation and seed give the same text."""
    asked = next((one.content.strip() for one in reversed(chat.messages) if one.role == "user"), "")
    if not asked:
        return _NOTHING
    if not is_english(asked):
        return _NOT_ENGLISH
    quote = asked if len(asked) <= _LONGEST_QUOTE else asked[:_LONGEST_QUOTE].rsplit(" ", 1)[0] + " …"
    seen = read(asked)
    # What the enhancement adds to the prompt, without the prompt.
    added = enhanced(quote, seed)[len(quote) :].lstrip(" ,.;:")
    return (
        f"I would draw “{quote}” in {seen.medium}, {_scene(seen.scene)}. To begin with: {added} "
        "Send it as a prompt to a model that makes images, and I will."
    )


def _scene(scene: str) -> str:
    return "in shapes alone, for I know no scene by these words" if scene == "abstract" else f"as I draw a {scene}"


def _before_stop(text: str, stop: tuple[str, ...]) -> str:
    return text[: min((place for one in stop if (place := text.find(one)) >= 0), default=len(text))]
