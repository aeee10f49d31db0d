"""A richer prompt from an upstream: asked with the templates for models of this machine, and cleaned like theirs."""

from __future__ import annotations

from collections.abc import Callable

from atelier_worker.engine import Chat, EngineError, Message, Task
from atelier_worker.engines.transformers_engine.budget import Budget
from atelier_worker.engines.transformers_engine.cleaning import Cleaner
from atelier_worker.engines.transformers_engine.templates import Template, template_for
from atelier_worker.engines.transformers_engine.texts import Thinking

from .chat import Enough

# What a model may write beside the prompt: a preface, and thoughts that the server does not keep apart.
_ASIDE_TOKENS = 2048


def ask_for(task: Task) -> tuple[Template, Chat]:
    """The template for the model that a prompt is meant for, and the conversation that it makes of the prompt.

    Raises:
        EngineError: the prompt is blank.
    """
    if not task.prompt.strip():
        raise EngineError("The prompt is blank: write at least one word to enhance.")
    template = template_for(task.model)
    messages = (Message("system", template.system), Message("user", task.prompt))
    most = template.budget * 2 + _ASIDE_TOKENS
    return template, Chat(messages, most, template.temperature, template.top_p)


class Prompt:
    """One prompt as it comes in: without thoughts, preface and quotation marks, and within its budget."""

    def __init__(self, template: Template, write: Callable[[str], None]) -> None:
        """Pass on through `write` what surely belongs to the prompt."""
        self._thinking, self._cleaner, self._budget = Thinking(), Cleaner(), Budget(template.budget)
        self._write = write
        self.wrote = False

    @property
    def cut(self) -> bool:
        """Whether something was left out at its end."""
        return self._budget.cut

    def take(self, piece: str) -> bool:
        """Take a piece of the upstream's text; tell whether anything was ever passed on.

        Raises:
            Enough: the prompt is over, whatever else the upstream would say.
        """
        self._pass_on(self._budget.feed(self._cleaner.feed(self._thinking.feed(piece))))
        if self._cleaner.ended or self._budget.cut:
            raise Enough
        return self.wrote

    def end(self, *, complete: bool) -> None:
        """Pass on what was held back. `complete` is False when the upstream broke the text off."""
        if not self._cleaner.ended:
            self._pass_on(self._budget.feed(self._cleaner.feed(self._thinking.end()) + self._cleaner.end()))
        self._pass_on(self._budget.end(complete=complete))

    def _pass_on(self, text: str) -> None:
        self.wrote = self.wrote or bool(text.strip())
        if text and self.wrote:
            self._write(text)
