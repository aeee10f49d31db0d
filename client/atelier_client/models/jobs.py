"""Jobs: how far they are, what they answer, and where they tell of their end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from atelier_client.models.assets import Asset, EnhancedBy
from atelier_client.models.base import as_it_came
from atelier_client.models.generation import Failure, GenerationSettings, ReferenceImage, Warning

ENDED_STATES = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where to tell of a job: `url`; of what, `started`, `output` or `completed` (none: only of its end); the body.

    `dialect` is `native` (the job, as it is read; so is ""), `openai`, `fal` or `replicate`.
    """

    url: str = ""
    events: tuple[str, ...] = ()
    dialect: str = ""
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a job that runs in one pool; `waits_for` says why it waits and what to start."""

    kind: str = ""
    worker_type: str = ""
    state: str = ""
    attempt: int = 0
    waits_for: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Output:
    """One declared output of a job."""

    asset_index: int = 0
    asset_id: str = ""
    state: str = ""
    failure: Failure | None = None
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What was counted of a conversation, in tokens of the model."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The next message of a conversation; it ends with `stop` or `length`. `usage` is None if nothing was counted."""

    text: str = ""
    finish_reason: str = ""
    usage: TokenUsage | None = None
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted request to generate or to enhance."""

    job_id: str = ""
    state: str = ""
    version: int = 0
    prompt: str = ""
    negative_prompt: str = ""
    enhanced_prompt: str = ""
    enhanced_by: EnhancedBy | None = None
    reply: ChatReply | None = None
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    generation_settings: GenerationSettings = dataclasses.field(default_factory=GenerationSettings)
    enhancement_only: bool = False
    stages: tuple[Stage, ...] = ()
    outputs: tuple[Output, ...] = ()
    requested: int = 0
    delivered: int = 0
    warnings: tuple[Warning, ...] = ()
    failure: Failure | None = None
    reference_images: tuple[ReferenceImage, ...] = ()
    priority: int = 0
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline_at: datetime | None = None
    raw: Mapping[str, Any] = as_it_came()

    @property
    def ended(self) -> bool:
        """Whether the job is in a final state."""
        return self.state in ENDED_STATES

    @property
    def waits_for(self) -> str:
        """Why the job waits and what to start; empty when it does not wait."""
        return next((stage.waits_for for stage in self.stages if stage.waits_for), "")


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted job with its effective values and the ids that its assets will have."""

    job_id: str = ""
    state: str = ""
    generation_settings: GenerationSettings = dataclasses.field(default_factory=GenerationSettings)
    asset_ids: tuple[str, ...] = ()
    warnings: tuple[Warning, ...] = ()
    created_at: datetime | None = None
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Generated:
    """A job that succeeded, with its assets by index."""

    job: Job
    assets: tuple[Asset, ...]


@dataclass(frozen=True, slots=True)
class Enhancement:
    """A job that wrote a richer prompt, with the text."""

    job: Job
    text: str
