"""What the API answers, as frozen dataclasses.

States, kinds and formats are plain text, so that a value that this release does not know passes through. `raw` is the
JSON object as it came, with fields that are not listed here.
"""

from __future__ import annotations

from atelier_client.models.assets import (
    Asset,
    Described,
    EnhancedBy,
    Erased,
    ImportedFrom,
    Media,
    Provenance,
    Rendition,
    SweepFinding,
)
from atelier_client.models.base import Page
from atelier_client.models.generation import Failure, GenerationSettings, Lora, ReferenceImage, Warning
from atelier_client.models.items import ChangeResult, Collection, Item, ItemCount, ItemCounts, SaveResult
from atelier_client.models.jobs import (
    ENDED_STATES,
    ChatReply,
    Enhancement,
    Generated,
    Job,
    Output,
    Stage,
    Submitted,
    TokenUsage,
    Webhook,
)
from atelier_client.models.operation import (
    Health,
    Identity,
    Key,
    LoadedModel,
    Model,
    NewKey,
    SignInCode,
    WebhookDelivery,
    WebhookSecret,
    Worker,
)

__all__ = [
    "ENDED_STATES",
    "Asset",
    "ChangeResult",
    "ChatReply",
    "Collection",
    "Described",
    "EnhancedBy",
    "Enhancement",
    "Erased",
    "Failure",
    "Generated",
    "GenerationSettings",
    "Health",
    "Identity",
    "ImportedFrom",
    "Item",
    "ItemCount",
    "ItemCounts",
    "Job",
    "Key",
    "LoadedModel",
    "Lora",
    "Media",
    "Model",
    "NewKey",
    "Output",
    "Page",
    "Provenance",
    "ReferenceImage",
    "Rendition",
    "SaveResult",
    "SignInCode",
    "Stage",
    "Submitted",
    "SweepFinding",
    "TokenUsage",
    "Warning",
    "Webhook",
    "WebhookDelivery",
    "WebhookSecret",
    "Worker",
]
