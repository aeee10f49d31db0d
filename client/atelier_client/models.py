"""What the API answers, as frozen dataclasses.

States, kinds and formats are plain text, so that a value that this release does not know passes through. `raw` is the
JSON object as it came, with fields that are not listed here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

T = TypeVar("T")

ENDED_STATES = frozenset({"succeeded", "failed", "cancelled"})


def _raw() -> Any:
    return dataclasses.field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Warning:
    """Something the caller should know although the request was accepted."""

    code: str = ""
    message: str = ""
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job, a stage or an output failed."""

    reason: str = ""
    message: str = ""
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """A picture that a job starts from: an asset, what it is for, and how strongly from 0 to 1 (None: the default)."""

    asset_id: str = ""
    kind: str = ""
    strength: float | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Lora:
    """A small addition to a model's weights, by the name that workers have for it; 1 (None) is its full effect."""

    name: str = ""
    weight: float | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """The effective values of a job: what is done, not what was asked. Sizes in pixels."""

    worker_type: str = ""
    model: str = ""
    format: str = ""
    seed: int = 0
    size: str = ""
    width: int = 0
    height: int = 0
    steps: int = 0
    quantity: int = 0
    quality: str = ""
    aspect_ratio: str = ""
    frames: int = 0
    frame_rate: int = 0
    guidance: float | None = None
    scheduler: str = ""
    loras: tuple[Lora, ...] = ()
    raw: Mapping[str, Any] = _raw()


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
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Output:
    """One declared output of a job."""

    asset_index: int = 0
    asset_id: str = ""
    state: str = ""
    failure: Failure | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What was counted of a conversation, in tokens of the model."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The next message of a conversation; it ends with `stop` or `length`. `usage` is None if nothing was counted."""

    text: str = ""
    finish_reason: str = ""
    usage: TokenUsage | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted request to generate or to enhance."""

    job_id: str = ""
    state: str = ""
    version: int = 0
    prompt: str = ""
    negative_prompt: str = ""
    enhanced_prompt: str = ""
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
    raw: Mapping[str, Any] = _raw()

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
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Media:
    """What the bytes of one file are: type, size in bytes, SHA-256 in hexadecimal, pixels, milliseconds."""

    content_type: str = ""
    size_bytes: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    duration_ms: int = 0
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Rendition:
    """A smaller file that is made from an asset or an item."""

    kind: str = ""
    media: Media = dataclasses.field(default_factory=Media)
    url: str = ""
    url_expires_at: datetime | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class ImportedFrom:
    """What another system said about a file: the seed as it was written, of whatever size, and how it was made."""

    tool: str = ""
    path: str = ""
    seed: str = ""
    sampler: str = ""
    guidance: float | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an asset or item comes from: enough to make it again."""

    job_id: str = ""
    asset_index: int = 0
    prompt: str = ""
    negative_prompt: str = ""
    enhanced_prompt: str = ""
    settings: GenerationSettings = dataclasses.field(default_factory=GenerationSettings)
    seed: int = 0
    reference_images: tuple[ReferenceImage, ...] = ()
    engine: str = ""
    submitted_at: datetime | None = None
    imported: ImportedFrom | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Asset:
    """One thing in a workspace. `url` is signed: fetch it without a key until `url_expires_at`."""

    asset_id: str = ""
    job_id: str = ""
    asset_index: int = 0
    source: str = ""
    state: str = ""
    format: str = ""
    media: Media = dataclasses.field(default_factory=Media)
    provenance: Provenance = dataclasses.field(default_factory=Provenance)
    renditions: tuple[Rendition, ...] = ()
    rendition_state: str = ""
    rendition_error: str = ""
    url: str = ""
    url_expires_at: datetime | None = None
    saved_item_id: str = ""
    filename: str = ""
    created_at: datetime | None = None
    expires_at: datetime | None = None
    version: int = 0
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in a library. `url` is signed: fetch it without a key until `url_expires_at`."""

    item_id: str = ""
    asset_id: str = ""
    format: str = ""
    media: Media = dataclasses.field(default_factory=Media)
    provenance: Provenance = dataclasses.field(default_factory=Provenance)
    renditions: tuple[Rendition, ...] = ()
    url: str = ""
    url_expires_at: datetime | None = None
    created_at: datetime | None = None
    version: int = 0
    trashed_at: datetime | None = None
    title: str = ""
    notes: str = ""
    is_favourite: bool = False
    tags: tuple[str, ...] = ()
    collection_ids: tuple[str, ...] = ()
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Collection:
    """A named heap of items; `size` counts those outside the trash."""

    collection_id: str = ""
    name: str = ""
    size: int = 0
    created_at: datetime | None = None
    version: int = 0
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class ItemCount:
    """How many items have something, such as a tag."""

    name: str = ""
    count: int = 0
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class ItemCounts:
    """How many items there are, and of what; with `is_bound` there are more than were counted."""

    total: int = 0
    is_bound: bool = False
    favourites: int = 0
    formats: tuple[ItemCount, ...] = ()
    models: tuple[ItemCount, ...] = ()
    tags: tuple[ItemCount, ...] = ()
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """What became of one item: nothing to say when it is as it was asked, or why it was not changed."""

    item_id: str = ""
    failure: Failure | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Described:
    """An import that was described: the id that its asset has or will have, and the asset when it is there already."""

    asset_id: str = ""
    asset: Asset | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class SaveResult:
    """What became of one asset: the item that keeps it, or why it was not saved."""

    asset_id: str = ""
    item: Item | None = None
    failure: Failure | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class SweepFinding:
    """One thing that does not fit between a bucket and its rows, why, and what was done about it."""

    kind: str = ""
    bucket: str = ""
    key: str = ""
    generation: str = ""
    size_bytes: int = 0
    created_at: datetime | None = None
    subject: str = ""
    explanation: str = ""
    action: str = ""
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Erased:
    """How far the erasure of an owner is: `left` rows and blobs are still there; repeat until it is done."""

    done: bool = False
    left: int = 0
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Model:
    """One row of the routing table, with the workers that can run it now."""

    name: str = ""
    aliases: tuple[str, ...] = ()
    stage: str = ""
    worker_type: str = ""
    formats: tuple[str, ...] = ()
    max_quantity: int = 0
    base_size: int = 0
    default_steps: int = 0
    deadline_seconds: int = 0
    position: int = 0
    connected_workers: int = 0
    free_slots: int = 0
    hint: str = ""
    default_frame_rate: int = 0
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that a worker keeps in memory: `size_bytes` on `device`."""

    name: str = ""
    device: str = ""
    size_bytes: int = 0
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Worker:
    """One connected worker. `labels` are what its operator wrote on it; `loaded` is what it said of its memory."""

    name: str = ""
    key_id: str = ""
    worker_types: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    slots: int = 0
    leases: int = 0
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    version: str = ""
    loaded: tuple[LoadedModel, ...] = ()
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Key:
    """A key, without its text."""

    key_id: str = ""
    kind: str = ""
    tenant_id: str = ""
    owner_id: str = ""
    name: str = ""
    created_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    worker_types: tuple[str, ...] = ()
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `secret` is its text, which is shown this one time."""

    key: Key = dataclasses.field(default_factory=Key)
    secret: str = dataclasses.field(default="", repr=False)
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class SignInCode:
    """A code with which a browser signs in once."""

    code: str = dataclasses.field(default="", repr=False)
    expires_at: datetime | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """One event of a job that is posted to a webhook, and what became of it: `pending`, `delivered`, `given_up`.

    Attributes:
        delivery_id: also the header `webhook-id`, the same in every repetition.
        last_status: the HTTP status of the last answer, 0 when there was none.
        next_attempt_at: None unless it is pending.
    """

    delivery_id: str = ""
    job_id: str = ""
    event: str = ""
    url: str = ""
    dialect: str = ""
    state: str = ""
    attempts: int = 0
    last_status: int = 0
    last_error: str = ""
    created_at: datetime | None = None
    last_attempt_at: datetime | None = None
    next_attempt_at: datetime | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """What the caller's webhooks are signed with.

    Attributes:
        created_at: when it was made; None in the answer to a rotation.
        previous_ends_at: when the one before ceases to sign, too; None unless it was just rotated.
    """

    secret: str = dataclasses.field(default="", repr=False)
    created_at: datetime | None = None
    previous_ends_at: datetime | None = None
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the caller is."""

    tenant_id: str = ""
    owner_id: str = ""
    kind: str = ""
    scopes: tuple[str, ...] = ()
    raw: Mapping[str, Any] = _raw()


@dataclass(frozen=True, slots=True)
class Health:
    """The gateway's health: `serving`, `degraded` (all but saving works) or `not_serving`; `raw` has each service."""

    status: str = ""
    raw: Mapping[str, Any] = _raw()

    @property
    def serving(self) -> bool:
        """Whether requests are taken."""
        return self.status in ("serving", "degraded")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. `next_page_token` is empty on the last; `empty_state` says why a page of items is empty."""

    entries: tuple[T, ...] = ()
    next_page_token: str = ""
    empty_state: str = ""
    raw: Mapping[str, Any] = _raw()

    def __iter__(self) -> Iterator[T]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


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
