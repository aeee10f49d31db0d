"""What a job is to make: its effective values, and the pictures that it starts from. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Format(StrEnum):
    """What kind of file a job makes."""

    IMAGE = "image"
    VIDEO = "video"


class Quality(StrEnum):
    """How much work goes into an output."""

    DRAFT = "draft"
    STANDARD = "standard"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Reference:
    """A picture that a job starts from, and where its bytes lay when the hold was taken."""

    asset_id: str
    kind: str
    strength: float
    bucket: str = ""
    key: str = ""
    generation: str = ""
    content_type: str = ""
    size_bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Lora:
    """A small addition to the weights of a model, by the name that workers have for it; 1.0 is its full effect."""

    name: str
    weight: float


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """The effective values of a job. Sizes in pixels; `frames` and `frame_rate` are 0 for pictures.

    `aspect_ratio` is empty when the client said width and height. Without `guidance`, `scheduler` and `loras` the model
    has its own.
    """

    worker_type: str
    model: str
    format: Format | None
    seed: int
    width: int
    height: int
    steps: int
    quantity: int
    quality: Quality
    aspect_ratio: str
    frames: int
    frame_rate: int
    guidance: float | None = None
    scheduler: str = ""
    loras: tuple[Lora, ...] = ()
