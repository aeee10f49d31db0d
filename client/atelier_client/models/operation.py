"""What operators see: models, workers, keys, webhooks, identities, health."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from atelier_client.models.base import as_it_came


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
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that a worker keeps in memory: `size_bytes` on `device`."""

    name: str = ""
    device: str = ""
    size_bytes: int = 0
    raw: Mapping[str, Any] = as_it_came()


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
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Key:
    """A key, without its text. A limit that is None is as the settings of the services say; 0 is any number."""

    key_id: str = ""
    kind: str = ""
    tenant_id: str = ""
    owner_id: str = ""
    name: str = ""
    created_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    requests_per_minute: int | None = None
    worker_types: tuple[str, ...] = ()
    queued_jobs: int | None = None
    running_jobs: int | None = None
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `secret` is its text, which is shown this one time."""

    key: Key = dataclasses.field(default_factory=Key)
    secret: str = dataclasses.field(default="", repr=False)
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class SignInCode:
    """A code with which a browser signs in once."""

    code: str = dataclasses.field(default="", repr=False)
    expires_at: datetime | None = None
    raw: Mapping[str, Any] = as_it_came()


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
    raw: Mapping[str, Any] = as_it_came()


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
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the caller is."""

    tenant_id: str = ""
    owner_id: str = ""
    kind: str = ""
    scopes: tuple[str, ...] = ()
    raw: Mapping[str, Any] = as_it_came()


@dataclass(frozen=True, slots=True)
class Health:
    """The gateway's health: `serving`, `degraded` (all but saving works) or `not_serving`; `raw` has each service."""

    status: str = ""
    raw: Mapping[str, Any] = as_it_came()

    @property
    def serving(self) -> bool:
        """Whether requests are taken."""
        return self.status in ("serving", "degraded")
