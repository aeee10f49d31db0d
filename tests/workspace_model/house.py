"""Asset services and libraries on one PostgreSQL, one store and one clock, each a process whose power can be cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import grpc
from sqlalchemy import select

import asset_service.__main__ as asset_main
import library_service.__main__ as library_main
from asset_service.storage.tables import metadata as asset_tables
from atelier.asset.v1 import asset_control_service_pb2_grpc, asset_service_pb2_grpc
from library_service.clients import AssetControl
from library_service.storage.tables import metadata as library_tables
from service_kit.blobs import BlobStore
from service_kit.capabilities import Capabilities
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.database_clock import DatabaseClock
from service_kit.identity import ON_BEHALF_OF, Caller, KeyKind, Owner, Scope, parse_on_behalf_of
from service_kit.keyring import Keyrings
from service_kit.settings import Settings, for_tests
from tests.model.hops import Hop
from tests.model.house import Running
from tests.model.processes import Blobs, Gone, Methods, Process, ProcessDatabase, outside

REPLICAS = 2
_KEPT = {"event_source", "deletion_pause"}


class Channel:
    """A library's channel to the asset services: each call goes to any that lives, for whom its metadata says."""

    def __init__(self, process: Process, hop: Hop) -> None:
        self._process = process
        self._hop = hop

    def unary_unary(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """Return what a stub calls."""

        async def call(request: Any, metadata: Sequence[tuple[str, str]] = (), **_options: Any) -> Any:
            name = path.rpartition("/")[2]
            self._process.reach(f"before {name}")
            with outside():
                reply = await self._hop.send(
                    f"{path}@{dict(metadata).get(ON_BEHALF_OF, '')}", request_serializer(request)
                )
            self._process.reach(f"after {name}")
            return response_deserializer(reply)

        return call

    def unary_stream(self, *_: Any, **__: Any) -> None:
        """Be there for stubs that have such methods."""


class Control(AssetControl):
    """The library's calls, over such a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = asset_control_service_pb2_grpc.AssetControlServiceStub(channel)
        self._workspace = asset_service_pb2_grpc.AssetServiceStub(channel)


@dataclass
class House:
    """Two databases, a store and a clock; and the processes that run on them at the moment."""

    settings: Settings
    clock: ManualClock
    asset_db: Database
    library_db: Database
    blobs: Blobs = field(default_factory=Blobs)
    assets: list[Running] = field(default_factory=list)
    libraries: list[Running] = field(default_factory=list)
    deaths: Counter[str] = field(default_factory=Counter)
    hop: Hop = field(init=False)

    def __post_init__(self) -> None:
        self.hop = Hop(self._call)

    @property
    def capabilities(self) -> Capabilities:
        """Return what signs lease tokens."""
        return Keyrings(self.settings.keys_dir).capabilities(self.clock)

    @property
    def running(self) -> list[Running]:
        """Return all processes."""
        return [*self.assets, *self.libraries]

    def caller(self, owner: Owner, kind: KeyKind = KeyKind.USER) -> Caller:
        """Return somebody who calls."""
        return Caller(owner, owner, kind, frozenset(Scope), "model", self.clock.now() + timedelta(days=1000))

    async def start_all(self) -> None:
        """Start every process anew."""
        self.assets = [await self._asset(index) for index in range(REPLICAS)]
        self.libraries = [self._library(index) for index in range(REPLICAS)]

    async def stop_all(self) -> None:
        """End every process."""
        for running in self.running:
            running.process.kill()
            await self._bury(running)

    async def restart_dead(self) -> None:
        """Start those processes again that have died."""
        for running in [running for running in self.running if not running.process.alive]:
            await self._bury(running)
            if running in self.assets:
                index = self.assets.index(running)
                self.assets[index] = await self._asset(index)
            else:
                index = self.libraries.index(running)
                self.libraries[index] = self._library(index)

    async def _bury(self, running: Running) -> None:
        await running.process.bury()
        if running in self.assets:
            # With a process go its locks on files.
            running.service.locks.close()
        if running.process.died_at:
            self.deaths[f"{running.process.name[0]}:{running.process.died_at}"] += 1

    async def _asset(self, index: int) -> Running:
        process = Process(f"asset-{index}")
        db = cast(Database, ProcessDatabase(self.asset_db, process))
        store = cast(BlobStore, self.blobs.seen_by(process))
        service = asset_main.Service(self.settings, db, store, DatabaseClock(self.asset_db))
        await service.spool.prepare()
        return Running(process, service, Methods(service.server._servicers), self.clock.monotonic())

    def _library(self, index: int) -> Running:
        process = Process(f"library-{index}")
        db = cast(Database, ProcessDatabase(self.library_db, process))
        store = cast(BlobStore, self.blobs.seen_by(process))
        control = Control(cast(grpc.aio.Channel, Channel(process, self.hop)))
        service = library_main.Service(self.settings, db, store, control, DatabaseClock(self.library_db))
        return Running(process, service, Methods(service.server._servicers), self.clock.monotonic())

    async def _call(self, addressed: str, data: bytes) -> bytes:
        path, _, owner = addressed.partition("@")
        running = next((each for each in self.assets if each.process.alive), None)
        if running is None:
            raise Gone("asset")
        request = running.methods.handler(path).request_deserializer(data)
        service = self.caller(Owner("default", "library"), KeyKind.SERVICE)
        reply = await running.call(path, request, service.acting_for(parse_on_behalf_of(owner)) if owner else service)
        return bytes(reply.SerializeToString())

    async def rows(self, db: Database, *tables: Any) -> list[list[Any]]:
        """Return every row of each table, as they are at one moment."""
        async with db.read() as connection:
            return [list(await connection.execute(select(table))) for table in tables]

    async def forget_everything(self) -> None:
        """Make the databases, the store and the spool what they were at the beginning."""
        for db, tables in ((self.asset_db, asset_tables), (self.library_db, library_tables)):
            async with db.write() as connection:
                for table in reversed(tables.sorted_tables):
                    if table.name not in _KEPT:
                        await connection.execute(table.delete())
        self.blobs = Blobs()
        self.hop = Hop(self._call)


async def open_house(folder: Path, stack: AsyncExitStack, *, database_url: str) -> House:
    """Open the databases, whose schemas are there, and start no process yet."""
    clock = ManualClock()
    settings = for_tests(folder, core__database_url=database_url)
    dbs = []
    for name in ("asset", "library"):
        db = await Database.open_service(settings, name, clock=clock)
        stack.push_async_callback(db.close)
        dbs.append(db)
    return House(settings, clock, dbs[0], dbs[1])
