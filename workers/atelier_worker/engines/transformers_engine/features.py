"""What a chat model can be asked. Needs no library."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from atelier_worker.engines.features import OF_TEXTS, Row, row

CHAT = "causal language model with a chat template"

FEATURES: Mapping[str, Row] = MappingProxyType(
    {CHAT: row(OF_TEXTS, "This engine makes texts; pictures and videos are made by others.")}
)
