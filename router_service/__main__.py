"""The router's composition root: wires everything, serves, and ends in order. Nothing else here reads settings."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import grpc

from atelier.identity.v1 import identity_service_pb2_grpc
from atelier.router.v1 import router_service_pb2_grpc, webhook_service_pb2_grpc
from atelier.worker.v1 import worker_service_pb2_grpc
from router_service.acknowledgements import Acknowledgements
from router_service.admission import Admission
from router_service.claimed import Claimed
from router_service.clients import AssetClient
from router_service.conversation_servicer import Conversations, SessionRules
from router_service.dispatch import Dispatch
from router_service.ending import Ending
from router_service.erasure import Erasure
from router_service.fairness import Shares
from router_service.identity import Identities
from router_service.identity_servicer import IdentityServicer
from router_service.introductions import Introductions
from router_service.jobs import JobViews
from router_service.leasing import LeasingLoop
from router_service.limits import JobLimits, Limits
from router_service.patience import Patience
from router_service.pools import Pools
from router_service.reaper import Reaper, ReaperRules
from router_service.recording import Recording, RetryRules
from router_service.registry import ModelRegistry
from router_service.relay import Relay
from router_service.rounds import LeaseRules, Rounds
from router_service.servicer import RouterServicer
from router_service.sessions import Sessions
from router_service.settlement import Settlement
from router_service.signals import Signals
from router_service.storage import MIGRATIONS, Storage
from router_service.watch import Watch
from router_service.webhook_servicer import WebhookServicer
from router_service.webhooks import Webhooks
from router_service.worker_servicer import WorkerServicer
from service_kit.channels import NOBODY_NEAR, Near, connect
from service_kit.clock import Clock, SystemClock
from service_kit.database import Database
from service_kit.database_clock import DatabaseClock
from service_kit.destinations import Destinations
from service_kit.errors import Unavailable
from service_kit.events.exchange import open_exchange
from service_kit.health import HealthBoard, follow
from service_kit.identity import IssuedToken, KeyKind, Owner, TokenSource
from service_kit.keyring import Keyrings
from service_kit.process import run
from service_kit.schema_gate import schema_ready
from service_kit.server import GrpcServer, Registration, Running
from service_kit.settings import Settings, SettingsError
from service_kit.settings_table import RouterSettings
from service_kit.tasks import BackgroundTasks
from service_kit.telemetry import get_logger
from service_kit.vitals import Vitals

_OWN_IDENTITY = Owner("default", "router")
_START_AGAIN_S = 0.2

log = get_logger(__name__)


class Service:
    """All parts of the router, wired. Tests reach the parts here; everybody else uses `start`."""

    def __init__(self, settings: Settings, db: Database, clock: DatabaseClock, channel: grpc.aio.Channel) -> None:
        mine, rings = settings.router, Keyrings(settings.keys_dir)
        self.rings = rings
        self._clock = clock
        self.storage = Storage(db)
        self.tasks = BackgroundTasks()
        self.exchange = open_exchange(db)
        self.signals = Signals(self.exchange)
        self.relay = Relay(self.signals)
        self.watch = Watch(self.storage, self.signals, self.relay)
        self.sessions = Sessions(when_left=self.relay.lease_ended)
        self.signals.on_lease_ended(self.sessions.lease_ended)
        self.signals.on_lease_ended(lambda ref, _cancelled: self.relay.lease_ended(ref))
        self.pools = Pools(connect=mine.listen)
        self.health = HealthBoard()
        self.identities = Identities(db, rings.identity_signer(clock), clock)
        self.registry = ModelRegistry(self.storage, clock)
        self.assets = AssetClient(channel)
        self.webhooks = Webhooks(self.storage, rings.webhook_keys(), _destinations(settings))
        self.vitals = Vitals(self.health, {"database": self._ask_database})
        capabilities = rings.capabilities(clock)
        self.capabilities = capabilities
        self.shares = Shares.parse(mine.owner_shares, most_running=mine.most_running_per_owner)
        of_owners = JobLimits(mine.queued_jobs_per_owner, mine.running_jobs_per_owner)
        self.limits = Limits(clock, of_owners, JobLimits(mine.queued_jobs_per_key, mine.running_jobs_per_key))
        self.patience = Patience(clock, mine.lease_ttl)
        self.acknowledgements = Acknowledgements(self.storage)
        self.dispatch = self._dispatch(settings, clock)
        self.ending = Ending(self.storage, self.relay, self.signals)
        self.claimed = Claimed(clock)
        self.admission = Admission(self.storage, self.assets, self.signals, self.shares, self.limits, self.dispatch)
        self.recording = Recording(
            self.storage,
            self.sessions,
            self.relay,
            self.signals,
            self.acknowledgements,
            capabilities,
            RetryRules(mine.max_attempts, mine.max_leases, mine.retry_backoff),
            self.claimed,
        )
        self.settlement = Settlement(self.storage, self.assets, self.signals, self.claimed)
        self.leasing = LeasingLoop(self.dispatch, self.signals)
        self.reaper = self._reaper(mine, clock)
        self.workers = self._worker_servicer(settings, clock)
        self.server = GrpcServer(
            "router",
            listen=mine.listen,
            servicers=self._servicers(),
            verifier=rings.identity_verifier(clock),
            health=self.health,
            reflection=settings.core.reflection,
            insecure=settings.core.insecure,
            clock=clock,
        )
        self.server.on_drain(self.workers.drain)

    async def _ask_database(self) -> None:
        await self.storage.ping()
        await self._clock.look()

    async def close(self) -> None:
        """Let the transactions that run end, and refuse what waits for one."""
        await asyncio.gather(self.admission.close(), self.dispatch.close(), self.recording.close(), self.watch.close())

    def _dispatch(self, settings: Settings, clock: Clock) -> Dispatch:
        mine = settings.router
        rules = LeaseRules(mine.lease_ttl, mine.max_attempts, mine.max_leases, settings.asset.max_output_bytes)
        rounds = Rounds(self.storage, self.sessions, self.capabilities, rules, self.shares, self.limits)
        return Dispatch(
            self.storage, self.relay, self.signals, rounds, self.acknowledgements, rules, self.patience, clock
        )

    def _reaper(self, mine: RouterSettings, clock: Clock) -> Reaper:
        return Reaper(
            self.storage,
            self.dispatch,
            self.ending,
            self.pools,
            self.patience,
            clock,
            ReaperRules(
                lease_ttl=mine.lease_ttl,
                ack_timeout=mine.lease_ack_timeout,
                keep_jobs=mine.retention_jobs,
                keep_events=mine.retention_events,
                keep_submissions=mine.idempotency_retention,
                keep_deliveries=mine.retention_deliveries,
                raise_tier_after=mine.raise_tier_after,
                highest_tier=self.shares.highest_tier,
            ),
            self.identities.purge_expired,
        )

    def _worker_servicer(self, settings: Settings, clock: Clock) -> WorkerServicer:
        mine = settings.router
        rules = SessionRules(
            heartbeat_interval=mine.heartbeat_interval,
            lease_ttl=mine.lease_ttl,
            upload_endpoint=mine.upload_endpoint or mine.asset_target,
            max_output_bytes=settings.asset.max_output_bytes,
            max_sessions_per_key=mine.max_sessions_per_key,
        )
        conversations = Conversations(
            storage=self.storage,
            dispatch=self.dispatch,
            recording=self.recording,
            relay=self.relay,
            rules=rules,
            key_works=self.identities.key_works,
        )
        return WorkerServicer(
            storage=self.storage,
            sessions=self.sessions,
            dispatch=self.dispatch,
            reaper=self.reaper,
            conversations=conversations,
            introductions=Introductions(self.registry, self.identities.worker_types_of),
            rules=rules,
            clock=clock,
        )

    def _servicers(self) -> list[Registration]:
        router = RouterServicer(
            admission=self.admission,
            ending=self.ending,
            views=JobViews(self.storage),
            watch=self.watch,
            registry=self.registry,
            pools=self.pools,
            erasure=Erasure(self.storage, self.ending),
            webhooks=self.webhooks,
        )
        identity = IdentityServicer(self.identities, self.limits)
        return [
            (router_service_pb2_grpc.add_RouterServiceServicer_to_server, router),
            (worker_service_pb2_grpc.add_WorkerServiceServicer_to_server, self.workers),
            (identity_service_pb2_grpc.add_IdentityServiceServicer_to_server, identity),
            (
                webhook_service_pb2_grpc.add_WebhookServiceServicer_to_server,
                WebhookServicer(self.webhooks, self.pools),
            ),
        ]


def _destinations(settings: Settings) -> Destinations:
    mine = settings.outgoing
    try:
        return Destinations(mine.allow, mine.ports, plain_http=mine.plain_http)
    except ValueError as error:
        raise SettingsError(f"outgoing.allow or outgoing.ports: {error}.") from None


def _own_tokens(rings: Keyrings, clock: Clock) -> TokenSource:
    """Return the router's own identity, which it signs itself."""
    signer = rings.identity_signer(clock)

    async def issue() -> IssuedToken:
        return signer.issue(owner=_OWN_IDENTITY, kind=KeyKind.SERVICE, key_id="router")

    return TokenSource(issue, clock)


async def _prepare(service: Service, db: Database, listen: str) -> None:
    """Wait for the schema, and make what the first start needs; a database that goes away meanwhile is waited for."""
    while True:
        await schema_ready(db, MIGRATIONS, listen=listen)
        try:
            await service.identities.bootstrap(service.rings)
            await service.reaper.refresh_pools()
        except Unavailable as error:
            log.warning("database_lost_at_start", problem=error.message)
            await asyncio.sleep(_START_AGAIN_S)
        else:
            return


async def open_service(
    settings: Settings, stack: AsyncExitStack, *, clock: Clock | None = None, near: Near = NOBODY_NEAR
) -> Service:
    """Wire the router and start it; `stack` ends it. It serves when this returns, even if the asset service is down.

    Raises:
        FailedPrecondition: the folder or the address is taken, or the database is of a newer release.
    """
    db = await Database.open_service(settings, "router", clock=clock or SystemClock())
    stack.push_async_callback(db.close)
    time = DatabaseClock(db)
    channel = connect(settings.router.asset_target, tokens=_own_tokens(Keyrings(settings.keys_dir), time), near=near)
    stack.push_async_callback(channel.close)
    service = Service(settings, db, time, channel)
    await _prepare(service, db, settings.router.listen)
    await service.vitals.look()
    await service.server.start()
    service.pools.connect = service.server.target
    stack.push_async_callback(service.close)
    stack.push_async_callback(service.tasks.stop)
    stack.push_async_callback(service.server.stop)
    service.tasks.start("router.exchange", service.exchange.run)
    service.tasks.start("router.relay", service.relay.run)
    service.tasks.start("router.followers", service.watch.followers.run)
    service.tasks.start("router.leasing", service.leasing.run)
    service.tasks.start("router.settlement", service.settlement.run)
    service.tasks.start("router.reaper", service.reaper.run)
    service.tasks.start("router.vitals", service.vitals.run)
    service.tasks.start("router.asset_service_health", lambda: follow(channel, service.health, "asset_service"))
    return service


async def start(settings: Settings, near: Near = NOBODY_NEAR) -> Running:
    """Start the router; returns when it serves. Raises what `open_service` raises."""
    async with AsyncExitStack() as stack:
        service = await open_service(settings, stack, near=near)
        return Running("router", service.server.target, stack.pop_all().aclose, service.server.near)


if __name__ == "__main__":
    run(start)
