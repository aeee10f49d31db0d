"""The house of the model: routers and asset services, one clock, one hop, and databases that outlive them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import grpc
from sqlalchemy import Table, select

import asset_service.__main__ as asset_main
import router_service.__main__ as router_main
from asset_service.shape_domain import Shape
from asset_service.storage import MIGRATIONS as ASSET_MIGRATIONS
from asset_service.storage.tables import metadata as asset_tables
from router_service.storage import MIGRATIONS as ROUTER_MIGRATIONS
from router_service.storage import identity_tables
from router_service.storage.metadata import metadata as router_tables
from service_kit.blobs import BlobStore
from service_kit.capabilities import Capabilities, holding_lease
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.database_clock import DatabaseClock
from service_kit.identity import Caller, KeyKind, Owner, Scope, acting_as
from service_kit.keyring import Keyrings
from service_kit.migrate import ensure_schema
from service_kit.settings import Settings, for_tests
from tests.model.hops import Channel, Hop
from tests.model.processes import Blobs, Gone, Methods, Process, ProcessDatabase

MAX_ATTEMPTS = 2
MAX_LEASES = 4
LEASE_TTL = timedelta(seconds=30)
ACK_TIMEOUT = timedelta(seconds=5)
# What a reset leaves: what migrations and the first start have put there.
_KEPT = {"models", "event_source", "pools"}


class Probe:
    """Measures what the model's workers upload, without decoding it."""

    def __init__(self, **limits: object) -> None:
        """Need no limits."""

    async def measure(self, path: Path) -> Shape:
        """Return the shape of every file."""
        return Shape("image/png", 8, 8)

    async def measure_bytes(self, files: Sequence[bytes]) -> list[Shape]:
        """Return the shape of every file that comes whole."""
        return [Shape("image/png", 8, 8) for _ in files]

    async def describe(self, path: Path) -> dict[str, object]:
        """Return what every file says of itself: nothing."""
        return {}

    async def close(self) -> None:
        """End nothing."""


@dataclass
class Running:
    """One process with a service in it."""

    process: Process
    service: Any
    methods: Methods
    started_at: float

    async def call(self, path: str, request: Any, caller: Caller) -> Any:
        """Call a method as somebody. Raises Gone when the process dies, else what the method raises."""

        async def work() -> Any:
            with acting_as(caller):
                return await self.methods.unary(path, request)

        return await self.process.run(work())

    async def call_as_worker(self, path: str, request: Any, token: str, capabilities: Capabilities) -> Any:
        """Call a method with a lease token. Raises as `call` does, and Unauthenticated for a token that has expired."""

        async def work() -> Any:
            with holding_lease(capabilities.verify_lease(token)):
                return await self.methods.unary(path, request)

        return await self.process.run(work())

    async def do(self, work: Callable[[Any], Any]) -> Any:
        """Let the service do something. Raises Gone when it dies."""
        return await self.process.run(work(self.service))


@dataclass
class House:
    """Two databases, a blob store and a clock; and the processes that run on them at the moment."""

    settings: Settings
    clock: ManualClock
    router_db: Database
    asset_db: Database
    worker_key_id: str = ""
    replicas: int = 1
    blobs: Blobs = field(default_factory=Blobs)
    routers: list[Running] = field(default_factory=list)
    asset_services: list[Running] = field(default_factory=list)
    reached: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    hop: Hop = field(init=False)

    def __post_init__(self) -> None:
        self.hop = Hop(self._settle_call)

    @property
    def capabilities(self) -> Capabilities:
        """Return what signs and verifies lease tokens and receipts."""
        return Keyrings(self.settings.keys_dir).capabilities(self.clock)

    def caller(self, owner: Owner, kind: KeyKind = KeyKind.USER) -> Caller:
        """Return somebody who calls."""
        key_id = self.worker_key_id if kind is KeyKind.WORKER else "model"
        expires_at = self.clock.now() + timedelta(days=1000)
        return Caller(owner, owner, kind, frozenset(Scope), key_id, expires_at)

    # --- processes --------------------------------------------------------------------------------------------------

    async def start_all(self) -> None:
        """Start every process anew."""
        self.routers = [self._router(index) for index in range(self.replicas)]
        self.asset_services = [await self._asset_service(index) for index in range(self.replicas)]

    async def stop_all(self) -> None:
        """End every process."""
        for running in self.routers + self.asset_services:
            running.process.kill()
            await self._bury(running)

    async def restart_dead(self) -> list[str]:
        """Start those processes again that have died. Returns their names."""
        dead = [running for running in self.routers + self.asset_services if not running.process.alive]
        for running in dead:
            await self._bury(running)
        self.routers = [each if each not in dead else self._router(i) for i, each in enumerate(self.routers)]
        self.asset_services = [
            each if each not in dead else await self._asset_service(i) for i, each in enumerate(self.asset_services)
        ]
        return [running.process.name for running in dead]

    async def _bury(self, running: Running) -> None:
        await running.process.bury()
        if running in self.asset_services:
            # With a process go its locks on files.
            running.service.locks.close()
        self.reached.update({f"{running.process.name[0]}:{k}": n for k, n in running.process.reached.items()})
        if running.process.died_at:
            self.deaths[f"{running.process.name[0]}:{running.process.died_at}"] += 1

    def _router(self, index: int) -> Running:
        process = Process(f"router-{index}")
        db = cast(Database, ProcessDatabase(self.router_db, process))
        channel = cast(grpc.aio.Channel, Channel(process, self.hop))
        service = router_main.Service(self.settings, db, DatabaseClock(self.router_db), channel)
        return Running(process, service, Methods(service.server._servicers), self.clock.monotonic())

    async def _asset_service(self, index: int) -> Running:
        process = Process(f"asset-{index}")
        db = cast(Database, ProcessDatabase(self.asset_db, process))
        store = cast(BlobStore, self.blobs.seen_by(process))
        service = asset_main.Service(self.settings, db, store, DatabaseClock(self.asset_db))
        await service.spool.prepare()
        return Running(process, service, Methods(service.server._servicers), self.clock.monotonic())

    async def _settle_call(self, path: str, data: bytes) -> bytes:
        running = next((each for each in self.asset_services if each.process.alive), None)
        if running is None:
            raise Gone("asset")
        request = running.methods.handler(path).request_deserializer(data)
        caller = self.caller(Owner("default", "router"), KeyKind.SERVICE)
        reply = await running.call(path, request, caller)
        return bytes(reply.SerializeToString())

    # --- databases --------------------------------------------------------------------------------------------------

    async def rows(self, db: Database, *tables: Any) -> list[list[Any]]:
        """Return every row of each table, as they are at one moment."""
        async with db.read() as connection:
            return [list(await connection.execute(select(table))) for table in tables]

    async def forget_everything(self) -> None:
        """Make the databases, the blobs and the spool what they were at the beginning."""
        identities = {table.name for table in vars(identity_tables).values() if isinstance(table, Table)}
        for db, tables in ((self.router_db, router_tables), (self.asset_db, asset_tables)):
            async with db.write() as connection:
                for table in reversed(tables.sorted_tables):
                    if table.name not in _KEPT | identities:
                        await connection.execute(table.delete())
        self.blobs = Blobs()
        self.hop = Hop(self._settle_call)
        spool = self.settings.service_dir("asset") / "spool"
        for path in spool.iterdir():
            path.unlink()


async def open_house(folder: Path, stack: AsyncExitStack, *, database_url: str) -> House:
    """Make the databases with their schemas, and no process yet. `database_url` is empty for SQLite."""
    clock = ManualClock()
    changes: dict[str, Any] = {
        "router__max_attempts": MAX_ATTEMPTS,
        "router__max_leases": MAX_LEASES,
        "router__lease_ttl": LEASE_TTL,
        "router__lease_ack_timeout": ACK_TIMEOUT,
        "router__retry_backoff": timedelta(seconds=1),
    }
    if database_url:
        changes["core__database_url"] = database_url
    settings = for_tests(folder, **changes)
    dbs = []
    for name, migrations in (("router", ROUTER_MIGRATIONS), ("asset", ASSET_MIGRATIONS)):
        db = await Database.open_service(settings, name, clock=clock)
        stack.push_async_callback(db.close)
        await ensure_schema(db, migrations)
        dbs.append(db)
    house = House(settings, clock, dbs[0], dbs[1], replicas=2 if database_url else 1)
    await house.start_all()
    await house.routers[0].do(lambda service: service.identities.bootstrap(service.rings))
    [keys] = await house.rows(house.router_db, identity_tables.api_keys)
    house.worker_key_id = next(row.key_id for row in keys if row.kind == KeyKind.WORKER.value)
    await house.stop_all()
    return house
