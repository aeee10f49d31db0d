"""The asset service's composition root: wires everything, serves, ends in order."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta

from asset_service.client_uploads import ClientUploads
from asset_service.erasure import Erasure
from asset_service.expiry import Expiry
from asset_service.handover import Handover
from asset_service.holds import Holds
from asset_service.imports import Imports
from asset_service.intake import Intake
from asset_service.item_copies import ItemCopies
from asset_service.lease_rules import LeaseRules
from asset_service.locks import UploadLocks
from asset_service.probing import Probe
from asset_service.receipts import Receipts
from asset_service.references import References
from asset_service.removal import Removal
from asset_service.renditions import Renditions
from asset_service.resumable_uploads import ResumableUploads
from asset_service.servicer import AssetControlServicer, AssetServicer
from asset_service.settlement import Settling
from asset_service.small_outputs import SmallOutputs
from asset_service.spool import Spool
from asset_service.storage import MIGRATIONS, Storage
from asset_service.sweep import Sweep
from asset_service.upload_servicer import UploadServicer
from asset_service.uploads import Uploads
from asset_service.watch import Watchers
from asset_service.wire import Encoder, said_provenance
from asset_service.workspace import Workspace
from service_kit.blobs import WORKSPACE_BUCKET, BlobStore, open_store
from service_kit.capabilities import Capabilities
from service_kit.channels import NOBODY_NEAR, Near
from service_kit.clock import Clock, SystemClock
from service_kit.database import Database
from service_kit.database_clock import DatabaseClock
from service_kit.deletion_pause import pausing
from service_kit.events import WakeUps
from service_kit.events.exchange import open_exchange
from service_kit.events.followers import Changes
from service_kit.finishing import Unbroken
from service_kit.health import HealthBoard
from service_kit.keyring import Keyrings
from service_kit.process import run
from service_kit.schema_gate import schema_ready
from service_kit.server import GrpcServer, Registration, Running
from service_kit.settings import Settings
from service_kit.sweeping import sweep_regularly
from service_kit.tasks import BackgroundTasks
from service_kit.vitals import Vitals

_RENDER_LIMIT = timedelta(seconds=60)


class Service:
    """All parts of the asset service, wired. Tests reach the parts here; everybody else uses `start`."""

    def __init__(self, settings: Settings, db: Database, store: BlobStore, clock: DatabaseClock) -> None:
        self.settings = settings
        self._clock = clock
        self.storage = Storage(db)
        self.store = store
        self.spool = Spool(settings.service_dir("asset") / "spool")
        self.handover = Handover(settings.handover_dir)
        self.probe = Probe()
        self._intake = Intake(store, self.spool, self.probe.measure, self.probe.describe)
        self.renderer = Probe(limit=_RENDER_LIMIT, niceness=10)
        self.unbroken = Unbroken()
        self.health = HealthBoard()
        self.vitals = Vitals(self.health, {"database": self._ask_database, "blob_store": self._ask_store})
        self.locks = UploadLocks(settings.service_dir("asset") / "uploads.lock")
        self.exchange = open_exchange(db)
        self.watchers = Watchers(self.storage, Changes(WakeUps(), self.exchange))
        self.removal = Removal(self.storage, store, self.spool, self.locks)
        self.expiry = Expiry(
            self.storage,
            self.spool,
            self.handover,
            self.locks,
            self.removal,
            self.watchers,
            settings=settings.asset,
        )
        self.sweep = Sweep(self.storage, store, self.removal)
        self.erasure = Erasure(self.storage, self.removal, self.watchers)
        self.renditions = Renditions(
            self.storage, store, self.spool, self.locks, self.removal, self.watchers, self.renderer
        )
        rings = Keyrings(settings.keys_dir)
        capabilities = rings.capabilities(clock)
        signer = rings.media_signer("asset", clock, base_url=settings.core.public_url)
        lifetime = max(settings.core.media_key_lifetime, settings.asset.media_url_ttl)
        self.media_rotation = rings.media_rotation("asset", signer, clock, lifetime=lifetime)
        self.server = GrpcServer(
            "asset",
            listen=settings.asset.listen,
            servicers=self._servicers(capabilities, Encoder(signer, settings.asset.media_url_ttl)),
            verifier=rings.identity_verifier(clock),
            health=self.health,
            capabilities=capabilities,
            reflection=settings.core.reflection,
            insecure=settings.core.insecure,
            clock=clock,
        )

    async def _ask_database(self) -> None:
        await self.storage.ping()
        await self._clock.look()

    async def _ask_store(self) -> None:
        await self.store.stat(WORKSPACE_BUCKET, "health")

    def _servicers(self, capabilities: Capabilities, encoder: Encoder) -> list[Registration]:
        receipts = Receipts(capabilities)
        expiry = self.settings.asset.asset_expiry
        workspace = Workspace(
            self.storage,
            self.removal,
            self.watchers,
            asset_expiry=expiry,
            max_asset_age=self.settings.asset.max_asset_age,
        )
        item_copies = ItemCopies(
            self.storage,
            self.store,
            self.locks,
            self.unbroken,
            self.removal,
            self.watchers,
            upload_ttl=self.settings.asset.upload_ttl,
            asset_expiry=expiry,
        )
        settling = Settling(self.storage, self.store, receipts, self.removal, self.watchers, asset_expiry=expiry)
        holds = Holds(self.storage, self.removal, self.renditions)
        imports = Imports(self.storage)
        uploads, client_uploads = self._uploads(receipts), self._client_uploads(imports)
        resumable = self._resumable_uploads(client_uploads)
        references = References(self.store, self.handover)
        self.small_outputs = self._small_outputs(receipts)
        return [
            AssetServicer(workspace, self.watchers, encoder, self.sweep, self.erasure).registration,
            UploadServicer(
                uploads,
                self.small_outputs,
                client_uploads,
                resumable,
                imports,
                references,
                encoder,
                capabilities,
                self.handover,
            ).registration,
            AssetControlServicer(settling, holds, workspace, item_copies, encoder).registration,
        ]

    def _lease_rules(self) -> LeaseRules:
        mine = self.settings.asset
        return LeaseRules(mine.max_output_bytes, mine.retention_settlements, self._clock)

    def _small_outputs(self, receipts: Receipts) -> SmallOutputs:
        return SmallOutputs(
            self.storage,
            self._intake,
            self.probe,
            self.spool,
            receipts,
            self.locks,
            self.unbroken,
            self._lease_rules(),
            nudge=self.removal.nudge,
        )

    def _uploads(self, receipts: Receipts) -> Uploads:
        return Uploads(
            self.storage,
            self.spool,
            self._intake,
            receipts,
            self.locks,
            self.unbroken,
            self._lease_rules(),
            nudge=self.removal.nudge,
            handover=self.handover,
        )

    def _client_uploads(self, imports: Imports) -> ClientUploads:
        mine = self.settings.asset
        return ClientUploads(
            self.storage,
            self.spool,
            self._intake,
            self.locks,
            self.unbroken,
            self.removal,
            self.watchers,
            imports,
            provenance_of=said_provenance,
            nudge=self.renditions.nudge,
            max_upload_bytes=mine.max_upload_bytes,
            upload_ttl=mine.upload_ttl,
            asset_expiry=mine.asset_expiry,
        )

    def _resumable_uploads(self, client_uploads: ClientUploads) -> ResumableUploads:
        return ResumableUploads(
            self.storage,
            self.spool,
            self.locks,
            self.unbroken,
            self.removal,
            client_uploads,
            upload_ttl=self.settings.asset.upload_ttl,
        )


async def open_service(settings: Settings, stack: AsyncExitStack, *, clock: Clock | None = None) -> Service:
    """Wire the service and start it; `stack` ends it.

    Raises:
        FailedPrecondition: the folder or the address is taken, or the database is of a newer release.
    """
    clock = clock or SystemClock()
    db = await Database.open_service(settings, "asset", clock=clock)
    stack.push_async_callback(db.close)
    store = open_store(settings)
    stack.push_async_callback(store.close)
    service = Service(settings, db, pausing(store, db), DatabaseClock(db))
    await schema_ready(db, MIGRATIONS, listen=settings.asset.listen)
    await service.spool.prepare()
    await service.handover.prepare()
    stack.push_async_callback(service.handover.close)
    stack.callback(service.locks.close)
    stack.push_async_callback(service.probe.close)
    stack.push_async_callback(service.renderer.close)
    stack.push_async_callback(service.small_outputs.close)
    stack.push_async_callback(service.unbroken.close)
    await service.vitals.look()
    tasks = BackgroundTasks()
    stack.push_async_callback(tasks.stop)
    tasks.start("asset.expiry", service.expiry.run)
    if settings.asset.fill_renditions:
        tasks.start("asset.renditions", service.renditions.run)
    tasks.start("asset.exchange", service.exchange.run)
    tasks.start("asset.followers", service.watchers.followers.run)
    tasks.start("asset.vitals", service.vitals.run)
    tasks.start("asset.media_keys", service.media_rotation.run)
    tasks.start("asset.sweep", lambda: sweep_regularly(service.sweep.page, settings.asset.sweep_interval))
    stack.push_async_callback(service.server.stop)
    await service.server.start()
    return service


async def start(settings: Settings, near: Near = NOBODY_NEAR) -> Running:
    """Start the asset service, which calls nobody, near or far; returns when it serves.

    Raises:
        FailedPrecondition: the folder or the address is taken, or the database is of a newer release.
    """
    async with AsyncExitStack() as stack:
        service = await open_service(settings, stack)
        return Running("asset", service.server.target, stack.pop_all().aclose, service.server.near)


if __name__ == "__main__":
    run(start)
