"""Keeps a worker connected: exchanges its key, opens sessions one after another, and knows which refusals are final."""

from __future__ import annotations

import asyncio
import contextlib
import random

import grpc

from atelier.identity.v1 import identity_service_pb2
from atelier.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from atelier.worker.v1.worker_service_pb2_grpc import WorkerServiceStub
from atelier_worker.dial import dial
from atelier_worker.holdings import Holdings
from atelier_worker.outbox import Outbox
from atelier_worker.session import Introduction, Session, SessionLost
from service_kit.ids import new_id
from service_kit.rpc_errors import from_rpc_error
from service_kit.secret import Secret
from service_kit.telemetry import get_logger

_EXCHANGE_LIMIT_S = 10.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_TOKEN_REFUSALS = 3
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

log = get_logger(__name__)


class Refused(Exception):
    """The router will not have this worker; the message is a sentence for the operator."""


class Connection:
    """The worker's link to its router, over one channel."""

    def __init__(
        self, target: str, key: Secret, introduction: Introduction, holdings: Holdings, outbox: Outbox
    ) -> None:
        """Prepare to connect to host:port; `run` does."""
        self._target = target
        self._key = key
        self._introduction = introduction
        self._holdings = holdings
        self._outbox = outbox
        self._session: Session | None = None
        self._leaving = asyncio.Event()
        self._reachable = True
        self._token_refusals = 0

    async def run(self) -> None:
        """Stay connected until `leave`.

        Raises:
            Refused: the key is wrong, or the router does not take such a worker.
        """
        pause_s = _FIRST_PAUSE_S
        async with dial(self._target) as channel:
            while not self._leaving.is_set():
                if await self._hold_session(channel):
                    pause_s = _FIRST_PAUSE_S
                with contextlib.suppress(TimeoutError):
                    jitter = random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
                    await asyncio.wait_for(self._leaving.wait(), pause_s * jitter)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def leave(self) -> None:
        """Have `run` return soon."""
        self._leaving.set()
        if self._session is not None:
            self._session.leave()

    async def _hold_session(self, channel: grpc.aio.Channel) -> bool:
        """Hold one session to its end. Returns whether there was one."""
        session: Session | None = None
        try:
            token = await self._exchange_key(channel)
            metadata = (("authorization", f"Bearer {token}"), ("x-request-id", new_id()))
            call = WorkerServiceStub(channel).Work(metadata=metadata)
            session = self._session = Session(call, self._introduction, self._holdings, self._outbox)
            await session.run()
        except grpc.aio.AioRpcError as error:
            self._judge(error)
        except SessionLost as error:
            log.warning("session_lost", reason=str(error))
        finally:
            self._session = None
        welcomed = session is not None and session.welcomed
        if welcomed:
            self._reachable, self._token_refusals = True, 0
        return welcomed

    async def _exchange_key(self, channel: grpc.aio.Channel) -> str:
        request = identity_service_pb2.ExchangeKeyRequest(secret=self._key.reveal())
        try:
            reply = await IdentityServiceStub(channel).ExchangeKey(request, timeout=_EXCHANGE_LIMIT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise Refused(f"The router at {self._target} does not know the worker's key.") from error
            raise
        return reply.identity_token

    def _judge(self, error: grpc.aio.AioRpcError) -> None:
        """Log a session's end, or raise when there is no use in another one."""
        code = error.code()
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise Refused(f"What answers at {self._target} is no Atelier router.") from error
        if code is grpc.StatusCode.UNAUTHENTICATED:
            self._token_refusals += 1
        if code in _FINAL_CODES or self._token_refusals >= _TOKEN_REFUSALS:
            raise Refused(
                f"The router at {self._target} refuses this worker: {from_rpc_error(error).message}"
            ) from error
        if self._reachable:
            log.warning(
                "router_unreachable", target=self._target, code=code.name.lower(), then="trying again until it answers"
            )
        self._reachable = False
