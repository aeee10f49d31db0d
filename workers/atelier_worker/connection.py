"""Keeps a worker connected: exchanges its key, opens sessions one after another, and knows which refusals are final."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import grpc

from atelier.identity.v1 import identity_service_pb2
from atelier.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from atelier.worker.v1.worker_service_pb2_grpc import WorkerServiceStub
from atelier_worker.dial import dial
from atelier_worker.holdings import Holdings
from atelier_worker.outbox import Outbox
from atelier_worker.session import Introduction, Session, SessionLost
from atelier_worker.targets import Target, Targets
from service_kit.ids import new_id
from service_kit.rpc_errors import from_rpc_error
from service_kit.secret import Secret
from service_kit.tasks import woken
from service_kit.telemetry import get_logger

_EXCHANGE_LIMIT_S = 10.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_TOKEN_REFUSALS = 3
# Two workers of one name take their sessions from each other; after so many, one of them goes and says why.
_SESSIONS_LOST_TO_ANOTHER = 3
_UNDISPUTED_S = 60.0
_AGAIN_AFTER = timedelta(seconds=5)
_LONGEST_WAIT = timedelta(minutes=1)
# Answers that do not change by asking again.
_FINAL_CODES = frozenset(
    {
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)

_NEW_KEY = (
    "Name the file of a key that works with --key-file; an operator makes one with "
    "`atelier keys create --kind worker --owner NAME --out FILE`."
)

log = get_logger(__name__)


class Refused(Exception):
    """The router will not have this worker; the message is a sentence for the operator."""


class Connection:
    """The worker's link to the routers: one session at a time, with one of them."""

    def __init__(
        self, targets: Targets, key: Secret, introduction: Introduction, holdings: Holdings, outbox: Outbox
    ) -> None:
        """Prepare to connect; `run` does."""
        self._targets = targets
        self._key = key
        self._introduction = introduction
        self._holdings = holdings
        self._outbox = outbox
        self._session: Session | None = None
        self._dialled: tuple[Target, grpc.aio.Channel] | None = None
        self._leaving = asyncio.Event()
        self._disturbed = asyncio.Event()
        self._longest_pause_s = _LONGEST_PAUSE_S
        self._reachable = True
        self._token_refusals = 0
        self._superseded = 0
        self._told_to_wait_s = 0.0

    @property
    def connected(self) -> bool:
        """Whether a router has welcomed this worker and the session goes on."""
        return self._session is not None and self._session.welcomed

    async def run(self) -> None:
        """Stay connected until `leave`: when one router fails, the next address is tried; after all, there is a pause.

        Raises:
            Refused: the key is wrong, or the router does not take such a worker.
        """
        pause_s = _FIRST_PAUSE_S
        try:
            while not self._leaving.is_set():
                target = await self._targets.next()
                self._told_to_wait_s = 0.0
                if await self._hold_session(target):
                    pause_s = _FIRST_PAUSE_S
                await self._pause(pause_s if self._targets.round_over else _FIRST_PAUSE_S)
                if self._targets.round_over:
                    pause_s = min(pause_s * 2, self._longest_pause_s)
        finally:
            await self._hang_up()

    async def _pause(self, pause_s: float) -> None:
        """Wait a part of this time, all of what the router has asked for, or until `leave` or `hurry`."""
        jitter_s = min(pause_s, self._longest_pause_s) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        await woken(self._disturbed, self._told_to_wait_s + jitter_s)
        if not self._leaving.is_set():
            self._disturbed.clear()

    def hurry(self) -> None:
        """Have a router tried at once, and in short pauses from now on: something is to be said before we go."""
        self._longest_pause_s = _FIRST_PAUSE_S
        self._disturbed.set()

    def leave(self) -> None:
        """Have `run` return soon."""
        self._leaving.set()
        self._disturbed.set()
        if self._session is not None:
            self._session.leave()

    async def _channel(self, target: Target) -> grpc.aio.Channel:
        """Return the channel to a router, the last one if it goes there."""
        if self._dialled is None or self._dialled[0] != target:
            await self._hang_up()
            self._dialled = (target, dial(target.address, name=target.name))
        return self._dialled[1]

    async def _hang_up(self) -> None:
        if self._dialled is not None:
            await self._dialled[1].close()

    async def _hold_session(self, target: Target) -> bool:
        """Hold one session to its end. Returns whether there was one."""
        session: Session | None = None
        failure: grpc.aio.AioRpcError | None = None
        channel, began = await self._channel(target), asyncio.get_running_loop().time()
        try:
            token = await self._exchange_key(channel, target)
            metadata = (("authorization", f"Bearer {token}"), ("x-request-id", new_id()))
            call = WorkerServiceStub(channel).Work(metadata=metadata)
            session = self._session = Session(call, self._introduction, self._holdings, self._outbox)
            await session.run()
        except grpc.aio.AioRpcError as error:
            failure = error
        except SessionLost as error:
            log.warning("session_lost", worker_id=self._introduction.worker_id, reason=str(error))
        finally:
            self._session = None
        welcomed = session is not None and session.welcomed
        if welcomed:
            self._reachable, self._token_refusals = True, 0
        if failure is not None:
            # Last: that a router has gone which was there is said now, and not again when it cannot be dialled.
            self._judge(failure, target)
        if asyncio.get_running_loop().time() - began > _UNDISPUTED_S:
            self._superseded = 0
        return welcomed

    async def _exchange_key(self, channel: grpc.aio.Channel, target: Target) -> str:
        request = identity_service_pb2.ExchangeKeyRequest(secret=self._key.reveal())
        try:
            reply = await IdentityServiceStub(channel).ExchangeKey(request, timeout=_EXCHANGE_LIMIT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise Refused(f"The router at {target.address} does not know the worker's key. {_NEW_KEY}") from error
            raise
        return reply.identity_token

    def _judge(self, error: grpc.aio.AioRpcError, target: Target) -> None:
        """Log a session's end, or raise when there is no use in another one."""
        code, known = error.code(), from_rpc_error(error)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise Refused(
                f"What answers at {target.address} is no Atelier router: correct worker.connect (--connect HOST:PORT)."
            ) from error
        if code is grpc.StatusCode.UNAUTHENTICATED:
            self._token_refusals += 1
        if code is grpc.StatusCode.ABORTED:
            self._superseded += 1
        if (
            code in _FINAL_CODES
            or self._token_refusals >= _TOKEN_REFUSALS
            or self._superseded >= _SESSIONS_LOST_TO_ANOTHER
        ):
            raise Refused(f"The router at {target.address} refuses this worker: {known.message}") from error
        if code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED):
            waited = _AGAIN_AFTER if known.retry_after is None else min(known.retry_after, _LONGEST_WAIT)
            self._told_to_wait_s = waited.total_seconds()
            log.warning(
                "session_refused",
                worker_id=self._introduction.worker_id,
                target=target.address,
                reason=known.message,
                wait_s=self._told_to_wait_s,
            )
        elif self._reachable:
            log.warning(
                "router_unreachable",
                worker_id=self._introduction.worker_id,
                target=target.address,
                code=code.name.lower(),
                then="trying again until it answers",
            )
        self._reachable = False
