"""Receipts: the signed statement that the bytes of one output are there, and what they are."""

from __future__ import annotations

from collections.abc import Sequence

from asset_service.domain import Media, Upload
from service_kit.blobs import WORKSPACE_BUCKET
from service_kit.capabilities import Capabilities, Receipt, ReceiptRendition
from service_kit.errors import InvalidArgument


class Receipts:
    """Signs receipts, and verifies them when a settlement brings them back."""

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities

    def sign(self, output: Upload, renditions: Sequence[Upload]) -> str:
        """Return the receipt of an output that was measured. Equal uploads give equal receipts."""
        job_id, media, generation = _staged(output)
        return self._capabilities.sign_receipt(
            Receipt(
                upload_id=output.upload_id,
                job_id=job_id,
                stage=output.stage,
                fence=output.fence,
                asset_index=output.asset_index,
                bucket=WORKSPACE_BUCKET,
                key=output.key,
                generation=generation,
                sha256=media.sha256,
                size_bytes=media.size_bytes,
                content_type=media.content_type,
                width=media.width,
                height=media.height,
                duration_ms=media.duration_ms,
                renditions=tuple(_rendition(rendition) for rendition in renditions),
            )
        )

    def verify(self, text: str, *, job_id: str, asset_index: int) -> Receipt | None:
        """Return what a receipt states; None when it is not ours, or is for another output."""
        try:
            receipt = self._capabilities.verify_receipt(text)
        except InvalidArgument:
            return None
        return receipt if (receipt.job_id, receipt.asset_index) == (job_id, asset_index) else None


def _rendition(upload: Upload) -> ReceiptRendition:
    _, media, generation = _staged(upload)
    if upload.rendition is None:
        raise ValueError("an output is not a rendition")
    return ReceiptRendition(
        kind=upload.rendition.value,
        bucket=WORKSPACE_BUCKET,
        key=upload.key,
        generation=generation,
        sha256=media.sha256,
        size_bytes=media.size_bytes,
        content_type=media.content_type,
        width=media.width,
        height=media.height,
        duration_ms=media.duration_ms,
    )


def _staged(upload: Upload) -> tuple[str, Media, str]:
    if upload.job_id is None or upload.media is None or upload.generation is None:
        raise ValueError("only a staged upload of a job has a receipt")
    return upload.job_id, upload.media, upload.generation
