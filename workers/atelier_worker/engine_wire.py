"""Tasks as messages of the engine's pipe, both ways."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal, cast

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier.router.v1 import chat_pb2
from atelier.type.v1 import generation_pb2
from atelier_worker.engine import Chat, EnhancedBy, Lora, Message, Reference, Task

_ROLES = {
    "system": chat_pb2.CHAT_ROLE_SYSTEM,
    "user": chat_pb2.CHAT_ROLE_USER,
    "assistant": chat_pb2.CHAT_ROLE_ASSISTANT,
}
_ROLE_NAMES = {number: name for name, number in _ROLES.items()}


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
        chat=None if task.chat is None else _chat_to_proto(task.chat),
        guidance=task.guidance,
        scheduler=task.scheduler,
        loras=[pb.TaskLora(name=lora.name, weight=lora.weight) for lora in task.loras],
        stage_key=task.stage_key,
        enhanced_by=None if task.enhanced_by is None else generation_pb2.EnhancedBy(**asdict(task.enhanced_by)),
    )


def task_from_proto(message: pb.RunTask) -> Task:
    """Return the task that a message starts."""
    return Task(
        stage=cast(Literal["generate", "enhance", "chat"], message.stage),
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
        chat=chat_from_proto(message.chat) if message.HasField("chat") else None,
        guidance=message.guidance if message.HasField("guidance") else None,
        scheduler=message.scheduler,
        loras=tuple(Lora(lora.name, lora.weight) for lora in message.loras),
        stage_key=message.stage_key,
        enhanced_by=enhanced_by_from_proto(message.enhanced_by) if message.HasField("enhanced_by") else None,
    )


def enhanced_by_from_proto(message: generation_pb2.EnhancedBy) -> EnhancedBy:
    """Return what wrote a prompt."""
    return EnhancedBy(message.engine, message.model, message.template, message.template_version)


def chat_from_proto(message: chat_pb2.Chat) -> Chat:
    """Return a conversation. Whoever speaks in a role that is not known here is taken for the user."""
    return Chat(
        messages=tuple(Message(_ROLE_NAMES.get(one.role, "user"), one.content) for one in message.messages),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        temperature=message.temperature if message.HasField("temperature") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        stop=tuple(message.stop),
    )


def _chat_to_proto(chat: Chat) -> chat_pb2.Chat:
    return chat_pb2.Chat(
        messages=[chat_pb2.ChatMessage(role=_ROLES[one.role], content=one.content) for one in chat.messages],
        max_tokens=chat.max_tokens,
        temperature=chat.temperature,
        top_p=chat.top_p,
        stop=chat.stop,
    )
