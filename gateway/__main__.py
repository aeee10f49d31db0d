"""The composition root of the gateway: wires everything, serves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from gateway.app import Application
from gateway.backends import Backend, Backends
from gateway.closing import Closing
from gateway.context import Context
from gateway.dialects.call import Kit
from gateway.dialects.dialect import Dialects
from gateway.dialects.grants import Grants
from gateway.dialects.jobs import Calls
from gateway.dialects.registry import DIALECTS, RENDERERS
from gateway.dialects.unanswered import Unanswered
from gateway.downloads import Downloads
from gateway.edge import make_edge
from gateway.feeds import Feeds
from gateway.health import Health
from gateway.http import Limits
from gateway.http_rules import RouteTable, routes
from gateway.identity import Identities
from gateway.media import Media
from gateway.open_streams import OpenStreams
from gateway.pages import Pages
from gateway.rates import Buckets, RateLimits
from gateway.references import ReferenceLimits, References
from gateway.revocations import Revocations, keys_of
from gateway.web_server import WebServer
from gateway.webhooks.sending import Sending, open_sending
from service_kit import channels
from service_kit.blobs import BlobStore, open_store
from service_kit.clock import Clock, SystemClock
from service_kit.destinations import Destinations
from service_kit.identity import Rates
from service_kit.keyring import Keyrings
from service_kit.outgoing import Outgoing, Resolver, open_tls
from service_kit.process import run
from service_kit.server import Running, is_loopback
from service_kit.settings import Settings, SettingsError
from service_kit.telemetry import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Gateway:
    """All parts of one gateway, wired, not yet listening."""

    settings: Settings
    context: Context
    app: Application
    server: WebServer
    store: BlobStore
    tls: bool
    resolver: Resolver
    sending: Sending
    revocations: Revocations

    async def start(self) -> Running:
        """Listen. Raises what `start` raises."""
        try:
            await self.server.start()
        except BaseException:
            await self._close()
            raise
        self.sending.sender.start()
        self.revocations.start()
        host = self.settings.gateway.listen.rpartition(":")[0]
        target = f"{host}:{self.server.port}"
        log.info("listening", service="gateway", target=target, tls=self.tls)
        return Running("gateway", target, self.stop)

    async def stop(self) -> None:
        """End the streams, let other requests finish, and close everything."""
        # Streams would never end by themselves; their clients come back, to another gateway if there is one.
        self.context.closing.set()
        await self.server.stop()
        await self.revocations.stop()
        await self.context.feeds.close()
        await self.context.identities.close()
        await self._close()
        log.info("stopped", service="gateway")

    async def _close(self) -> None:
        await self.sending.close()
        self.resolver.close()
        await self.context.backends.close()
        await self.store.close()


async def start(settings: Settings, near: channels.Near = channels.NOBODY_NEAR) -> Running:
    """Start the gateway. It serves as soon as this returns, whether or not the services behind it are up yet.

    Raises:
        SettingsError: the settings would open it to others without TLS, or TLS cannot be set up.
        FailedPrecondition: the address is taken.
    """
    return await compose(settings, near).start()


def compose(settings: Settings, near: channels.Near = channels.NOBODY_NEAR) -> Gateway:
    """Wire everything. Needs a running event loop. Servers that are `near` are called without gRPC.

    Raises:
        SettingsError: the settings would open the gateway to others without TLS, or one cannot be used.
    """
    tls = _check(settings)
    clock = SystemClock()
    backends = _connect(settings, near)
    timeout = settings.gateway.request_timeout
    resolver = Resolver()
    rings = Keyrings(settings.keys_dir)
    context = _context(settings, backends, rings, resolver, clock, tls=tls)
    store = open_store(settings)
    keys = rings.media_verifier(clock)
    redirect = settings.blobs.redirect and bool(store.origin)
    limits = Limits(read_timeout=timeout)
    loopback = is_loopback(settings.gateway.listen)
    table = RouteTable(routes())
    media = Media(store, keys, clock, redirect=redirect)
    calls = Calls(backends, table.routes, timeout)
    context.closing.tell(calls.watches.close)
    app = Application(
        context=context,
        table=table,
        health=Health(backends.all, clock),
        media=media,
        downloads=Downloads(context, table.routes, store, keys),
        pages=Pages(settings.core.public_url, *([store.origin] if redirect else [])),
        edge=make_edge(settings.core.public_url, loopback=loopback, origins=settings.gateway.cors_origins, tls=tls),
        limits=limits,
        kit=Kit(
            context,
            calls,
            media,
            settings.core.public_url.rstrip("/"),
            Grants(lambda: rings.read_key_file("gateway.key"), rings.identity_verifier(clock), clock),
            Unanswered(clock),
        ),
        dialects=Dialects(DIALECTS),
    )
    server = WebServer(
        app,
        settings.gateway.listen,
        write_timeout=timeout,
        tls_cert=settings.gateway.tls_cert,
        tls_key=settings.gateway.tls_key,
    )
    limits.abort = server.abort
    sending = open_sending(settings, _outgoing(settings, resolver), clock, RENDERERS, near)
    revocations = Revocations(sending.router, context.identities, (context.feeds, calls.watches), timeout)
    return Gateway(settings, context, app, server, store, tls, resolver, sending, revocations)


def _context(
    settings: Settings, backends: Backends, rings: Keyrings, resolver: Resolver, clock: Clock, *, tls: bool
) -> Context:
    gateway, closing = settings.gateway, Closing()
    verifier = rings.identity_verifier(clock)
    rates = Rates(gateway.requests_per_minute_per_key, gateway.requests_per_minute_per_owner)
    return Context(
        backends=backends,
        identities=Identities(
            lambda key: backends.exchange_key(key, gateway.request_timeout), clock, keys_of=partial(keys_of, verifier)
        ),
        clock=clock,
        request_timeout=gateway.request_timeout,
        max_body_bytes=gateway.max_body_bytes,
        secure_cookies=tls or settings.core.public_url.startswith("https:"),
        rates=RateLimits(verifier, Buckets(clock), rates),
        references=_references(settings, backends, resolver, clock),
        streams=OpenStreams(verifier, gateway.event_streams_per_owner, closing),
        feeds=Feeds(backends, gateway.request_timeout),
        closing=closing,
    )


def _check(settings: Settings) -> bool:
    """Return whether TLS is on.

    Raises:
        SettingsError: the gateway would be open to others without TLS, or only one half of a certificate is named.
    """
    gateway = settings.gateway
    if bool(gateway.tls_cert) != bool(gateway.tls_key):
        raise SettingsError("gateway.tls_cert and gateway.tls_key belong together: set both or none.")
    tls = bool(gateway.tls_cert)
    if not tls and not is_loopback(gateway.listen):
        if not gateway.insecure:
            raise SettingsError(
                f"The gateway would listen at {gateway.listen}, beyond this machine, without TLS: API keys could be "
                "read on the way. Keep it at 127.0.0.1, set gateway.tls_cert and gateway.tls_key, or pass --insecure "
                "(gateway.insecure)."
            )
        log.warning("listening_without_tls", service="gateway", listen=gateway.listen)
    return tls


def _outgoing(settings: Settings, resolver: Resolver, *more: str) -> Outgoing:
    """Return the client for addresses that others name; `more` may be reached, too."""
    mine = settings.outgoing
    try:
        rule = Destinations([*mine.allow, *more], mine.ports, plain_http=mine.plain_http)
    except ValueError as error:
        raise SettingsError(f"outgoing.allow or outgoing.ports: {error}.") from None
    return Outgoing(rule, resolver, open_tls(mine.tls_ca))


def _references(settings: Settings, backends: Backends, resolver: Resolver, clock: Clock) -> References:
    mine, public = settings.outgoing, settings.core.public_url.rstrip("/")
    return References(
        backends.channel("asset"),
        _outgoing(settings, resolver),
        _outgoing(settings, resolver, *_own_host(public)),
        f"{public}/media/",
        Keyrings(settings.keys_dir).identity_verifier(clock),
        ReferenceLimits(mine.max_fetch_bytes, mine.fetch_timeout, mine.fetches),
    )


def _own_host(public_url: str) -> list[str]:
    """Return the gateway's own address for clients, as an entry of `outgoing.allow`.

    Raises:
        SettingsError: it is neither http nor https.
    """
    parts = urlsplit(public_url)
    ports = {"http": 80, "https": 443}
    if parts.scheme not in ports:
        raise SettingsError(f"core.public_url is {public_url!r}: it must begin with http:// or https://.")
    if parts.hostname is None or ":" in parts.hostname:
        return []
    return [f"{parts.hostname}:{parts.port or ports[parts.scheme]}"]


def _connect(settings: Settings, near: channels.Near) -> Backends:
    gateway = settings.gateway
    targets = {"router": gateway.router_target, "asset": gateway.asset_target, "library": gateway.library_target}
    router, asset, library = (
        # Without the library everything but saving works.
        Backend(name, channels.connect_bare(target, near=near), required=name != "library")
        for name, target in targets.items()
    )
    return Backends(router, asset, library)


if __name__ == "__main__":
    run(start)
