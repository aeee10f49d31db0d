"""What the workspace is made of: uploads, assets, holds, settlements, and their states. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from asset_service.shape_domain import Shape
from service_kit.blobs import WORKSPACE_BUCKET, key_segment
from service_kit.identity import Owner
from service_kit.ids import asset_id as output_asset_id
from service_kit.renditions import kinds_for

MAX_PIECE_BYTES = 1 << 20
"""The longest piece of a file in one message, in either direction."""

MAX_HOLD_TTL = timedelta(hours=1)
"""The longest time for which a hold is promised at once; its holder renews it."""

MAX_UPLOADS_PER_FILE = 8
"""How many different uploads one lease may start for one file: not every engine gives the same bytes twice."""


class UploadState(StrEnum):
    """How far an upload is."""

    OPEN = "open"
    STAGED = "staged"
    DELETING = "deleting"


class AssetState(StrEnum):
    """What may be seen of an asset, and whether its bytes are there."""

    AVAILABLE = "available"
    WITHHELD = "withheld"
    # Gone for its owner; somebody's hold keeps the bytes.
    HIDDEN = "hidden"
    DELETING = "deleting"
    REMOVED = "removed"

    @property
    def gone(self) -> bool:
        """Whether its owner no longer has it."""
        return self in (AssetState.HIDDEN, AssetState.DELETING, AssetState.REMOVED)


class AssetSource(StrEnum):
    """Where an asset comes from."""

    JOB = "job"
    UPLOAD = "upload"
    ITEM = "item"
    IMPORT = "import"


class MediaFormat(StrEnum):
    """What is in a file."""

    IMAGE = "image"
    VIDEO = "video"


class RenditionKind(StrEnum):
    """Which smaller file of an asset."""

    THUMB_256 = "thumb_256"
    THUMB_1024 = "thumb_1024"
    POSTER = "poster"
    CLIP = "clip"


class EventKind(StrEnum):
    """What happened to an asset."""

    PUBLISHED = "published"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Blob:
    """Where bytes lie."""

    bucket: str
    key: str
    generation: str


@dataclass(frozen=True, slots=True)
class Media:
    """What the bytes of a file are, as measured. A picture has no duration."""

    content_type: str
    size_bytes: int
    sha256: str
    width: int
    height: int
    duration_ms: int | None = None

    @classmethod
    def of(cls, shape: Shape, size_bytes: int, sha256: str) -> Media:
        """Return what bytes of this size and digest are, which were measured."""
        return cls(shape.content_type, size_bytes, sha256, shape.width, shape.height, shape.duration_ms)

    @property
    def format(self) -> MediaFormat:
        """Picture or video."""
        return MediaFormat.VIDEO if self.content_type.startswith("video/") else MediaFormat.IMAGE


@dataclass(frozen=True, slots=True)
class RenditionFile:
    """A smaller file that lives and dies with its asset."""

    kind: RenditionKind
    blob: Blob
    media: Media


@dataclass(frozen=True, slots=True)
class Asset:
    """One thing in a workspace. A tombstone has neither media nor blob; `provenance` is opaque here."""

    asset_id: str
    owner: Owner
    job_id: str | None
    asset_index: int
    source: AssetSource
    state: AssetState
    media: Media | None
    blob: Blob | None
    renditions: tuple[RenditionFile, ...]
    provenance: bytes
    filename: str
    saved_item_id: str
    saved_version: int
    created_at: datetime
    expires_at: datetime
    version: int
    source_item_id: str = ""
    # Why the renditions that it lacks cannot be made; empty otherwise.
    rendition_error: str = ""

    @property
    def lacking_renditions(self) -> tuple[RenditionKind, ...]:
        """Which renditions it should have and has not; none when its bytes are gone, or about to go."""
        if self.media is None or self.blob is None or (self.state.gone and self.state is not AssetState.HIDDEN):
            return ()
        there = {rendition.kind for rendition in self.renditions}
        kinds = (RenditionKind(kind) for kind in kinds_for(self.media.content_type))
        return tuple(kind for kind in kinds if kind not in there)

    @property
    def group_id(self) -> str:
        """What it is listed under: its job, or itself. Such ids grow with time: the newest has the greatest."""
        return self.job_id or self.asset_id


@dataclass(frozen=True, slots=True)
class Upload:
    """One file on its way in. One without a job is a client's, and has a deadline of its own.

    `sha256` and `size_bytes` are what was announced; `media`, `generation` and `receipt` are there once it is staged.
    """

    upload_id: str
    asset_id: str
    owner: Owner
    job_id: str | None
    stage: int
    fence: int
    asset_index: int
    rendition: RenditionKind | None
    key: str
    size_bytes: int
    sha256: str
    state: UploadState
    deadline_at: datetime | None = None
    generation: str | None = None
    media: Media | None = None
    output_upload_id: str | None = None
    receipt: str | None = None
    # What a client said of its file, for one that can be resumed.
    filename: str = ""
    believed_type: str = ""

    @property
    def blob(self) -> Blob:
        """Where the bytes of a staged upload lie. Raises ValueError when it is not staged."""
        if self.generation is None:
            raise ValueError("only a staged upload has a blob")
        return Blob(WORKSPACE_BUCKET, self.key, self.generation)


def published_asset(
    upload: Upload, renditions: Sequence[Upload], provenance: bytes, *, now: datetime, expiry: timedelta
) -> Asset:
    """Return the asset that an output of a job becomes."""
    return Asset(
        asset_id=upload.asset_id,
        owner=upload.owner,
        job_id=upload.job_id,
        asset_index=upload.asset_index,
        source=AssetSource.JOB,
        state=AssetState.AVAILABLE,
        media=upload.media,
        blob=upload.blob,
        renditions=tuple(
            RenditionFile(rendition.rendition, rendition.blob, rendition.media)
            for rendition in renditions
            if rendition.rendition is not None and rendition.media is not None
        ),
        provenance=provenance,
        filename="",
        saved_item_id="",
        saved_version=0,
        created_at=now,
        expires_at=now + expiry,
        version=1,
    )


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a job ended, as it was answered the first time. With a `refusal`, nothing was published, for that reason."""

    job_id: str
    owner: Owner
    published: tuple[int, ...]
    lost: tuple[int, ...]
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class AssetEvent:
    """Something that happened to an asset, for those who watch; what the asset is now is read when it is told."""

    position: int
    asset_id: str
    kind: EventKind


@dataclass(frozen=True, slots=True)
class RenditionTask:
    """An asset that lacks renditions, and how often they have been tried, this time included."""

    asset_id: str
    owner: Owner
    attempts: int


def job_holder(job_id: str) -> str:
    """Return who holds the references of a job."""
    return f"job:{job_id}"


def held_job(holder: str) -> str | None:
    """Return the job that a holder stands for; None when it is not a job."""
    kind, _, name = holder.partition(":")
    return name if kind == "job" else None


def is_patient(holder: str) -> bool:
    """Tell whether a holder waits for renditions by itself: the library, for an item that was saved without them."""
    return holder.startswith("late:")


@lru_cache(maxsize=1024)
def _segment(text: str) -> str:
    """Return a text as a segment of a key; one that is too long for that by its digest."""
    try:
        return key_segment(text)
    except ValueError:
        return "sha256-" + hashlib.sha256(text.encode()).hexdigest()


def upload_key(owner: Owner, upload_id: str, *, job_id: str | None, fence: int, asset_index: int) -> str:
    """Return the key of an upload: it names whose it is and what for, and belongs to this upload for ever."""
    whose = f"{_segment(owner.tenant_id)}/{_segment(owner.owner_id)}"
    if job_id is None:
        return f"{whose}/uploads/{upload_id}"
    # One folder for all of an owner: a folder for each job would cost the store as much as the file, and stay behind.
    return f"{whose}/jobs/{job_id}.{fence}.{asset_index}.{upload_id}"


def part_key(owner: Owner, asset_id: str, upload_id: str) -> str:
    """Return the key of a file of an asset whose id is known before its first byte; so its key says which it is of."""
    return f"{_segment(owner.tenant_id)}/{_segment(owner.owner_id)}/assets/{asset_id}.{upload_id}"


@dataclass(frozen=True, slots=True)
class KeyParts:
    """What a key says: of which job or asset the blob is, as far as it says so."""

    job_id: str | None = None
    asset_id: str | None = None


def read_key(key: str) -> KeyParts:
    """Return what a key says. One that is not of our making says nothing."""
    folder, _, name = key.rpartition("/")
    parts = name.split(".")
    try:
        if folder.endswith("/jobs") and len(parts) == 4:
            return KeyParts(parts[0], output_asset_id(parts[0], int(parts[2])))
    except ValueError:
        return KeyParts()
    if folder.endswith("/assets") and len(parts) == 2:
        return KeyParts(None, parts[0])
    return KeyParts()
