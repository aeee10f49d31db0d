"""A gRPC server as every service runs it: interceptors, health, keepalive, limits, a graceful end."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from service_kit.capabilities import Capabilities
from service_kit.clock import Clock, SystemClock
from service_kit.errors import FailedPrecondition
from service_kit.health import HealthBoard, HealthServicer
from service_kit.identity import IdentityVerifier
from service_kit.in_process.rpc import MAX_MESSAGE_BYTES
from service_kit.in_process.server import InProcessServer
from service_kit.interceptors import (
    IDLE_LIMIT,
    UNARY_LIMIT,
    Authentication,
    Interceptor,
    Layer,
    Limits,
    identify_request,
    log_access,
    translate_errors,
)
from service_kit.tasks import in_time
from service_kit.telemetry import get_logger

Registration = tuple[Callable[[Any, Any], None], object]
"""The generated `add_…_to_server` and the servicer to add."""

log = get_logger(__name__)
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Without this a client that pings more often than every five minutes is thrown out.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # What a sender may have on its way while nobody reads it. By itself gRPC lets that grow with the speed of the line,
    # and a busy machine is slow to read: dozens of megabytes for each stream. This is 20 MiB/s at 100 ms.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 2 << 20),
    # A second process on the same port must fail, not share it.
    ("grpc.so_reuseport", 0),
]
_MAX_CONCURRENT_RPCS = 10_000
# gRPC's own part of a stop, once every call was cancelled.
_CLOSE_LIMIT_S = 3.0


@dataclass(frozen=True, slots=True)
class Running:
    """A part that has been started: its name, where it is reached as host:port, and how it is stopped."""

    name: str
    target: str
    stop: Callable[[], Awaitable[None]]
    near: InProcessServer | None = None
    """Serves the calls of its own process, where it may."""


class GrpcServer:
    """One service's gRPC server."""

    def __init__(
        self,
        name: str,
        *,
        listen: str,
        servicers: Sequence[Registration],
        verifier: IdentityVerifier,
        health: HealthBoard,
        capabilities: Capabilities | None = None,
        reflection: bool = False,
        insecure: bool = False,
        grace: timedelta = timedelta(seconds=5),
        unary_limit: timedelta = UNARY_LIMIT,
        idle_limit: timedelta = IDLE_LIMIT,
        clock: Clock | None = None,
    ) -> None:
        """Prepare a server; nothing listens before `start`.

        Args:
            name: the service, for messages.
            listen: host:port; port 0 takes any free one.
            servicers: pairs of the generated `add_…_to_server` and a servicer.
            verifier: of identity tokens.
            health: what the health service answers from.
            capabilities: what verifies lease tokens, where RPCs take them.
            reflection: whether to answer the reflection protocol.
            insecure: whether an address beyond loopback is allowed; there is no TLS here.
            grace: how long calls may go on after `stop`.
            unary_limit: how long a unary call may take.
            idle_limit: how long an upload may pause.
            clock: decides when the tokens of streams expire.
        """
        self._name = name
        self._listen = listen
        self._servicers = servicers
        self._health = health
        self._reflection = reflection
        self._insecure = insecure
        self._grace = grace
        self._hooks: list[Callable[[], Awaitable[None]]] = []
        self._limits = Limits(clock or SystemClock(), unary_limit)
        layers: list[Layer] = [
            identify_request,
            log_access,
            translate_errors,
            Authentication(verifier, capabilities),
            self._limits,
        ]
        self._interceptor = Interceptor(layers, idle_limit)
        self._server: grpc.aio.Server | None = None
        self.near = InProcessServer(self._interceptor)
        """Serves the calls of this process, from `start` to `stop` as the port does."""
        self.port = 0

    @property
    def target(self) -> str:
        """Where clients on this machine reach the server, once it has started."""
        return f"{_host(self._listen)}:{self.port}"

    def on_drain(self, hook: Callable[[], Awaitable[None]]) -> None:
        """Have something awaited when the server stops, while its streams still work."""
        self._hooks.append(hook)

    async def start(self) -> int:
        """Listen. Returns the port.

        Raises:
            FailedPrecondition: the address is taken, is not one of this machine, or is beyond loopback without leave.
        """
        self._check_address()
        server = grpc.aio.server(
            interceptors=[self._interceptor], options=_OPTIONS, maximum_concurrent_rpcs=_MAX_CONCURRENT_RPCS
        )
        recorder: Any = _Recorder(server, self.near)
        for add, servicer in self._servicers:
            add(servicer, recorder)
        names = tuple(recorder.names)
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(self._health), recorder)
        if self._reflection:
            from grpc_reflection.v1alpha import reflection

            reflection.enable_server_reflection([*names, "grpc.health.v1.Health", reflection.SERVICE_NAME], server)
        try:
            self.port = server.add_insecure_port(self._listen)
        except RuntimeError:
            raise FailedPrecondition(
                f"{self._name} cannot listen at {self._listen}: the port is in use, or the address is not "
                "one of this machine. "
                f"Stop the other process, or choose another address with ATELIER_{self._name.upper()}_LISTEN."
            ) from None
        await server.start()
        self.near.start()
        self._server = server
        self._health.start(names)
        log.info("listening", service=self._name, target=self.target)
        return self.port

    async def stop(self) -> None:
        """Say NOT_SERVING, run the hooks, end the streams of clients, and give the rest the grace to finish."""
        if self._server is None:
            return
        server, self._server = self._server, None
        self._health.drain()
        try:
            async with asyncio.timeout(self._grace.total_seconds()):
                outcomes = await asyncio.gather(*(hook() for hook in self._hooks), return_exceptions=True)
        except TimeoutError:
            log.warning("drain_incomplete", service=self._name)
        else:
            for fault in filter(None, outcomes):
                log.error("drain_fault", service=self._name, error=repr(fault))
        self._limits.drain()
        grace_s = self._grace.total_seconds()
        stopping = asyncio.gather(server.stop(grace_s), self.near.stop(grace_s))
        await in_time(stopping, grace_s + _CLOSE_LIMIT_S, f"the server of {self._name}")
        log.info("stopped", service=self._name)

    def _check_address(self) -> None:
        if is_loopback(self._listen):
            return
        if not self._insecure:
            raise FailedPrecondition(
                f"{self._name} would listen at {self._listen}, beyond this machine, without TLS. "
                "Keep it at 127.0.0.1, or set ATELIER_INSECURE=true if the network is yours alone."
            )
        log.warning("listening_without_tls", service=self._name, listen=self._listen)


def is_loopback(listen: str) -> bool:
    """Tell whether a host:port can be reached from this machine only."""
    host = _host(listen)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host(listen: str) -> str:
    return listen.rpartition(":")[0]


class _Recorder:
    """Stands in for the server while servicers are added, to learn their names and to serve them near, too."""

    def __init__(self, server: grpc.aio.Server, near: InProcessServer) -> None:
        self._server = server
        self._near = near
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self.names += [handler.service_name() for handler in handlers]
        self._server.add_generic_rpc_handlers(tuple(handlers))

    def add_registered_method_handlers(self, service_name: str, handlers: dict[str, Any]) -> None:
        self._server.add_registered_method_handlers(service_name, handlers)
        self._near.add(service_name, handlers)
