"""What a worker may upload under a lease: which outputs, how large, of which formats, made of which files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from asset_service.domain import Media, MediaFormat, RenditionKind, Upload, UploadState, upload_key
from asset_service.refusals import unsupported
from service_kit.capabilities import LeaseClaims
from service_kit.clock import Clock
from service_kit.errors import ErrorReason, InvalidArgument, Unauthenticated
from service_kit.ids import asset_id, new_id, parse_id

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """The limits that hold for every lease: the largest output in bytes, and how long a token may live."""

    max_output_bytes: int
    longest_lease: timedelta
    clock: Clock

    def check(
        self, lease: LeaseClaims, asset_index: int, size_bytes: int, sha256: str, *, linked: bool = False
    ) -> None:
        """Refuse a file that a lease does not grant. One that comes as a link needs no digest.

        Raises:
            InvalidArgument: the index, the size or the digest is outside what may be.
            Unauthenticated: the lease lives too long.
        """
        parse_id(lease.job_id, "job_id")
        if lease.expires_at > self.clock.now() + self.longest_lease:
            # It could outlive what is known of the job's settlement, and begin an upload that nothing would end.
            raise Unauthenticated(
                f"The lease token lives longer than {self.longest_lease}, which is how long settlements are kept.",
                ErrorReason.INVALID_LEASE,
            )
        if not 0 <= asset_index < lease.max_outputs:
            raise InvalidArgument.field(
                "asset_index",
                f"must be below {lease.max_outputs}, the outputs of the lease, got {asset_index}",
                ErrorReason.OUT_OF_RANGE,
            )
        limit = min(lease.max_bytes, self.max_output_bytes)
        if not 1 <= size_bytes <= limit:
            raise InvalidArgument.field("size_bytes", f"must be 1..{limit}, got {size_bytes}", ErrorReason.OUT_OF_RANGE)
        if not sha256 and not linked:
            raise InvalidArgument.field(
                "sha256", "must be there, unless the file is handed over", ErrorReason.MISSING_FIELD
            )
        if sha256 and not _SHA256.fullmatch(sha256):
            raise InvalidArgument.field("sha256", "must be 64 lower-case hexadecimal digits")


def new_upload(
    lease: LeaseClaims, asset_index: int, rendition: RenditionKind | None, size_bytes: int, sha256: str
) -> Upload:
    """Return an upload that a lease begins, under a key of its own."""
    upload_id = new_id()
    return Upload(
        upload_id=upload_id,
        asset_id=asset_id(lease.job_id, asset_index),
        owner=lease.owner,
        job_id=lease.job_id,
        stage=lease.stage,
        fence=lease.fence,
        asset_index=asset_index,
        rendition=rendition,
        key=upload_key(lease.owner, upload_id, job_id=lease.job_id, fence=lease.fence, asset_index=asset_index),
        size_bytes=size_bytes,
        sha256=sha256,
        state=UploadState.OPEN,
    )


def check_parts(output: Upload, renditions: Sequence[Upload]) -> None:
    """Refuse what is not one output and renditions of it, each kind once."""
    if output.rendition is not None:
        raise InvalidArgument.field("upload_id", "must be the upload of an output, not of a rendition")
    kinds = {upload.rendition for upload in renditions}
    if None in kinds or len(kinds) != len(renditions):
        raise InvalidArgument.field("rendition_upload_ids", "must be renditions, and at most one of each kind")
    if any(upload.asset_index != output.asset_index for upload in renditions):
        raise InvalidArgument.field("rendition_upload_ids", f"must be of the index {output.asset_index}")
    if any(upload.output_upload_id not in (None, output.upload_id) for upload in renditions):
        raise InvalidArgument.field("rendition_upload_ids", "must not belong to another output already")


def check_formats(lease: LeaseClaims, uploads: Sequence[Upload], media: Sequence[Media]) -> None:
    """Refuse an output whose format the lease does not grant, and a still that is not a picture."""
    for upload, measured in zip(uploads, media, strict=True):
        if upload.rendition is None:
            if not {measured.format.value, measured.content_type} & set(lease.formats):
                raise unsupported(
                    f"The output is {measured.content_type}, and the job makes {', '.join(lease.formats)}"
                )
        elif upload.rendition is not RenditionKind.CLIP and measured.format is not MediaFormat.IMAGE:
            raise unsupported(f"The rendition {upload.rendition} is {measured.content_type}, not a picture")
