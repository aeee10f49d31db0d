"""Assets of the workspace, what they are made of, and what is done with many of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from atelier_client.models.base import as_it_came
from atelier_client.models.generation import GenerationSettings, ReferenceImage


@dataclass(frozen=True, slots=True)
class Media:
    """What the bytes of one file are: type, size in bytes, SHA-256 in hexadecimal, pixels, milliseconds."""

    content_type: str = ""
    size_bytes: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    duration_ms: int = 0
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Rendition:
    """A smaller file that is made from an asset or an item."""

    kind: str = ""
    media: Media = dataclasses.field(default_factory=Media)
    url: str = ""
    url_expires_at: datetime | None = None
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class ImportedFrom:
    """What another system said about a file: the seed as it was written, of whatever size, and how it was made."""

    tool: str = ""
    path: str = ""
    seed: str = ""
    sampler: str = ""
    guidance: float | None = None
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class EnhancedBy:
    """What rewrote a prompt: the engine, its model, and the template that it was told by. Any may be empty."""

    engine: str = ""
    model: str = ""
    template: str = ""
    template_version: str = ""
    raw: Mapping[str, Any] = as_it_came()

    def __str__(self) -> str:
        """Return it in a few words, such as `transformers, chat, enhance/sdxl v1`."""
        template = f"{self.template} {self.template_version}".strip()
        return ", ".join(part for part in (self.engine, self.model, template) if part)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an asset or item comes from: enough to make it again."""

    job_id: str = ""
    asset_index: int = 0
    prompt: str = ""
    negative_prompt: str = ""
    enhanced_prompt: str = ""
    enhanced_by: EnhancedBy | None = None
    settings: GenerationSettings = dataclasses.field(default_factory=GenerationSettings)
    seed: int = 0
    reference_images: tuple[ReferenceImage, ...] = ()
    engine: str = ""
    submitted_at: datetime | None = None
    imported: ImportedFrom | None = None
    enhance_prompt: bool = False
    warn_on_enhancement_failure: bool = False
    raw: Mapping[str, Any] = as_it_came()


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
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Described:
    """An import that was described: the id that its asset has or will have, and the asset when it is there already."""

    asset_id: str = ""
    asset: Asset | None = None
    raw: Mapping[str, Any] = as_it_came()


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
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Erased:
    """How far the erasure of an owner is: `left` rows and blobs are still there; repeat until it is done."""

    done: bool = False
    left: int = 0
    raw: Mapping[str, Any] = as_it_came()
