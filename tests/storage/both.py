"""What the tests of storages share."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

from router_service.domain import Job, Output, Stage, StageKind, StageState
from router_service.generation_domain import Format, GenerationSettings, Quality
from service_kit.identity import Owner


def snapshot(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, not those of what it holds."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def job(job_id: str, at: datetime, **changes: Any) -> Job:
    """Return a job of two images that was accepted at a moment, and waits for `sdxl`."""
    stages = (Stage(StageKind.GENERATE, "sdxl", StageState.QUEUED),)
    made = Job(
        job_id=job_id,
        owner=Owner("t", "ann"),
        prompt="a café at night",
        negative_prompt="",
        settings=GenerationSettings(
            *("sdxl", "sdxl-base", Format.IMAGE, 2**53 - 1, 640, 480, 12, 2, Quality.STANDARD, "4:3", 0, 0)
        ),
        enhancement_only=False,
        warn_on_enhancement_failure=False,
        references=(),
        priority=0,
        created_at=at,
        deadline_at=at + timedelta(minutes=15),
        stages=stages,
        outputs=(Output(0), Output(1)),
    )
    return dataclasses.replace(made, **changes)
