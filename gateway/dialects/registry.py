"""The dialects that the gateway speaks."""

from __future__ import annotations

from gateway.dialects.dialect import Dialect
from gateway.dialects.fal import FAL
from gateway.dialects.openai import OPENAI
from gateway.dialects.replicate import REPLICATE

DIALECTS: tuple[Dialect, ...] = (OPENAI, FAL, REPLICATE)
