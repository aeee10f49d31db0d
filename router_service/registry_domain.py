"""A row of the routing table, and a worker that is connected: what each of them takes. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from router_service.domain import StageKind
from router_service.generation_domain import Format
from router_service.pool_domain import PoolKind, parse_pool, pool_name


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
    default_frame_rate: int = 24

    @property
    def pool(self) -> str:
        """Where its stages wait."""
        return pool_name(self.worker_type, PoolKind.CHAT if self.stage is StageKind.CHAT else PoolKind.PLAIN)

    @property
    def longest_pool(self) -> str:
        """The longest name of a pool in which one of its stages may wait."""
        return self.pool if self.stage is not StageKind.GENERATE else pool_name(self.worker_type, PoolKind.STEERED)

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for many."""
        return self.name.endswith("*")

    @property
    def deadline(self) -> timedelta:
        """From acceptance to the deadline of a job."""
        return timedelta(seconds=self.deadline_seconds)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that a worker keeps in the memory of a device."""

    name: str
    device: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ConnectedWorker:
    """One connected worker. `holder` is its key's id and its own name; it stays the same over restarts.

    `chats`: it has said that it runs stages of conversations; `steers`: that it knows guidance, schedulers, LoRAs and
    last frames; not `enhances`: that it runs some stages, and enhancements are none of them. `loaded` is what its last
    heartbeat said of its memory.
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
    steers: bool = False
    enhances: bool = True
    loaded: tuple[LoadedModel, ...] = ()

    @property
    def pools(self) -> tuple[str, ...]:
        """The pools that it takes stages of."""
        kinds = [PoolKind.PLAIN]
        kinds += [PoolKind.CHAT] * self.chats + [PoolKind.STEERED] * self.steers
        return tuple(pool_name(worker_type, kind) for kind in kinds for worker_type in self.worker_types)

    def serves(self, pool: str) -> bool:
        """Tell whether it takes stages of a pool."""
        worker_type, kind = parse_pool(pool)
        knows = {PoolKind.PLAIN: True, PoolKind.CHAT: self.chats, PoolKind.STEERED: self.steers}
        return worker_type in self.worker_types and knows[kind]

    def takes(self, pool: str, model: str) -> bool:
        """Tell whether a stage that runs a model can be routed to it; an enhancement runs none: its name is empty."""
        if not model:
            return self.enhances and self.serves(pool)
        return self.serves(pool) and (not self.models or model in self.models)
