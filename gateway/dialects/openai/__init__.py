"""OpenAI's API under `/openai/v1`."""

from __future__ import annotations

from gateway.dialects.dialect import Dialect
from gateway.dialects.openai import chat, images, models, responses, videos, webhooks
from gateway.dialects.openai.described import DESCRIBED, ERROR
from gateway.dialects.openai.errors import error_body, error_headers

OPENAI = Dialect(
    name="openai",
    title="OpenAI",
    prefixes=("/openai",),
    endpoints=images.ENDPOINTS + videos.ENDPOINTS + chat.ENDPOINTS + responses.ENDPOINTS + models.ENDPOINTS,
    error_body=error_body,
    render=webhooks.render,
    error_schema=ERROR,
    described=DESCRIBED,
    error_headers=error_headers,
)
