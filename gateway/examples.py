"""One request for every operation, as the documents show it. Tests send each of them.

Where a request names something that must exist, it has the sample id of its kind; a reader puts in an own one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JOB_ID = "0197d2a4-6c1e-7b5a-9f30-2d8e41c7a605"
ASSET_ID = "5a1f0c3e-8b7d-5e42-a6c9-13d7f0b2e894"
ITEM_ID = "0197d2a5-0b44-7c19-8e21-7f6a90d3c512"
COLLECTION_ID = "0197d2a6-4f0a-7d31-b2c8-90e1a4d57f63"
UPLOAD_ID = "0197d2a6-3f58-7d02-b1c4-5e9a7c60f21b"
DELIVERY_ID = "8d1f63c0-52ab-5c9e-9d47-70c2b6f4e1a3"
KEY_ID = "k3v9x2m7q4w8t5za"
KEY = "atl_k3v9x2m7q4w8t5za_your-secret"
CODE = "the-code-from-the-address"

PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000002000000020802000000fdd49a73000000164944415478da633c11a0c1c0c0c0e4c315c0c0c000"
    "00130401ea03eee2320000000049454e44ae426082"
)
"""A PNG of two by two pixels."""
DIGEST = hashlib.sha256(PICTURE).hexdigest()


@dataclass(frozen=True, slots=True)
class Example:
    """A request: what fills the path, the query and the body (JSON; or the bytes of a file, shown by its name)."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Any = None
    file: str = ""


EXAMPLES: Mapping[str, Example] = {
    "GenerateContent": Example(
        body={
            "prompt": "a lighthouse on a basalt cliff in a storm, long exposure, teal and slate",
            "model": "sdxl",
            "format": "image",
            "quantity": 2,
            "seed": 7,
            "aspect_ratio": "3:2",
        }
    ),
    "GetJob": Example(path={"job_id": JOB_ID}),
    "ListJobs": Example(query={"state": "succeeded", "page_size": 20}),
    "CancelJob": Example(path={"job_id": JOB_ID}, body={}),
    "DeleteJob": Example(path={"job_id": JOB_ID}),
    "WatchJob": Example(path={"job_id": JOB_ID}),
    "WatchJobs": Example(),
    "ListWebhookDeliveries": Example(query={"job_id": JOB_ID, "page_size": 20}),
    "RedeliverWebhook": Example(path={"delivery_id": DELIVERY_ID}, body={}),
    "GetWebhookSecret": Example(),
    "RotateWebhookSecret": Example(body={}),
    "ListModels": Example(),
    "ListWorkers": Example(),
    "PutModel": Example(
        path={"name": "house-style"},
        body={
            "aliases": ["house"],
            "stage": "generate",
            "worker_type": "sdxl",
            "formats": ["image"],
            "max_quantity": 4,
            "base_size": 1024,
            "default_steps": 12,
            "default_frame_rate": 16,
        },
    ),
    "DeleteModel": Example(path={"name": "house-style"}),
    "BeginUpload": Example(body={"size_bytes": len(PICTURE), "sha256": DIGEST, "filename": "first-frame.png"}),
    "AppendUpload": Example(path={"upload_id": UPLOAD_ID}, query={"offset": 0}, body=PICTURE, file="first-frame.png"),
    "GetUpload": Example(path={"upload_id": UPLOAD_ID}),
    "CompleteUpload": Example(path={"upload_id": UPLOAD_ID}),
    "CancelUpload": Example(path={"upload_id": UPLOAD_ID}),
    "CreateUpload": Example(query={"filename": "first-frame.png"}, body=PICTURE, file="first-frame.png"),
    "DescribeImport": Example(
        body={
            "import_key": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "prompt": "a lighthouse on a basalt cliff in a storm",
            "model": "sd_xl_base_1.0",
            "seed": "7",
            "width": 1024,
            "height": 1024,
            "steps": 30,
            "sampler": "Euler a",
            "tool": "automatic1111",
            "path": "2024/lighthouse.png",
        }
    ),
    "ListAssets": Example(query={"job_id": JOB_ID}),
    "GetAsset": Example(path={"asset_id": ASSET_ID}),
    "DiscardAsset": Example(path={"asset_id": ASSET_ID}),
    "DiscardAssets": Example(body={"asset_ids": [ASSET_ID]}),
    "ExtendExpiry": Example(body={"asset_ids": [ASSET_ID]}),
    "WatchAssets": Example(),
    "SaveToLibrary": Example(body={"asset_ids": [ASSET_ID]}),
    "ClearAssets": Example(body={"asset_ids": [ASSET_ID]}),
    "ClearJob": Example(path={"job_id": JOB_ID}, body={}),
    "ClearWorkspace": Example(body={"page_size": 100}),
    "CopyToWorkspace": Example(body={"item_ids": [ITEM_ID]}),
    "SweepBlobsInAsset": Example(body={"dry_run": True}),
    "SweepBlobsInLibrary": Example(body={"dry_run": True}),
    "EraseOwnerInRouter": Example(body={"owner_id": "carl"}),
    "EraseOwnerInAsset": Example(body={"owner_id": "carl"}),
    "EraseOwnerInLibrary": Example(body={"owner_id": "carl"}),
    "ListItems": Example(query={"format": "image", "page_size": 20}),
    "GetItem": Example(path={"item_id": ITEM_ID}),
    "DeleteItem": Example(path={"item_id": ITEM_ID}),
    "CountItems": Example(query={"query": "lighthouse"}),
    "UpdateItem": Example(
        path={"item_id": ITEM_ID}, body={"title": "Storm at the cape", "tags": {"tags": ["sea", "storm"]}}
    ),
    "ChangeItems": Example(body={"item_ids": [ITEM_ID], "add_tags": ["sea"], "is_favourite": True}),
    "GetRecipe": Example(path={"item_id": ITEM_ID}),
    "CreateCollection": Example(body={"name": "Lighthouses"}),
    "ListCollections": Example(),
    "RenameCollection": Example(path={"collection_id": COLLECTION_ID}, body={"name": "Towers"}),
    "DeleteCollection": Example(path={"collection_id": COLLECTION_ID}),
    "DownloadItems": Example(query={"item_ids": ITEM_ID}),
    "DownloadManyItems": Example(body={"item_ids": [ITEM_ID]}),
    "WatchItems": Example(),
    "WatchEvents": Example(),
    "CreateKey": Example(body={"owner_id": "ada", "kind": "user", "name": "Ada's notebook", "valid_days": 90}),
    "ListKeys": Example(query={"owner_id": "ada"}),
    "RevokeKey": Example(path={"key_id": KEY_ID}),
    "UpdateKey": Example(path={"key_id": KEY_ID}, body={"requests_per_minute": 120}),
    "GetOwnerLimits": Example(path={"owner_id": "ada"}),
    "PutOwnerLimits": Example(
        path={"owner_id": "ada"}, body={"requests_per_minute": 600, "queued_jobs": 100, "running_jobs": 4}
    ),
    "ExchangeKey": Example(body={"secret": KEY}),
    "CreateSignInCode": Example(body={}),
    "ExchangeSignInCode": Example(body={"code": CODE}),
    "GetIdentity": Example(),
    "GetHealth": Example(),
    "GetMedia": Example(
        path={"bucket": "workspace-temp", "key": "as/signed"},
        query={"g": "1", "expires": 1767225600, "kid": "1", "sig": "as-signed"},
    ),
    "GetOpenApi": Example(),
}
"""By the operation's id: the name of the RPC, or that of a hand-written route."""
