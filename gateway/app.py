"""The ASGI application: finds the handler of a request, and answers whatever goes wrong in the one native shape."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gateway.context import Context
from gateway.dialects.call import Kit
from gateway.dialects.call import serve as serve_dialect
from gateway.dialects.dialect import Dialect, Dialects
from gateway.downloads import Downloads
from gateway.edge import Edge
from gateway.events import SOURCES, serve_events
from gateway.health import Health
from gateway.http import ClientGone, Exchange, Handler, Limits, Receive, Reply, Send
from gateway.http_rules import RouteTable
from gateway.media import Media
from gateway.openapi import serve_document
from gateway.pages import PREFIX, Pages
from gateway.rpc import serve_rpc
from gateway.status import HttpProblem, error_reply, malformed, method_not_allowed, unknown_route
from service_kit.errors import AtelierError, Internal
from service_kit.ids import new_id
from service_kit.interceptors import REQUEST_ID, serving_request
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_GET = ("GET", "HEAD")
_MEDIA = "media"
EVENTS = "/v1/events"
ITEMS_ZIP = "/v1/items.zip"
_FIXED_METHODS = {EVENTS: ("GET",), ITEMS_ZIP: ("GET", "POST")}

OPEN_ROUTES = ("/v1/health", "/healthz", "/openapi.json", "/docs", "/", "/console/{path}", "/media/{bucket}/{key}")
"""What needs no identity, besides the RPCs that the contracts declare open."""


@dataclass(slots=True)
class Application:
    """Everything that the gateway serves."""

    context: Context
    table: RouteTable
    health: Health
    media: Media
    downloads: Downloads
    pages: Pages
    edge: Edge
    limits: Limits
    kit: Kit
    dialects: Dialects
    fixed: dict[str, Handler] = field(default_factory=dict)
    """Hand-written routes, by their whole path. They take GET and HEAD, unless it says otherwise above."""

    def __post_init__(self) -> None:
        """Add the hand-written routes."""
        watches = {
            name: route for name, path in SOURCES.items() for route in self.table.routes if route.grpc_path == path
        }
        self.fixed["/v1/health"] = self.fixed["/healthz"] = self.health.serve
        self.fixed[EVENTS] = partial(serve_events, self.context, watches)
        self.fixed[ITEMS_ZIP] = self.downloads.serve
        self.fixed["/openapi.json"] = serve_document
        for path, name in {"/": "index.html", "/docs": "docs.html"}.items():
            if self.pages.has(name):
                self.fixed[path] = partial(self.pages.serve, path=name)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request; anything but HTTP is not spoken here."""
        if scope["type"] != "http":
            raise ValueError(f"the gateway does not speak {scope['type']}")
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id()
        exchange = Exchange(scope, receive, send, request_id=request_id, limits=self.limits)
        with serving_request(request_id):
            try:
                stream = await self._answer(exchange)
                if stream is not None:
                    await self._stream(stream, exchange)
            except ClientGone:
                log.info("client_gone", request_id=request_id, path=scope["path"])
                await exchange.wait_gone()

    async def _stream(self, stream: Callable[[], Awaitable[None]], exchange: Exchange) -> None:
        try:
            await stream()
        except ClientGone:
            raise
        except Exception:
            log.exception("request_fault", request_id=exchange.request_id, path=exchange.scope["path"])
            self.limits.abort(exchange.scope)
            await exchange.wait_gone()

    async def _answer(self, exchange: Exchange) -> Callable[[], Awaitable[None]] | None:
        """Answer; or return what writes the response, when the answer has no end yet."""
        exchange.common_headers = {REQUEST_ID: exchange.request_id, **self.edge.common_headers(exchange)}
        dialect = self.dialects.of(exchange.scope["path"])
        refuse = error_reply if dialect is None else dialect.error_reply
        try:
            reply = await self._serve(exchange, dialect)
        except (AtelierError, HttpProblem) as problem:
            reply = refuse(problem, exchange.request_id)
            self._log(problem, exchange)
        except ClientGone:
            raise
        except Exception:
            log.exception("request_fault", request_id=exchange.request_id, path=exchange.scope["path"])
            reply = refuse(Internal(), exchange.request_id)
        if exchange.started or reply is None:
            if reply is not None:
                # The status has gone out already: only a broken connection can tell that the rest is missing.
                self.limits.abort(exchange.scope)
                await exchange.wait_gone()
            return None
        if reply.stream is not None:
            return reply.stream
        if exchange.body_pending:
            await exchange.drain()
        await exchange.reply(reply)
        return None

    async def _serve(self, exchange: Exchange, dialect: Dialect | None) -> Reply | None:
        refused = self.edge.check(exchange)
        if refused is not None:
            return refused
        segments = exchange.segments
        if segments is None:
            raise malformed("The path is not percent-encoded UTF-8.")
        if dialect is not None:
            return await serve_dialect(self.kit, dialect, exchange, segments)
        handler = self._handler(exchange, segments)
        return await handler(exchange)

    def _handler(self, exchange: Exchange, segments: list[str]) -> Handler:
        """Return what serves the path. Raises HttpProblem or NotFound when nothing does."""
        method, path = exchange.method, "/" + "/".join(segments)
        by_get = self._fixed(path, segments)
        if by_get is not None:
            methods = _FIXED_METHODS.get(path, _GET)
            if method in methods:
                return by_get
            raise method_not_allowed(method, path, list(methods))
        found = self.table.find(method, segments)
        if found is None and method == "HEAD":
            found = self.table.find("GET", segments)
            if found is not None and found[0].method.server_streaming:
                found = None
        if found is not None:
            exchange.path_values = found[1]
            return partial(serve_rpc, self.context, found[0])
        allowed = self.table.methods(segments)
        if allowed:
            raise method_not_allowed(method, path, allowed)
        raise unknown_route(method, path)

    def _fixed(self, path: str, segments: list[str]) -> Handler | None:
        if path in self.fixed:
            return self.fixed[path]
        if segments[0] == _MEDIA and len(segments) > 2:
            return partial(self.media.serve, bucket=segments[1], key="/".join(segments[2:]))
        if segments[0] == PREFIX and self.pages.has("/".join(segments[1:])):
            return partial(self.pages.serve, path="/".join(segments[1:]))
        return None

    def _log(self, problem: AtelierError | HttpProblem, exchange: Exchange) -> None:
        error = problem.error if isinstance(problem, HttpProblem) else problem
        write = log.warning if isinstance(error, Internal) else log.info
        write(
            "request_refused",
            request_id=exchange.request_id,
            method=exchange.method,
            path=exchange.scope["path"],
            reason=error.reason.value,
            message=error.message,
        )
