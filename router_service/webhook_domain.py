"""Webhooks: whom a job tells of what, what became of it, and when it is tried again. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from service_kit.identity import Owner

RETRY_AFTER = tuple(
    timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600)
)
"""How long a delivery waits after its first, second, … failure; after one more it is given up."""

GONE = 410
# What failed together, because a receiver was away, is not repeated all at once.
_JITTER = 0.2


class WebhookEvent(StrEnum):
    """What a receiver is told of."""

    STARTED = "started"
    OUTPUT = "output"
    COMPLETED = "completed"


IN_ORDER = (WebhookEvent.STARTED, WebhookEvent.OUTPUT, WebhookEvent.COMPLETED)
"""What happens to a job, in its order."""

HOLDS_BACK_FOR = 3
"""A delivery waits for an earlier one of its job until that was taken, is given up, or has failed so many times: a
receiver that knows a job by the last that it was told is not told of its beginning last. One that never takes an event
is not kept from the next for hours."""


class WebhookDialect(StrEnum):
    """The shape of what is posted."""

    NATIVE = "native"
    OPENAI = "openai"
    FAL = "fal"
    REPLICATE = "replicate"


class DeliveryState(StrEnum):
    """What became of a delivery; the last two are final, but for a redelivery by hand."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Webhook:
    """Whom a job tells, and of what."""

    url: str
    events: tuple[WebhookEvent, ...] = (WebhookEvent.COMPLETED,)
    dialect: WebhookDialect = WebhookDialect.NATIVE


@dataclass(frozen=True, slots=True)
class Delivery:
    """One thing that one receiver is told.

    `attempts` counts all posts, `tries` those since it was written or redelivered. `due_at` is None unless it is
    pending. `lease` grows each time it is given to a gateway, or redelivered, so that old reports are known as such.
    """

    delivery_id: str
    owner: Owner
    job_id: str
    event: WebhookEvent
    dialect: WebhookDialect
    url: str
    created_at: datetime
    due_at: datetime | None
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    tries: int = 0
    lease: int = 0
    attempted_at: datetime | None = None
    finished_at: datetime | None = None
    last_status: int = 0
    last_error: str = ""

    @property
    def holds_back(self) -> bool:
        """Tell whether later deliveries of its job wait for it."""
        return self.due_at is not None and self.tries < HOLDS_BACK_FOR


@dataclass(frozen=True, slots=True)
class Report:
    """What a receiver answered; a status of 0 says that there was no answer."""

    delivery_id: str
    lease: int
    status: int
    error: str


def retry_delay(tries: int, chance: float) -> timedelta | None:
    """Return how long to wait after the `tries`-th failure, None to give up. `chance` in 0..1 spreads it."""
    if tries > len(RETRY_AFTER):
        return None
    delay: timedelta = RETRY_AFTER[tries - 1] * (1 - _JITTER + 2 * _JITTER * chance)
    return delay


def is_taken(status: int) -> bool:
    """Tell whether a receiver's answer takes a delivery."""
    return 200 <= status < 300
