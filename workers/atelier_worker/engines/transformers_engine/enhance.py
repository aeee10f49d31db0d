"""A richer prompt: the template for the model that it is meant for, what is written, and what of it is kept."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from atelier_worker.engine import Context, EngineError, Message, Task
from atelier_worker.engines.residency import Residency

from .budget import Budget
from .chat import most_tokens
from .cleaning import Cleaner
from .options import EngineOptions
from .templates import Template, template_for
from .writing import cancelled_by, write

if TYPE_CHECKING:
    from .decoder import Ask, Decoder
    from .loading import ChatFiles

# What a model may write beside the prompt: a preface, and thoughts.
_ASIDE_TOKENS = 64
_THINKING_TOKENS = 2048


def run(task: Task, context: Context, files: ChatFiles, residency: Residency[Decoder], options: EngineOptions) -> None:
    """Write the prompt, richer, as the models of its family read it best.

    Raises:
        EngineError: the prompt is blank or too long, or the model wrote nothing.
    """
    if not task.prompt.strip():
        raise EngineError("The prompt is blank: write at least one word to enhance.")
    template = template_for(task.model)
    context.log(f"{template.name}, written by {files.name}")
    ask = _ask(task, context, files, template)
    cleaner, budget = Cleaner(), Budget(template.budget)
    written = broken_off = False
    with closing(write(ask, files, residency, context)) as pieces:
        for piece in pieces:
            text = budget.feed(cleaner.feed(piece.text))
            over = piece.ended is not None or cleaner.ended or budget.cut
            if over:
                broken_off = piece.ended == "length" and not cleaner.ended
                text += budget.feed(cleaner.end())
                text += budget.end(complete=not broken_off)
            written = written or bool(text.strip())
            context.write(text if written else "")
            if over:
                break
            context.progress(piece.tokens, ask.most, phase="thinking" if piece.thinking else "writing")
    if not written:
        raise EngineError(f"The model {files.name} wrote no prompt; try again.", retryable=True)
    if budget.cut:
        context.warn(_cut_warning(template, task.model, ask.most if broken_off else None))
    reason: Literal["stop", "length"] = "length" if budget.cut else "stop"
    context.finish(reason, model=files.name, template=template.title, template_version=template.version)


def _ask(task: Task, context: Context, files: ChatFiles, template: Template) -> Ask:
    from .decoder import Ask

    prompt = _prompt(files, template.system, task.prompt)
    most = template.budget * 2 + _ASIDE_TOKENS + (_THINKING_TOKENS if files.thinks else 0)
    if len(prompt) >= files.context_length:
        raise EngineError(
            f"The prompt has {len(prompt)} tokens together with {template.name}; the model that enhances it reads at "
            f"most {files.context_length}. Shorten it."
        )
    left = most_tokens(None, len(prompt), files.context_length, most)
    habits = replace(files.habits, temperature=template.temperature, top_p=template.top_p)
    return Ask(prompt, left, habits, task.seed, files.ends, cancelled_by(context))


def _prompt(files: ChatFiles, system: str, prompt: str) -> list[int]:
    try:
        return files.prompt([Message("system", system), Message("user", prompt)])
    except EngineError:
        # Some chat templates know no system: then the user says it.
        return files.prompt([Message("user", f"{system}\n\nThe prompt to rewrite:\n{prompt}")])


def _cut_warning(template: Template, model: str, tokens: int | None) -> str:
    if tokens is not None:
        return f"The enhanced prompt was cut where the language model had written {tokens} tokens, the most for it."
    meant_for = f"a prompt for {model}" if model else "a prompt"
    return f"The enhanced prompt was cut: {template.name} keeps {meant_for} within {template.budget} tokens."
