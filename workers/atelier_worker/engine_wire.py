"""Tasks as messages of the engine's pipe, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker.engine import Reference, Task


def task_to_proto(task_id: str, workdir: Path, task: Task) -> pb.RunTask:
    """Return the message that starts a task."""
    return pb.RunTask(
        task_id=task_id,
        workdir=str(workdir),
        stage=task.stage,
        format=task.format or "",
        model=task.model,
        prompt=task.prompt,
        negative_prompt=task.negative_prompt,
        seed=task.seed,
        quantity=task.quantity,
        width=task.width,
        height=task.height,
        steps=task.steps,
        quality=task.quality,
        references=[
            pb.TaskReference(
                kind=reference.kind,
                strength=reference.strength,
                path=str(reference.path),
                content_type=reference.content_type,
            )
            for reference in task.references
        ],
        frames=task.frames,
        fps=task.fps,
        indexes=task.indexes,
        options=task.options,
    )


def task_from_proto(message: pb.RunTask) -> Task:
    """Return the task that a message starts."""
    return Task(
        stage=cast(Literal["generate", "enhance"], message.stage),
        format=cast(Literal["image", "video"], message.format) if message.format else None,
        model=message.model,
        prompt=message.prompt,
        negative_prompt=message.negative_prompt,
        seed=message.seed,
        quantity=message.quantity,
        width=message.width,
        height=message.height,
        steps=message.steps,
        quality=message.quality,
        references=tuple(
            Reference(one.kind, one.strength, Path(one.path), one.content_type) for one in message.references
        ),
        frames=message.frames,
        fps=message.fps,
        indexes=tuple(message.indexes),
        options=dict(message.options),
    )
