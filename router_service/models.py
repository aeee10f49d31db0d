"""The model registry and the routing table: which pool does what a client asks for, and with which values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from router_service.domain import StageKind, Warning_
from router_service.generation_domain import Format, Quality
from router_service.registry_domain import ModelRow
from service_kit.errors import ErrorReason, FieldProblem, InvalidArgument

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
# What a client may ask for by width and height: one and a half times the side, which is 1280x720 where it is 640.
_LARGEST_AREA = 2.25
# As long as the column is.
_LONGEST_POOL = 64


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

    def route(self, model: str, stage: StageKind = StageKind.GENERATE) -> Route:
        """Return where a generation, or a conversation, with this model goes.

        Raises:
            InvalidArgument: a format was sent as a model, or no row matches. Names the field `model`.
        """
        if stage is StageKind.GENERATE and model in {"image", "video"}:
            raise InvalidArgument.field(
                "model",
                f'must name a model, got {model!r}, which is a format: send "format": "{model}" and a model such as '
                f'"{self._maker_of(Format(model))}"',
                ErrorReason.UNKNOWN_MODEL,
            )
        rows = self._rows(stage)
        for row in rows:
            if row.name == model and not row.is_pattern:
                return Route(row, row.name, Match.NAME)
        for row in rows:
            if model in row.aliases:
                return Route(row, row.name if not row.is_pattern else model, Match.ALIAS)
        if stage is StageKind.GENERATE and any(row.name == model for row in self._rows(StageKind.CHAT)):
            message = f"{model!r} is a model for conversations: send `chat`, or another model"
            raise InvalidArgument.field("model", message, ErrorReason.UNKNOWN_MODEL)
        for row in rows:
            if row.is_pattern and row.name != "*" and model.startswith(row.name[:-1]):
                return Route(row, model, Match.PATTERN)
        for row in rows:
            if row.name == "*" or "*" in row.aliases:
                return self._caught(row, model)
        if stage is StageKind.CHAT:
            names = ", ".join(row.name for row in rows) or "none"
            message = f"{model[:100]!r} is no model for conversations; known are: {names}"
            raise InvalidArgument.field("model", message, ErrorReason.UNKNOWN_MODEL)
        raise InvalidArgument.field(
            "model", f"{model[:100]!r} is not known{self._nearest_text(model, stage)}", ErrorReason.UNKNOWN_MODEL
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

    def nearest(self, model: str, stage: StageKind = StageKind.GENERATE) -> list[str]:
        """Return up to three known names that look like this one."""
        known = [name for row in self._rows(stage) for name in (row.name, *row.aliases)]
        names = [name for name in known if not name.endswith("*")]
        return difflib.get_close_matches(model, names, n=3, cutoff=0.3) or names[:3]

    def _rows(self, stage: StageKind) -> list[ModelRow]:
        return [row for row in self.rows if row.stage is stage]

    def _caught(self, row: ModelRow, model: str) -> Route:
        warning = Warning_(
            "model_caught_by_wildcard",
            f"No row of the routing table names {model!r}; it goes to {row.worker_type!r}, where every other model goes"
            f"{self._nearest_text(model, row.stage)}",
        )
        return Route(row, model if row.is_pattern else row.name, Match.WILDCARD, (warning,))

    def _nearest_text(self, model: str, stage: StageKind) -> str:
        names = self.nearest(model, stage)
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
    if row.stage is not StageKind.GENERATE and row.formats:
        raise InvalidArgument.field("model.formats", f"must be empty for a row of the {row.stage} stage")
    if len(row.longest_pool) > _LONGEST_POOL:
        longest = _LONGEST_POOL - len(row.longest_pool) + len(row.worker_type)
        message = f"must be at most {longest} characters long for a row of the {row.stage} stage"
        raise InvalidArgument.field("model.worker_type", message, ErrorReason.OUT_OF_RANGE)
    taken = {
        name: other.name
        for other in others
        for name in (other.name, *other.aliases)
        # Every other name of a stage: each stage has its own.
        if other.name != row.name and (name != "*" or other.stage is row.stage)
    }
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


def check_size(row: ModelRow, width: int, height: int) -> None:
    """Refuse a size that a row does not make.

    Raises:
        InvalidArgument: names `width` and `height`.
    """
    largest = round(row.base_size**2 * _LARGEST_AREA)
    if width * height > largest:
        side = math.isqrt(largest)
        message = (
            f"and height must together make at most {largest} pixels for the model {row.name} ({side}x{side}, say), "
            f"got {width}x{height}"
        )
        problems = [FieldProblem("width", message), FieldProblem("height", f"is too large: see width, got {height}")]
        raise InvalidArgument.of(problems, ErrorReason.OUT_OF_RANGE)


def effective_steps(row: ModelRow, quality: Quality) -> int:
    """Return the steps of the engine when the client does not say."""
    return max(1, round(row.default_steps * _STEPS_FACTOR[quality]))


def _multiple(pixels: float) -> int:
    return max(_SIZE_STEP, round(pixels / _SIZE_STEP) * _SIZE_STEP)
