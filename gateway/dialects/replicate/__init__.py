"""Replicate's API under `/replicate/v1`."""

from __future__ import annotations

from gateway.dialects.dialect import Dialect
from gateway.dialects.replicate import catalogue, files, predictions, stream, webhooks
from gateway.dialects.replicate.answers import error_body, error_headers
from gateway.dialects.replicate.described import DESCRIBED, ERROR

REPLICATE = Dialect(
    name="replicate",
    title="Replicate",
    prefixes=("/replicate",),
    endpoints=(
        *predictions.ENDPOINTS,
        *stream.ENDPOINTS,
        *files.ENDPOINTS,
        *catalogue.ENDPOINTS,
        *webhooks.ENDPOINTS,
    ),
    error_body=error_body,
    render=webhooks.render,
    error_schema=ERROR,
    described=DESCRIBED,
    error_headers=error_headers,
    schemes=frozenset({"bearer", "token"}),
    marks_retries=False,
)
