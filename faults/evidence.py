"""What a run leaves behind for the auditor: all of it plain values that are kept as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission that was answered with a job id."""

    number: int
    owner: str
    key: str
    job_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Sight:
    """A watcher saw a job: `how` is `snapshot` or `state`. Times are seconds since 1970."""

    watcher: str
    owner: str
    job_id: str
    version: int
    state: str
    how: str
    at: float


@dataclass(frozen=True, slots=True)
class AssetSight:
    """A watcher of the workspace, or a listing of it, saw an asset."""

    watcher: str
    owner: str
    asset_id: str
    job_id: str
    how: str
    at: float


@dataclass(frozen=True, slots=True)
class Check:
    """What was found when a watcher saw a job succeed: the indexes listed, and what was wrong with them."""

    job_id: str
    delivered: list[int]
    listed: list[int]
    broken: list[str]
    at: float


@dataclass(frozen=True, slots=True)
class Saved:
    """An asset of a job that its owner saved, and the item as which the library said that it is saved."""

    owner: str
    job_id: str
    asset_id: str
    item_id: str


@dataclass(frozen=True, slots=True)
class Fired:
    """A fault that fired, and how many jobs had not finished by then (filled in from the database afterwards)."""

    kind: str
    target: str
    point: str
    fired_at: float
    ended_at: float
    note: str = ""
    unfinished: int = -1


@dataclass(frozen=True, slots=True)
class Report:
    """An outcome that the hostile worker sent, and the router's answer; `expected` lists the answers that are right."""

    behaviour: str
    job_id: str
    fence: int
    answer: str
    expected: list[str]


@dataclass(slots=True)
class Evidence:
    """Everything about one run."""

    plan: Row
    submissions: list[Submission] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    asset_sights: list[AssetSight] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    fired: list[Fired] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    # Sentences about what no client should be told, and about processes that ended by themselves.
    oddities: list[str] = field(default_factory=list)
    # Table name, such as `router.jobs`, to its rows at the end.
    tables: dict[str, list[Row]] = field(default_factory=dict)
    # One row a blob: key, size_bytes, sha256 (of the bytes as they are), mark (what the engine wrote into them).
    blobs: list[Row] = field(default_factory=list)
    # What each owner's listing shows at the end.
    listed: dict[str, list[str]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write one JSON file for each part."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in asdict(self).items():
            (folder / f"{name}.json").write_text(json.dumps(value, indent=1), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Evidence:
        """Read what `save` wrote."""

        def part(name: str) -> Any:
            return json.loads((folder / f"{name}.json").read_text("utf-8"))

        return cls(
            plan=part("plan"),
            submissions=[Submission(**row) for row in part("submissions")],
            sights=[Sight(**row) for row in part("sights")],
            asset_sights=[AssetSight(**row) for row in part("asset_sights")],
            checks=[Check(**row) for row in part("checks")],
            saved=[Saved(**row) for row in part("saved")],
            fired=[Fired(**row) for row in part("fired")],
            reports=[Report(**row) for row in part("reports")],
            oddities=part("oddities"),
            tables=part("tables"),
            blobs=part("blobs"),
            listed=part("listed"),
        )
