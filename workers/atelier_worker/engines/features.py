"""What a task may ask of a pipeline, and how a pipeline says which of it it can do.

Every engine has a table `FEATURES`: the name of a pipeline → its row. Tasks are refused by the row, and the documents
show it, so that both say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal

from atelier_worker.engine import EngineError, Task

Support = Literal[True] | str
"""True, or the sentence that a task is refused with."""

Row = Mapping[str, Support]
"""Every name of `NAMES` → whether one pipeline can do it."""

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "text_to_image": "text to image",
        "init": "reference `init`",
        "mask": "reference `mask`",
        "style": "reference `style`",
        "composition": "reference `composition`",
        "text_to_video": "text to video",
        "first_frame": "reference `first_frame`",
        "first_and_last_frame": "references `first_frame` and `last_frame`",
        "last_frame": "reference `last_frame` alone",
        "negative_prompt": "negative prompt",
        "guidance": "guidance",
        "scheduler": "scheduler",
        "loras": "LoRA",
        "enhance": "enhancement",
        "chat": "chat",
        "stop": "`stop`",
        "max_tokens": "`max_tokens`",
        "temperature": "`temperature`",
        "top_p": "`top_p`",
    }
)
"""Every feature, and how it reads in the documents."""

OF_TEXTS = ("enhance", "chat", "stop", "max_tokens", "temperature", "top_p")
"""The features of stages that write text."""

NO_TEXTS = MappingProxyType(
    dict.fromkeys(OF_TEXTS, "This engine makes pictures and videos, and no texts: choose another model.")
)
"""What an engine answers to these that makes pictures and videos alone."""


def row(can: Iterable[str], otherwise: str, refused: Mapping[str, str] = MappingProxyType({})) -> Row:
    """A row: `can` are supported; the others are refused with their own sentence, or with `otherwise`.

    Raises:
        ValueError: a name is not in `NAMES`, or is both supported and refused.
    """
    supported = frozenset(can)
    if wrong := (supported | refused.keys()) - NAMES.keys() | (supported & refused.keys()):
        raise ValueError(f"a row names each feature once, of {', '.join(NAMES)}; got {', '.join(sorted(wrong))}")
    return MappingProxyType({name: True if name in supported else refused.get(name, otherwise) for name in NAMES})


def asked(task: Task) -> Iterator[str]:
    """The features that a task asks for. A reference with a strength of 0 asks for nothing."""
    if task.stage == "generate":
        yield from _made_from(task)
        yield from (name for name in ("negative_prompt", "scheduler", "loras") if getattr(task, name))
        if task.guidance is not None:
            yield "guidance"
    else:
        yield task.stage
    if task.chat is not None:
        yield from (
            name
            for name in ("stop", "max_tokens", "temperature", "top_p")
            if getattr(task.chat, name) not in (None, ())
        )


def _made_from(task: Task) -> Iterator[str]:
    kinds = {reference.kind for reference in task.references if reference.strength > 0}
    ends = kinds & {"first_frame", "last_frame"}
    yield from sorted(kinds - ends)
    if len(ends) == 2:
        yield "first_and_last_frame"
    elif ends:
        yield from ends
    elif task.format == "video":
        yield "text_to_video"
    elif "init" not in kinds:
        yield "text_to_image"


def no_model(model: str, known: Iterable[str] = ()) -> EngineError:
    """What a task is answered whose model this worker does not have.

    It is retryable in every engine: the router leases by the models that workers tell it, so the task came here by an
    old or a wrong word, and another worker of the pool may well have the model.
    """
    listed = ", ".join(sorted(known))
    return EngineError(f"This worker has no model {model!r}{f'; it has {listed}' if listed else ''}.", retryable=True)


def refuse(able: Row, task: Task) -> None:
    """Refuse a task that asks for what a pipeline cannot do.

    Raises:
        EngineError: the sentence of the first feature that the row refuses.
    """
    for name in asked(task):
        answer = able.get(name, f"This worker does not know the reference kind {name}.")
        if answer is not True:
            raise EngineError(answer)


def need_steps(task: Task) -> None:
    """Refuse a task without steps; for what takes noise away step by step. Requests have at least one.

    Raises:
        EngineError: it has none, as where a model was registered with default_steps of 0.
    """
    if task.steps < 1:
        raise EngineError(f"steps must be at least 1, got {task.steps}; set the default_steps of the model.")
