"""How media, renditions, uploads and assets are kept in rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asset_service.domain import (
    Asset,
    AssetSource,
    AssetState,
    Blob,
    Media,
    RenditionFile,
    RenditionKind,
    Upload,
    UploadState,
)
from service_kit.identity import Owner

Row = Mapping[str, Any]
_MEDIA = ("content_type", "size_bytes", "sha256", "width", "height", "duration_ms")


def media_values(media: Media | None) -> dict[str, Any]:
    """Return the columns, or the members of a JSON value, that keep media."""
    return {name: getattr(media, name) if media else None for name in _MEDIA}


def media_from(row: Row) -> Media:
    """Return the media that columns or a JSON value keep."""
    return Media(**{name: row[name] for name in _MEDIA})


def _rendition_value(rendition: RenditionFile) -> dict[str, Any]:
    blob = rendition.blob
    where = {"bucket": blob.bucket, "key": blob.key, "generation": blob.generation}
    return {"kind": rendition.kind.value, **where, **media_values(rendition.media)}


def _rendition_from(value: Row) -> RenditionFile:
    blob = Blob(value["bucket"], value["key"], value["generation"])
    return RenditionFile(RenditionKind(value["kind"]), blob, media_from(value))


def asset_values(asset: Asset) -> dict[str, Any]:
    """Return the columns of an asset."""
    return {
        "asset_id": asset.asset_id,
        "tenant_id": asset.owner.tenant_id,
        "owner_id": asset.owner.owner_id,
        "job_id": asset.job_id,
        "asset_index": asset.asset_index,
        "group_id": asset.group_id,
        "source": asset.source.value,
        "state": asset.state.value,
        **media_values(asset.media),
        "bucket": asset.blob.bucket if asset.blob else None,
        "key": asset.blob.key if asset.blob else None,
        "generation": asset.blob.generation if asset.blob else None,
        "renditions": [_rendition_value(rendition) for rendition in asset.renditions],
        "provenance": asset.provenance,
        "filename": asset.filename,
        "saved_item_id": asset.saved_item_id,
        "saved_version": asset.saved_version,
        "created_at": asset.created_at,
        "expires_at": asset.expires_at,
        "version": asset.version,
        "source_item_id": asset.source_item_id,
        "rendition_error": asset.rendition_error,
    }


def asset_from(row: Row) -> Asset:
    """Return the asset that a row keeps."""
    return Asset(
        asset_id=row["asset_id"],
        owner=Owner(row["tenant_id"], row["owner_id"]),
        job_id=row["job_id"],
        asset_index=row["asset_index"],
        source=AssetSource(row["source"]),
        state=AssetState(row["state"]),
        media=media_from(row) if row["content_type"] is not None else None,
        blob=Blob(row["bucket"], row["key"], row["generation"]) if row["key"] is not None else None,
        renditions=tuple(_rendition_from(value) for value in row["renditions"]),
        provenance=row["provenance"],
        filename=row["filename"],
        saved_item_id=row["saved_item_id"],
        saved_version=row["saved_version"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        version=row["version"],
        source_item_id=row["source_item_id"],
        rendition_error=row["rendition_error"],
    )


def upload_values(upload: Upload) -> dict[str, Any]:
    """Return the columns of an upload, but for `created_at`."""
    return {
        "upload_id": upload.upload_id,
        "asset_id": upload.asset_id,
        "tenant_id": upload.owner.tenant_id,
        "owner_id": upload.owner.owner_id,
        "job_id": upload.job_id,
        "stage": upload.stage,
        "fence": upload.fence,
        "asset_index": upload.asset_index,
        "rendition": upload.rendition.value if upload.rendition else "",
        "key": upload.key,
        "size_bytes": upload.size_bytes,
        "sha256": upload.sha256,
        "state": upload.state.value,
        "deadline_at": upload.deadline_at,
        "generation": upload.generation,
        "media": media_values(upload.media) if upload.media else None,
        "output_upload_id": upload.output_upload_id,
        "receipt": upload.receipt,
        "announced": _announced(upload),
    }


def _announced(upload: Upload) -> dict[str, str] | None:
    if not upload.filename and not upload.believed_type:
        return None
    return {"filename": upload.filename, "content_type": upload.believed_type}


def upload_from(row: Row) -> Upload:
    """Return the upload that a row keeps."""
    announced = row["announced"] or {}
    return Upload(
        upload_id=row["upload_id"],
        asset_id=row["asset_id"],
        owner=Owner(row["tenant_id"], row["owner_id"]),
        job_id=row["job_id"],
        stage=row["stage"],
        fence=row["fence"],
        asset_index=row["asset_index"],
        rendition=RenditionKind(row["rendition"]) if row["rendition"] else None,
        key=row["key"],
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        state=UploadState(row["state"]),
        deadline_at=row["deadline_at"],
        generation=row["generation"],
        media=media_from(row["media"]) if row["media"] else None,
        output_upload_id=row["output_upload_id"],
        receipt=row["receipt"],
        filename=announced.get("filename", ""),
        believed_type=announced.get("content_type", ""),
    )
