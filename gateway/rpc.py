"""Serves the routes that stand in the contracts: one request, one RPC."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import grpc

from atelier.identity.v1 import identity_service_pb2
from gateway import requests, streams
from gateway.backends import Metadata, metadata
from gateway.context import Context
from gateway.http import Exchange, Reply
from gateway.http_rules import RpcRoute
from gateway.identity import session_cookie
from gateway.render import to_bytes
from gateway.status import body_too_large, of_rpc
from gateway.uploads import serve_upload
from gateway.watching import serve_watch
from service_kit.idempotency import RETRY_COUNT

_COUNT = re.compile(r"[1-9][0-9]{0,5}")


async def serve_rpc(context: Context, route: RpcRoute, exchange: Exchange) -> Reply | None:
    """Serve a route of the contracts. The identity is asked for before anything of the body is read.

    Raises:
        AtelierError: the request is refused, here or by the service.
    """
    access = _nobody(exchange) if route.open else context.access(exchange)
    # A stream asks again when it begins, from the cache: so nobody without an identity makes us read a body.
    entries = await access()
    if route.method.client_streaming:
        return await serve_upload(context, route, exchange, entries)
    body = await exchange.body(context.max_body_bytes, body_too_large)
    request = requests.build(route, exchange.path_values, exchange.query_string, body, exchange.headers)
    if route.method.server_streaming:
        return await serve_watch(context, route, exchange, request, access)
    try:
        answer = await context.backends.unary(
            route, request, (*entries, *_retries(exchange.headers)), context.request_timeout
        )
    except grpc.RpcError as error:
        raise of_rpc(error) from error
    headers = {"content-type": "application/json", "cache-control": "no-store", **_extra_headers(context, answer)}
    return Reply(200, headers, to_bytes(answer))


def _retries(headers: Mapping[str, str]) -> Metadata:
    """Return that a client says it has sent this before, in our own words or in those of its SDK."""
    said = (headers.get(name, "") for name in (RETRY_COUNT, "x-stainless-retry-count"))
    return tuple((RETRY_COUNT, count) for count in said if _COUNT.fullmatch(count))[:1]


def _nobody(exchange: Exchange) -> streams.Access:
    async def make() -> Metadata:
        return metadata(exchange.request_id)

    return make


def _extra_headers(context: Context, answer: Any) -> dict[str, str]:
    if not isinstance(answer, identity_service_pb2.ExchangeSignInCodeResponse):
        return {}
    expires_at = answer.key.expires_at.ToDatetime(UTC) if answer.key.HasField("expires_at") else None
    cookie = session_cookie(answer.secret, expires_at, context.clock.now(), secure=context.secure_cookies)
    return {"set-cookie": cookie}
