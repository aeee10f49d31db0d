"""What happens around every RPC, unary and streaming alike, in one order: request id, log, errors, identity, limits.

Each concern is a layer: a function around the whole call, the iteration of a stream included.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from atelier.type.v1 import access_pb2
from service_kit.access import access_of
from service_kit.answering import behaviour, with_whole_beginning, write_all
from service_kit.capabilities import Capabilities, LeaseClaims, holding_lease
from service_kit.clock import Clock
from service_kit.errors import (
    AtelierError,
    DeadlineExceeded,
    ErrorReason,
    Internal,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from service_kit.identity import (
    AUTHORIZATION,
    LEASE_TOKEN,
    ON_BEHALF_OF,
    Caller,
    IdentityVerifier,
    Scope,
    acting_as,
    expired_identity,
    parse_on_behalf_of,
)
from service_kit.ids import new_id
from service_kit.rpc_errors import DETAILS_KEY, dependency_error, grpc_code, to_status
from service_kit.storage_errors import disk_full, is_full
from service_kit.telemetry import get_logger
from service_kit.validation import check_limits

REQUEST_ID = "x-request-id"
UNARY_LIMIT = timedelta(seconds=60)
IDLE_LIMIT = timedelta(seconds=60)
_ABORT_LIMIT_S = 5.0

log = get_logger(__name__)
_REQUEST_ID_SHAPE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SCOPES = {
    access_pb2.ACCESS_USE: Scope.USE,
    access_pb2.ACCESS_ADMIN: Scope.ADMIN,
    access_pb2.ACCESS_WORK: Scope.WORK,
    access_pb2.ACCESS_SERVICE: Scope.SERVICE,
}
_REMEDIES = {
    access_pb2.ACCESS_ADMIN: (
        " Use an operator's key, such as admin.key, which the first start wrote into the data folder's keys."
    ),
    access_pb2.ACCESS_WORK: (
        " Use a key of the kind worker: an operator makes one with `atelier keys create --kind worker --owner NAME`."
    ),
}
_POLLS = frozenset(
    (
        "/atelier.router.v1.WebhookService/LeaseDeliveries",
        "/atelier.identity.v1.IdentityService/ListRevokedKeys",
    )
)
_request_id: ContextVar[str] = ContextVar("atelier_request_id", default="")


def current_request_id() -> str:
    """Return the id of the request that is being served; empty outside of one."""
    return _request_id.get()


@contextlib.contextmanager
def serving_request(request_id: str) -> Iterator[None]:
    """Let `current_request_id()` answer with an id; for the interceptors, the gateway and tests."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


@dataclass(slots=True)
class ServerCall:
    """One RPC that is being served, as the layers see it."""

    method: str
    context: grpc.aio.ServicerContext[Any, Any]
    streams_out: bool
    unary: bool
    metadata: dict[str, str]
    request_id: str = ""
    code: str = "OK"
    caller: Caller | None = None
    lease: LeaseClaims | None = None
    started: float = field(default_factory=time.perf_counter)


Work = Callable[[], Awaitable[Any]]
"""What a layer is around: the next layer, and at last the handler. It returns the answer of a unary call."""
Layer = Callable[[ServerCall, Work], Awaitable[Any]]


async def identify_request(call: ServerCall, work: Work) -> Any:
    """Give the call an id, the client's own if it has a sane shape, and send it back in the trailing metadata."""
    wanted = call.metadata.get(REQUEST_ID, "")
    call.request_id = wanted if _REQUEST_ID_SHAPE.fullmatch(wanted) else new_id()
    call.context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
    with serving_request(call.request_id):
        return await work()


async def log_access(call: ServerCall, work: Work) -> Any:
    """Write one line when the call is over."""
    try:
        return await work()
    except asyncio.CancelledError:
        call.code = "CANCELLED"
        raise
    finally:
        # What is asked every second while nothing happens would bury the rest.
        asked_often = call.method in _POLLS and call.code == "OK"
        write = log.debug if asked_often or access_of(call.method) == access_pb2.ACCESS_OPEN else log.info
        write(
            "rpc_served",
            method=call.method,
            code=call.code,
            duration_ms=round((time.perf_counter() - call.started) * 1000, 1),
            request_id=call.request_id,
            owner=f"{call.caller.owner.tenant_id}/{call.caller.owner.owner_id}" if call.caller else "",
            key_id=call.caller.key_id if call.caller else "",
        )


async def translate_errors(call: ServerCall, work: Work) -> Any:
    """Turn what is raised into a status. Only domain errors speak to the client; of a fault it hears the request id."""
    try:
        return await work()
    except grpc.aio.AbortError:
        call.code = str(call.context.code())
        raise
    except AtelierError as error:
        known = error
    except grpc.RpcError as error:
        known = dependency_error(error)
        log.warning("dependency_failed", method=call.method, request_id=call.request_id, error=repr(error))
    except Exception as error:
        if is_full(error):
            known = disk_full()
            log.error("disk_full", method=call.method, request_id=call.request_id, error=repr(error))
        else:
            known = Internal()
            log.exception("rpc_fault", method=call.method, request_id=call.request_id)
    code = grpc_code(known)
    call.code = code.name
    details = ((DETAILS_KEY, to_status(known, call.request_id).SerializeToString()), (REQUEST_ID, call.request_id))
    try:
        async with asyncio.timeout(_ABORT_LIMIT_S):
            await call.context.abort(code, known.message, details)
    except TimeoutError:
        # The status waits behind what the other side does not read. It stays on its way; the call is over for us.
        raise asyncio.CancelledError from None


class Authentication:
    """The layer that knows who calls and whether they may, by the method's access option."""

    def __init__(self, verifier: IdentityVerifier, capabilities: Capabilities | None) -> None:
        """Verify identity tokens and, where the server takes them, lease tokens."""
        self._verifier = verifier
        self._capabilities = capabilities

    async def __call__(self, call: ServerCall, work: Work) -> Any:
        """Refuse the call, or let it run with its caller or its lease set."""
        access = access_of(call.method)
        if access == access_pb2.ACCESS_OPEN:
            return await work()
        if access == access_pb2.ACCESS_LEASE:
            call.lease = self._lease(call)
            with holding_lease(call.lease):
                return await work()
        call.caller = self._caller(call, access)
        with acting_as(call.caller):
            return await work()

    def _lease(self, call: ServerCall) -> LeaseClaims:
        token = call.metadata.get(LEASE_TOKEN)
        if not token or self._capabilities is None:
            raise Unauthenticated("This call needs a lease token.", ErrorReason.INVALID_LEASE)
        return self._capabilities.verify_lease(token)

    def _caller(self, call: ServerCall, access: access_pb2.Access.ValueType) -> Caller:
        scheme, _, token = call.metadata.get(AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("This call needs an identity token.", ErrorReason.MISSING_IDENTITY)
        caller = self._verifier.verify(token.strip())
        needed = _SCOPES.get(access)
        if needed is None or needed not in caller.scopes:
            remedy = _REMEDIES.get(access, "")
            raise PermissionDenied(
                f"This call needs the scope {needed or 'of nobody'}; a {caller.kind} key has not got it.{remedy}"
            )
        owner = call.metadata.get(ON_BEHALF_OF)
        return caller if owner is None else caller.acting_for(parse_on_behalf_of(owner))


class Limits:
    """The layer that ends what would go on too long: slow unary calls, streams of expired tokens or a draining server.

    A worker's stream outlives its token: the router looks at the key (`current_caller().key_id`) at every heartbeat.
    """

    def __init__(self, clock: Clock, unary_limit: timedelta = UNARY_LIMIT) -> None:
        """Give unary calls `unary_limit` at most, however late their own deadline is."""
        self._clock = clock
        self._unary_limit = unary_limit
        self._streams: set[asyncio.Timeout] = set()
        self._draining = False

    def drain(self) -> None:
        """End every stream but those of workers with UNAVAILABLE, so that clients reconnect elsewhere."""
        self._draining = True
        for stream in tuple(self._streams):
            stream.reschedule(asyncio.get_running_loop().time())

    async def __call__(self, call: ServerCall, work: Work) -> Any:
        """Let the call run as long as it may."""
        if not call.unary and not call.streams_out:
            return await work()  # an upload: it may take long, but not pause long; see `_checked`
        if access_of(call.method) == access_pb2.ACCESS_WORK:
            return await work()
        limit = self._limit_s(call)
        try:
            async with asyncio.timeout(limit) as scope:
                if call.streams_out:
                    self._streams.add(scope)
                return await work()
        except TimeoutError:
            if not scope.expired():
                raise
            raise self._reason(call) from None
        finally:
            self._streams.discard(scope)

    def _limit_s(self, call: ServerCall) -> float | None:
        if call.unary:
            return self._unary_limit.total_seconds()
        if self._draining:
            return 0
        expiring = call.caller or call.lease
        return None if expiring is None else max(0.0, (expiring.expires_at - self._clock.now()).total_seconds())

    def _reason(self, call: ServerCall) -> AtelierError:
        if call.unary:
            return DeadlineExceeded(f"The call took longer than {self._unary_limit.total_seconds():g} s.")
        if self._draining:
            return Unavailable("The service is stopping: reconnect.", retry_after=timedelta(seconds=1))
        return expired_identity()


class Interceptor(grpc.aio.ServerInterceptor):
    """Runs the layers around every RPC of a server."""

    def __init__(self, layers: Sequence[Layer], idle_limit: timedelta = IDLE_LIMIT) -> None:
        """Run `layers`, the first one outermost; end uploads of which nothing comes for `idle_limit`."""
        self._layers = tuple(layers)
        self._idle_limit = idle_limit
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler with the layers around it; None when the server has no such method."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        # gRPC decodes before it asks who calls, and answers bytes that are no message with the words of its own fault:
        # so requests come as bytes and are decoded within the layers.
        serializers = {"request_deserializer": None, "response_serializer": _encoder(handler.response_serializer)}
        decode = _decoder(handler.request_deserializer)
        streams_in, streams_out = bool(handler.request_streaming), bool(handler.response_streaming)
        answer = behaviour(handler)

        async def handle(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            if streams_in:
                request = _Decoded(request, decode)
                if not streams_out:
                    request = _checked(request, self._idle_limit)
            else:
                request = decode(request)
                check_limits(request)
            if streams_out:
                context = with_whole_beginning(context)
                return await write_all(answer(request, context), context)
            return await answer(request, context)

        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            call = ServerCall(method, context, streams_out, not streams_in and not streams_out, _metadata(context))
            work: Work = partial(handle, request, context)
            for layer in reversed(self._layers):
                work = partial(layer, call, work)
            return await work()

        if streams_out:
            make: Any = grpc.stream_stream_rpc_method_handler if streams_in else grpc.unary_stream_rpc_method_handler
        else:
            make = grpc.stream_unary_rpc_method_handler if streams_in else grpc.unary_unary_rpc_method_handler
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(serve, **serializers)
        return wrapped


def _decoder(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def decode(content: bytes) -> Any:
        try:
            return content if parse is None else parse(content)
        except DecodeError:
            raise InvalidArgument(
                "The request is not a message of this call: check that both sides use the same contracts.",
                ErrorReason.MALFORMED_REQUEST,
            ) from None

    return decode


def _encoder(write: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """Let a handler answer with a message that it has encoded itself: the library copies large fields several times."""

    def encode(answer: Any) -> bytes:
        return answer if write is None or isinstance(answer, bytes) else write(answer)

    return encode


class _Decoded:
    """The messages of a request stream. No generator: a reader that gives up waiting may go on to read."""

    def __init__(self, messages: AsyncIterator[bytes], decode: Callable[[bytes], Any]) -> None:
        self._stream = messages
        self._messages: AsyncIterator[bytes] | None = None
        self._decode = decode

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._messages is None:
            # Not before: what gRPC makes here complains when nobody reads, as when a call is refused at once.
            self._messages = aiter(self._stream)
        return self._decode(await anext(self._messages))


async def _checked(messages: AsyncIterator[Message], idle_limit: timedelta) -> AsyncIterator[Message]:
    """Pass the messages of an upload on: each within its limits, none later than `idle_limit` after the last."""
    while True:
        try:
            async with asyncio.timeout(idle_limit.total_seconds()):
                message = await anext(messages)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineExceeded(f"Nothing came for {idle_limit.total_seconds():g} s.") from None
        check_limits(message)
        yield message


def _metadata(context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    entries: Any = context.invocation_metadata() or ()
    return {key: value for key, value in entries if isinstance(value, str)}
