"""fal's API under `/fal/queue`, `/fal/run`, `/fal/storage` and `/fal/proxy`."""

from __future__ import annotations

from gateway.dialects.dialect import Dialect
from gateway.dialects.fal import parts, queue, run, storage, webhooks
from gateway.dialects.fal.answers import error_body, error_headers
from gateway.dialects.fal.described import DESCRIBED, ERROR, PROXY
from gateway.dialects.fal.proxy import proxy_endpoints

_SERVED = (*queue.ENDPOINTS, *run.ENDPOINTS, *storage.ENDPOINTS, *parts.ENDPOINTS)
_PROXY = proxy_endpoints(_SERVED)

FAL = Dialect(
    name="fal",
    title="fal",
    prefixes=("/fal",),
    endpoints=(*_SERVED, *_PROXY),
    error_body=error_body,
    render=webhooks.render,
    error_schema=ERROR,
    described={**DESCRIBED, **{endpoint.serve: PROXY for endpoint in _PROXY}},
    error_headers=error_headers,
    schemes=frozenset({"key", "bearer"}),
    marks_retries=False,
)
