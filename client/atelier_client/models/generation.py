"""What a generation is asked for and told with: settings, references, warnings, failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atelier_client.models.base import as_it_came


@dataclass(frozen=True, slots=True)
class Warning:
    """Something the caller should know although the request was accepted."""

    code: str = ""
    message: str = ""
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job, a stage or an output failed."""

    reason: str = ""
    message: str = ""
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """A picture that a job starts from: an asset, what it is for, and how strongly from 0 to 1 (None: the default)."""

    asset_id: str = ""
    kind: str = ""
    strength: float | None = None
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Lora:
    """A small addition to a model's weights, by the name that workers have for it; 1 (None) is its full effect."""

    name: str = ""
    weight: float | None = None
    raw: Mapping[str, Any] = as_it_came()


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
    raw: Mapping[str, Any] = as_it_came()
