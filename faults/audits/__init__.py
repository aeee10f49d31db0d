"""The audits: each reads the evidence of a run and returns what is wrong, as findings with a name and a sentence."""

from __future__ import annotations

from collections.abc import Callable

from faults.audits import answers, assets, blobs, items, jobs, leftovers, sights
from faults.evidence import Evidence
from faults.finding import Finding

AUDITS: tuple[Callable[[Evidence], list[Finding]], ...] = (
    jobs.ended_once,
    jobs.as_planned,
    jobs.went_forward,
    assets.none_missing_none_twice,
    assets.nothing_staged_visible,
    assets.there_before_success,
    blobs.bytes_are_right,
    blobs.none_unknown,
    sights.every_change_once_in_order,
    sights.assets_told_once,
    leftovers.all_empty,
    answers.as_promised,
    items.saved_once,
)
