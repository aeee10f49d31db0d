"""A row of the routing table, and a worker that is connected: what each of them takes. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from router_service.chat_domain import chat_pool, worker_type_of
from router_service.domain import Format, StageKind


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One row of the routing table. A name that ends in `*` is a pattern, anchored at the beginning."""

    name: str
    position: int
    stage: StageKind
    worker_type: str
    aliases: tuple[str, ...] = ()
    formats: tuple[Format, ...] = ()
    max_quantity: int = 8
    base_size: int = 1024
    default_steps: int = 12
    deadline_seconds: int = 900

    @property
    def pool(self) -> str:
        """Where its stages wait."""
        return chat_pool(self.worker_type) if self.stage is StageKind.CHAT else self.worker_type

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for many."""
        return self.name.endswith("*")

    @property
    def deadline(self) -> timedelta:
        """From acceptance to the deadline of a job."""
        return timedelta(seconds=self.deadline_seconds)


@dataclass(frozen=True, slots=True)
class ConnectedWorker:
    """One connected worker. `holder` is its key's id and its own name; it stays the same over restarts.

    `chats`: it has said that it runs stages of conversations.
    """

    holder: str
    session: str
    worker_types: tuple[str, ...]
    models: tuple[str, ...]
    slots: int
    labels: tuple[tuple[str, str], ...]
    version: str
    leases: int = 0
    chats: bool = False

    def serves(self, pool: str) -> bool:
        """Tell whether it takes stages of a pool."""
        worker_type, is_chat = worker_type_of(pool)
        return worker_type in self.worker_types and (self.chats or not is_chat)

    def takes(self, pool: str, model: str) -> bool:
        """Tell whether a stage can be routed to it."""
        return self.serves(pool) and (not self.models or model in self.models)
