"""The requests about the workspace: assets, uploads, imports, and what clears it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypedDict

from atelier_client._calls.call import Body, Call, one, only_given, page_of, path_of
from atelier_client._decode import decode
from atelier_client.models import (
    Asset,
    Described,
    Erased,
    Page,
    SaveResult,
    SweepFinding,
)


def list_assets(job_id: str, page_size: int | None, page_token: str) -> Call[Page[Asset]]:
    """`GET /v1/assets`."""
    params = only_given(job_id=job_id, page_size=page_size, page_token=page_token)
    return Call("GET", "/v1/assets", page_of(Asset, "assets"), params=params)


def get_asset(asset_id: str) -> Call[Asset]:
    """`GET /v1/assets/{asset_id}`."""
    return Call("GET", path_of("/v1/assets/{}", asset_id), one(Asset, "asset"))


def discard_asset(asset_id: str) -> Call[Asset]:
    """`DELETE /v1/assets/{asset_id}`."""
    return Call("DELETE", path_of("/v1/assets/{}", asset_id), one(Asset, "asset"))


def create_upload(data: bytes, filename: str, sha256: str, import_key: str = "") -> Call[Asset]:
    """`POST /v1/uploads`: the body is the file itself. A repeat would make a second asset, unless it has a key."""
    return Call(
        "POST",
        "/v1/uploads",
        one(Asset, "asset"),
        params=only_given(filename=filename, size_bytes=len(data), sha256=sha256, import_key=import_key),
        content=data,
        headers={"content-type": "application/octet-stream"},
        repeatable=bool(import_key),
    )


class ImportDescription(TypedDict, total=False):
    """How a file was made that is brought in from another system; what is not known is left out.

    Attributes:
        seed: a whole number of any size, as text.
        tool: what said it, such as `automatic1111`.
        path: where the file was, relative to its gallery.
        made_at: when the file was made.
    """

    prompt: str
    negative_prompt: str
    enhanced_prompt: str
    model: str
    seed: str
    width: int | None
    height: int | None
    steps: int | None
    sampler: str
    guidance: float | None
    tool: str
    path: str
    made_at: datetime | None


def describe_import(import_key: str, description: ImportDescription) -> Call[Described]:
    """`POST /v1/imports`."""
    given = only_given(**description)
    made_at = given.get("made_at")
    if isinstance(made_at, datetime):
        given["made_at"] = made_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    body = {"import_key": import_key} | given
    return Call("POST", "/v1/imports", lambda reply: decode(Described, reply), json=body)


def save_to_library(asset_ids: Iterable[str]) -> Call[tuple[SaveResult, ...]]:
    """`POST /v1/save-to-library`."""

    def read(body: Body) -> tuple[SaveResult, ...]:
        return tuple(decode(SaveResult, entry) for entry in body.get("results") or ())

    return Call("POST", "/v1/save-to-library", read, json={"asset_ids": list(asset_ids)})


def clear_assets(asset_ids: Iterable[str]) -> Call[tuple[SaveResult, ...]]:
    """`POST /v1/clear-assets`."""
    return Call("POST", "/v1/clear-assets", _cleared, json={"asset_ids": list(asset_ids)})


def clear_job(job_id: str) -> Call[tuple[SaveResult, ...]]:
    """`POST /v1/jobs/{job_id}/clear`."""
    return Call("POST", path_of("/v1/jobs/{}/clear", job_id), _cleared, json={})


def _cleared(body: Body) -> tuple[SaveResult, ...]:
    return tuple(decode(SaveResult, entry) for entry in body.get("results") or ())


def clear_workspace(page_token: str) -> Call[Page[SaveResult]]:
    """`POST /v1/clear-workspace`: one page."""
    return Call("POST", "/v1/clear-workspace", page_of(SaveResult, "results"), json=only_given(page_token=page_token))


def sweep(part: str, dry_run: bool, page_token: str, verify: bool) -> Call[Page[SweepFinding]]:
    """`POST /v1/sweep/{part}`: one page; `part` is `workspace` or `library`."""
    body = {"dry_run": dry_run} | only_given(page_token=page_token, verify=verify or None)
    return Call("POST", path_of("/v1/sweep/{}", part), page_of(SweepFinding, "findings"), json=body)


def erase_owner(part: str, owner_id: str, tenant_id: str) -> Call[Erased]:
    """`POST /v1/erase-owner/{part}`; `part` is `jobs`, `workspace` or `library`."""
    body = only_given(owner_id=owner_id, tenant_id=tenant_id)
    return Call("POST", path_of("/v1/erase-owner/{}", part), lambda reply: decode(Erased, reply), json=body)
