"""The table: for each RPC that any user may call, requests that name what somebody else has.

`Of("job")` stands for an id: once for Ann's, once for one that never existed. An RPC that names nothing of anybody's is
told in `NAMES_NOTHING`, with the request that is tried all the same: its reply must hold nothing of Ann's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Of:
    """The id of a thing that Ann has, or of one that never existed."""

    thing: str


@dataclass(frozen=True)
class Bobs:
    """The id of Bob's own item."""


Fields = dict[str, Any]

# What changes something comes after what only looks, so that Ann can be asked the same at the end.
CASES: dict[str, list[Fields]] = {
    "RouterService.GetJob": [{"job_id": Of("job")}],
    "RouterService.WatchJob": [{"job_id": Of("job")}],
    "RouterService.ListJobs": [{"after_job_id": Of("job")}],
    "WebhookService.ListWebhookDeliveries": [{"job_id": Of("job")}],
    "WebhookService.RedeliverWebhook": [{"delivery_id": Of("delivery")}],
    "AssetService.GetAsset": [{"asset_id": Of("asset")}, {"asset_id": Of("output")}],
    "AssetService.ListAssets": [{"job_id": Of("job")}],
    "UploadService.GetUpload": [{"upload_id": Of("upload")}],
    "UploadService.DescribeImport": [{"import_key": Of("import")}],
    "LibraryService.GetItem": [{"item_id": Of("item")}],
    "LibraryService.GetRecipe": [{"item_id": Of("item")}],
    "LibraryService.ListItems": [{"item_ids": [Of("item")]}, {"collection_id": Of("collection")}],
    "LibraryService.CountItems": [{"collection_id": Of("collection")}],
    "RouterService.GenerateContent": [
        {
            "prompt": "x",
            "model": "sdxl",
            "format": "image",
            "reference_images": [{"asset_id": Of("asset"), "kind": "init"}],
        }
    ],
    "LibraryService.CopyToWorkspace": [{"item_ids": [Of("item")]}],
    "LibraryService.SaveToLibrary": [{"asset_ids": [Of("asset")]}, {"asset_ids": [Of("output")]}],
    "AssetService.ExtendExpiry": [{"asset_ids": [Of("asset"), Of("output")]}],
    "LibraryService.UpdateItem": [{"item_id": Of("item"), "title": "changed"}],
    "LibraryService.ChangeItems": [
        {"item_ids": [Of("item")], "add_tags": ["changed"]},
        {"item_ids": [Bobs()], "add_to_collection_id": Of("collection")},
        {"item_ids": [Bobs()], "remove_from_collection_id": Of("collection")},
        {"item_ids": [Of("item")], "move": "trash"},
    ],
    "LibraryService.RenameCollection": [{"collection_id": Of("collection"), "name": "changed"}],
    "LibraryService.DeleteCollection": [{"collection_id": Of("collection")}],
    "UploadService.AppendUpload": [{"upload_id": Of("upload"), "offset": 0}],
    "UploadService.CompleteUpload": [{"upload_id": Of("upload")}],
    "UploadService.CancelUpload": [{"upload_id": Of("upload")}],
    "RouterService.CancelJob": [{"job_id": Of("job")}],
    "RouterService.DeleteJob": [{"job_id": Of("job")}],
    "LibraryService.ClearAssets": [{"asset_ids": [Of("asset")]}],
    "LibraryService.ClearJob": [{"job_id": Of("job")}],
    "AssetService.DiscardAsset": [{"asset_id": Of("asset")}],
    "AssetService.DiscardAssets": [{"asset_ids": [Of("output")]}],
    "LibraryService.DeleteItem": [{"item_id": Of("item")}, {"item_id": Of("item"), "permanently": True}],
}

NAMES_NOTHING: dict[str, list[Fields]] = {
    "RouterService.ListJobs": [{}, {"after_job_id": Of("job")}, {"after_job_id": Of("job"), "oldest_first": True}],
    "RouterService.ListModels": [{}],
    "WebhookService.ListWebhookDeliveries": [{}],
    "WebhookService.GetWebhookSecret": [{}],
    "WebhookService.RotateWebhookSecret": [{}],
    "RouterService.WatchJobs": [{}],
    "AssetService.ListAssets": [{}],
    "AssetService.WatchAssets": [{}],
    "UploadService.CreateUpload": [{}, {"import_key": Of("import")}],
    "UploadService.BeginUpload": [{"size_bytes": 3, "sha256": "0" * 64}],
    "LibraryService.ListItems": [{}, {"trashed": True}, {"query": "anns"}, {"tags": ["anns-tag"]}],
    "LibraryService.CountItems": [{}, {"query": "anns"}, {"tags": ["anns-tag"]}],
    "LibraryService.ListCollections": [{}],
    "LibraryService.CreateCollection": [{"name": "anns-shelf"}],
    "LibraryService.WatchItems": [{}],
    "LibraryService.ClearWorkspace": [{}],
    "IdentityService.GetIdentity": [{}],
    "IdentityService.CreateSignInCode": [{}],
}

# What is idempotent and has nothing to say: even the owner is told the same of what never existed.
# Behind her only job there is none.
SAYS_NOTHING = {"LibraryService.DeleteCollection", "RouterService.ListJobs"}

# What goes on where another page ended, with what it takes to have two pages.
PAGES: dict[str, Fields] = {
    "AssetService.ListAssets": {},
    "LibraryService.ClearWorkspace": {},
    "LibraryService.ListItems": {},
    "RouterService.ListJobs": {},
    "WebhookService.ListWebhookDeliveries": {},
}

# What goes on after a cursor.
CURSORS: dict[str, Fields] = {
    "RouterService.WatchJob": {"job_id": Of("job")},
    "RouterService.WatchJobs": {},
    "AssetService.WatchAssets": {},
    "LibraryService.WatchItems": {},
}

# Who may call what is not for every user: changed on purpose, or not at all.
ROLES: dict[str, set[str]] = {
    "admin": {
        "AssetService.EraseOwner",
        "AssetService.SweepBlobs",
        "IdentityService.CreateKey",
        "IdentityService.GetOwnerLimits",
        "IdentityService.ListKeys",
        "IdentityService.PutOwnerLimits",
        "IdentityService.RevokeKey",
        "IdentityService.UpdateKey",
        "LibraryService.EraseOwner",
        "LibraryService.SweepBlobs",
        "RouterService.DeleteModel",
        "RouterService.EraseOwner",
        "RouterService.ListWorkers",
        "RouterService.PutModel",
    },
    "lease": {
        "UploadService.CollectUpload",
        "UploadService.FinishUpload",
        "UploadService.ReadReference",
        "UploadService.ReadReferences",
        "UploadService.StartUpload",
        "UploadService.UploadOutput",
        "UploadService.UploadOutputs",
        "UploadService.WriteUpload",
    },
    "open": {
        "IdentityService.ExchangeKey",
        "IdentityService.ExchangeSignInCode",
    },
    "service": {
        "AssetControlService.ConfirmHold",
        "AssetControlService.CopyItem",
        "AssetControlService.MarkManySaved",
        "AssetControlService.MarkSaved",
        "AssetControlService.ReleaseHold",
        "AssetControlService.Settle",
        "AssetControlService.SettleJobs",
        "AssetControlService.TakeHold",
        "IdentityService.CheckKey",
        "IdentityService.ListRevokedKeys",
        "WebhookService.LeaseDeliveries",
        "WebhookService.ReportDeliveries",
    },
    "work": {
        "WorkerService.Work",
    },
}

# Routes that are no RPC's, and what of Ann's they could show. The rest shows nothing of anybody's: tests/gateway.
FIXED: dict[str, list[Fields]] = {
    "/v1/events": [{}],
    "/v1/items.zip": [{"item_ids": [Of("item")]}, {"collection_id": Of("collection")}],
    "/media/{bucket}/{key}": [],
    "/v1/health": [],
    "/openapi.json": [],
}
