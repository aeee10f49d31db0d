"""Files on their way to disk: they appear under their name only when they are whole and right."""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
import os
import re
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from atelier_client.errors import DownloadFailed
from atelier_client.models import Asset, Item

_EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
}


def filename_of(thing: Asset | Item) -> str:
    """Return a name for the file of an asset or item: job and index where there is a job, with the type's extension."""
    extension = _EXTENSIONS.get(thing.media.content_type) or mimetypes.guess_extension(thing.media.content_type) or ""
    if thing.provenance.job_id:
        return f"{thing.provenance.job_id}-{thing.provenance.asset_index}{extension}"
    return f"{thing.item_id if isinstance(thing, Item) else thing.asset_id}{extension}"


def target_of(to: Path, filename: str) -> Path:
    """Return the file to write: `to` itself, or a file in it when it is a folder or ends with a slash."""
    return to / filename if to.is_dir() else to


def filename_of_url(url: str) -> str:
    """Return a safe file name made from the last part of an address."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", url.split("?", maxsplit=1)[0].rstrip("/").rsplit("/", 1)[-1])
    return name.lstrip(".") or "download"


class Arriving:
    """A file that is being written beside its target, and takes its place when size and digest are right.

    Raises:
        DownloadFailed: on leaving, when they are not; the target is untouched.
    """

    def __init__(self, target: Path, *, size_bytes: int = 0, sha256: str = "") -> None:
        self._target, self._size_bytes, self._sha256 = target, size_bytes, sha256
        self._digest = hashlib.sha256()
        self._received = 0

    def __enter__(self) -> Self:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            prefix=f".{self._target.name[:100]}.", suffix=".part", dir=self._target.parent
        )
        self._partial = Path(name)
        self._file = os.fdopen(descriptor, "wb")
        return self

    def write(self, chunk: bytes) -> None:
        """Add bytes."""
        self._file.write(chunk)
        self._digest.update(chunk)
        self._received += len(chunk)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            if kind is None:
                self._check()
                # mkstemp makes files that only their owner may read; a picture is an ordinary file.
                self._partial.chmod(0o666 & ~_umask())
                self._partial.replace(self._target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._partial.unlink()

    def _check(self) -> None:
        if self._size_bytes and self._received != self._size_bytes:
            raise DownloadFailed(
                f"{self._received} bytes of {self._target.name} came, {self._size_bytes} were expected."
            )
        if self._sha256 and self._digest.hexdigest() != self._sha256:
            raise DownloadFailed(
                f"The bytes of {self._target.name} are not those that were stored: the SHA-256 differs."
            )


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
