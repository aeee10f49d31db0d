"""The dialects that the gateway speaks."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.dialects.dialect import Dialect
from gateway.dialects.fal import FAL
from gateway.dialects.openai import OPENAI
from gateway.dialects.replicate import REPLICATE
from gateway.webhooks.bodies import Renderer, native

DIALECTS: tuple[Dialect, ...] = (OPENAI, FAL, REPLICATE)

RENDERERS: Mapping[str, Renderer] = {"native": native, **{dialect.name: dialect.render for dialect in DIALECTS}}
"""What makes the bodies of webhooks, by the lower-case name of `WebhookDialect`."""
