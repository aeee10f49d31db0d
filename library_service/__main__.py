"""The composition root of the library service: wires everything, serves."""

from __future__ import annotations

from contextlib import AsyncExitStack

from library_service.catalogue import Catalogue
from library_service.clearing import Clearing
from library_service.clients import AssetControl
from library_service.copying import Copier
from library_service.copying_back import CopyingBack
from library_service.erasure import Erasure
from library_service.late_renditions import LateRenditions
from library_service.outbox import Deliveries
from library_service.removal import Removal
from library_service.saving import Saving
from library_service.servicer import LibraryServicer, registration
from library_service.shelf_wire import facts_of
from library_service.shelving import Shelving
from library_service.storage import MIGRATIONS, Storage
from library_service.sweep import Sweep
from library_service.upkeep import Upkeep
from service_kit.blobs import LIBRARY_BUCKET, BlobStore, open_store
from service_kit.channels import NOBODY_NEAR, Near
from service_kit.clock import Clock, SystemClock
from service_kit.database import Database
from service_kit.database_clock import DatabaseClock
from service_kit.deletion_pause import pausing
from service_kit.events import WakeUps
from service_kit.events.exchange import open_exchange
from service_kit.events.followers import Changes
from service_kit.health import HealthBoard
from service_kit.keyring import Keyrings
from service_kit.process import run
from service_kit.schema_gate import schema_ready
from service_kit.server import GrpcServer, Running
from service_kit.settings import Settings
from service_kit.sweeping import sweep_regularly
from service_kit.tasks import BackgroundTasks
from service_kit.vitals import Vitals


class Service:
    """All parts of the library service, wired. Tests reach the parts here; everybody else uses `start`."""

    def __init__(
        self, settings: Settings, db: Database, store: BlobStore, assets: AssetControl, clock: DatabaseClock
    ) -> None:
        mine, rings = settings.library, Keyrings(settings.keys_dir)
        self._clock = clock
        self.storage = Storage(db)
        self.store = store
        self.health = HealthBoard()
        self.vitals = Vitals(self.health, {"database": self._ask_database, "blob_store": self._ask_store})
        self.exchange = open_exchange(db)
        changes = Changes(WakeUps(), self.exchange)
        self.deliveries = Deliveries(self.storage, assets)
        self.removal = Removal(self.storage, store, self.deliveries, changes)
        self.copier = Copier(self.storage, store, assets, hold_ttl=mine.hold_ttl)
        self.saving = Saving(self.storage, self.copier, self.deliveries, changes)
        self.late = LateRenditions(self.storage, self.copier, changes)
        self.clearing = Clearing(self.storage, self.saving, assets)
        self.sweep = Sweep(self.storage, store, self.removal.sweep)
        self.erasure = Erasure(self.storage, self.removal, changes)
        self.catalogue = Catalogue(self.storage, changes.wake_ups)
        self.shelving = Shelving(self.storage, self.removal, facts_of)
        self.upkeep = Upkeep(
            storage=self.storage,
            deliveries=self.deliveries,
            removal=self.removal,
            shelving=self.shelving,
            late=self.late,
            settings=mine,
        )
        signer = rings.media_signer("library", clock, base_url=settings.core.public_url)
        lifetime = max(settings.core.media_key_lifetime, mine.media_url_ttl)
        self.media_rotation = rings.media_rotation("library", signer, clock, lifetime=lifetime)
        servicer = LibraryServicer(
            saving=self.saving,
            clearing=self.clearing,
            copying_back=CopyingBack(self.storage, assets),
            sweep=self.sweep,
            erasure=self.erasure,
            catalogue=self.catalogue,
            removal=self.removal,
            shelving=self.shelving,
            media=signer,
            media_url_ttl=mine.media_url_ttl,
        )
        self.server = GrpcServer(
            "library",
            listen=mine.listen,
            servicers=[registration(servicer)],
            verifier=rings.identity_verifier(clock),
            health=self.health,
            reflection=settings.core.reflection,
            insecure=settings.core.insecure,
            clock=clock,
        )

    async def _ask_database(self) -> None:
        await self.storage.ping()
        await self._clock.look()

    async def _ask_store(self) -> None:
        await self.store.stat(LIBRARY_BUCKET, "health")


async def open_service(
    settings: Settings, stack: AsyncExitStack, *, clock: Clock | None = None, near: Near = NOBODY_NEAR
) -> Service:
    """Wire the service and start it; `stack` ends it. Servers that are `near` are called without gRPC.

    Raises:
        FailedPrecondition: the folder or the address is taken, or the database is of a newer release.
    """
    clock = clock or SystemClock()
    db = await Database.open_service(settings, "library", clock=clock)
    stack.push_async_callback(db.close)
    await schema_ready(db, MIGRATIONS, listen=settings.library.listen)

    assets = AssetControl(
        settings.library.asset_target,
        identity_target=settings.library.identity_target,
        key=lambda: Keyrings(settings.keys_dir).read_key_file("library.key"),
        clock=clock,
        near=near,
    )
    stack.push_async_callback(assets.close)
    store = open_store(settings)
    stack.push_async_callback(store.close)
    service = Service(settings, db, pausing(store, db), assets, DatabaseClock(db))
    await service.removal.clean_up_after_crash()
    await service.vitals.look()
    tasks = BackgroundTasks()
    stack.push_async_callback(tasks.stop)
    stack.push_async_callback(service.saving.close)
    service.upkeep.start(tasks)
    tasks.start("library.exchange", service.exchange.run)
    tasks.start("library.followers", service.catalogue.followers.run)
    tasks.start("library.vitals", service.vitals.run)
    tasks.start("library.media_keys", service.media_rotation.run)
    tasks.start("library.blobs", lambda: sweep_regularly(service.sweep.page, settings.library.sweep_interval))
    tasks.start("library.asset_service_health", lambda: assets.follow_health(service.health))
    stack.push_async_callback(service.server.stop)
    await service.server.start()
    return service


async def start(settings: Settings, near: Near = NOBODY_NEAR) -> Running:
    """Start the library service; returns when it serves, even if the services that it calls are still down.

    Raises:
        FailedPrecondition: the folder or the address is taken, or the database is of a newer release.
    """
    async with AsyncExitStack() as stack:
        service = await open_service(settings, stack, near=near)
        return Running("library", service.server.target, stack.pop_all().aclose, service.server.near)


if __name__ == "__main__":
    run(start)
