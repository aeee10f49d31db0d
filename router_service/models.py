"""The model registry and the routing table: which pool does what a client asks for, and with which values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from router_service.domain import Format, ModelRow, Quality, StageKind, Warning_
from service_kit.errors import ErrorReason, InvalidArgument

FRAME_RATE = 24
ASPECT_RATIOS = {
    "1:1": (1, 1),
    "16:9": (16, 9),
    "9:16": (9, 16),
    "4:3": (4, 3),
    "3:4": (3, 4),
    "3:2": (3, 2),
    "2:3": (2, 3),
}
_SIZE_FACTOR = {Quality.DRAFT: 0.5, Quality.STANDARD: 1.0, Quality.HIGH: 1.25}
_STEPS_FACTOR = {Quality.DRAFT: 2 / 3, Quality.STANDARD: 1.0, Quality.HIGH: 5 / 3}
_SIZE_STEP = 16


class Match(StrEnum):
    """How a name found its row."""

    NAME = "name"
    ALIAS = "alias"
    PATTERN = "pattern"
    WILDCARD = "wildcard"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes: the row, the effective model name, and what to tell the client about it."""

    row: ModelRow
    model: str
    match: Match
    warnings: tuple[Warning_, ...] = ()


class RoutingTable:
    """The rows, in the order in which patterns are tried."""

    def __init__(self, rows: Sequence[ModelRow]) -> None:
        self.rows = tuple(sorted(rows, key=lambda row: (row.position, row.name)))

    def route(self, model: str) -> Route:
        """Return where a generation with this model goes.

        Raises:
            InvalidArgument: a format was sent as a model, or no row matches. Names the field `model`.
        """
        if model in {"image", "video"}:
            raise InvalidArgument.field(
                "model",
                f'must name a model, got {model!r}, which is a format: send "format": "{model}" and a model such as '
                f'"{self._maker_of(Format(model))}"',
                ErrorReason.UNKNOWN_MODEL,
            )
        rows = [row for row in self.rows if row.stage is StageKind.GENERATE]
        for row in rows:
            if row.name == model and not row.is_pattern:
                return Route(row, row.name, Match.NAME)
        for row in rows:
            if model in row.aliases:
                return Route(row, row.name if not row.is_pattern else model, Match.ALIAS)
        for row in rows:
            if row.is_pattern and model.startswith(row.name[:-1]):
                return self._caught(row, model)
        raise InvalidArgument.field(
            "model", f"{model[:100]!r} is not known{self._nearest_text(model)}", ErrorReason.UNKNOWN_MODEL
        )

    def enhancer(self) -> ModelRow:
        """Return the row that enhances prompts. Raises InvalidArgument when the operator has deleted it."""
        for row in self.rows:
            if row.stage is StageKind.ENHANCE:
                return row
        raise InvalidArgument(
            "Prompts cannot be enhanced here: the routing table has no row for the enhance stage.",
            ErrorReason.UNKNOWN_MODEL,
        )

    def nearest(self, model: str) -> list[str]:
        """Return up to three known names that look like this one."""
        known = [name for row in self.rows if row.stage is StageKind.GENERATE for name in (row.name, *row.aliases)]
        names = [name for name in known if not name.endswith("*")]
        return difflib.get_close_matches(model, names, n=3, cutoff=0.3) or names[:3]

    def _caught(self, row: ModelRow, model: str) -> Route:
        if row.name != "*":
            return Route(row, model, Match.PATTERN)
        warning = Warning_(
            "model_caught_by_wildcard",
            f"No row of the routing table names {model!r}; it goes to {row.worker_type!r}, where every other model goes"
            f"{self._nearest_text(model)}",
        )
        return Route(row, model, Match.WILDCARD, (warning,))

    def _nearest_text(self, model: str) -> str:
        names = self.nearest(model)
        return f"; the nearest known names are {', '.join(names)}." if names else "."

    def _maker_of(self, wanted: Format) -> str:
        makers = [row for row in self.rows if row.formats[:1] == (wanted,) and not row.is_pattern]
        return makers[0].name if makers else "wan"


def check_row(row: ModelRow, others: Sequence[ModelRow]) -> None:
    """Refuse a row that would make a name ambiguous.

    Raises:
        InvalidArgument: names the field of the row.
    """
    if "*" in row.name[:-1]:
        raise InvalidArgument.field("model.name", f"may have a * only at its end, got {row.name!r}")
    if row.stage is StageKind.GENERATE and not row.formats:
        raise InvalidArgument.field(
            "model.formats", "must name image, video or both, got none", ErrorReason.MISSING_FIELD
        )
    taken = {name: other.name for other in others for name in (other.name, *other.aliases) if other.name != row.name}
    for index, alias in enumerate(row.aliases):
        if alias in taken:
            raise InvalidArgument.field(
                f"model.aliases[{index}]", f"{alias!r} already belongs to the row {taken[alias]!r}"
            )
    if row.name in taken:
        raise InvalidArgument.field("model.name", f"{row.name!r} is an alias of the row {taken[row.name]!r}")


def effective_size(row: ModelRow, aspect_ratio: str, quality: Quality) -> tuple[int, int]:
    """Return width and height in pixels: the area of the row's base square, scaled by quality, in multiples of 16."""
    across, down = ASPECT_RATIOS[aspect_ratio]
    side = row.base_size * _SIZE_FACTOR[quality]
    ratio = math.sqrt(across / down)
    return _multiple(side * ratio), _multiple(side / ratio)


def effective_steps(row: ModelRow, quality: Quality) -> int:
    """Return the steps of the engine when the client does not say."""
    return max(1, round(row.default_steps * _STEPS_FACTOR[quality]))


def _multiple(pixels: float) -> int:
    return max(_SIZE_STEP, round(pixels / _SIZE_STEP) * _SIZE_STEP)
