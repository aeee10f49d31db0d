"""What a backup says of itself. It is written last: a snapshot without it is not complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from service_kit.errors import FailedPrecondition

VERSION = 1
MANIFEST = "manifest.json"
BLOB_LIST = "blobs.jsonl"
SNAPSHOTS = "snapshots"
BLOBS = "blobs"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a snapshot: its path there, and what its bytes must be."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredDatabase:
    """A service's database: its schema's revision, and its file; on PostgreSQL one for each table, in loading order."""

    revision: str
    files: tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A snapshot.

    Attributes:
        kind: `sqlite` or `postgresql`.
        release: which release made it.
        keys: the files of keys.
        blobs: how many blobs it has, and how large they are together.
        lost: the blobs that rows say are there, and that neither the store nor an earlier snapshot had.
        settings: how the system was set up, for people; secrets are masked.
    """

    created_at: str
    release: str
    kind: str
    databases: dict[str, StoredDatabase]
    keys: tuple[StoredFile, ...]
    blob_list: StoredFile
    blobs: int
    blob_bytes: int
    lost: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Make a snapshot complete."""
        write_file(folder / MANIFEST, (json.dumps(asdict(self), indent=1) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """Return what a snapshot says of itself.

    Raises:
        FailedPrecondition: it is not complete, is damaged, or was made by a newer release.
    """
    try:
        said: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        if said["version"] > VERSION:
            raise FailedPrecondition(f"The backup {folder} was made by a newer release; restore it with that one.")
        return Manifest(
            **(
                said
                | {
                    "databases": {
                        name: StoredDatabase(entry["revision"], _files(entry["files"]))
                        for name, entry in said["databases"].items()
                    },
                    "keys": _files(said["keys"]),
                    "blob_list": StoredFile(**said["blob_list"]),
                }
            )
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FailedPrecondition(f"The backup {folder} is not complete, or damaged: {error!r}.") from error


def complete_snapshots(root: Path) -> list[Path]:
    """Return the snapshots below a backup's folder that are complete, oldest first."""
    return sorted(path.parent for path in (root / SNAPSHOTS).glob(f"*/{MANIFEST}"))


def blob_entries(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Give the blobs of a snapshot, each with what `BlobInfo` has."""
    with (folder / BLOB_LIST).open("rb") as file:
        for line in file:
            yield json.loads(line)


def write_file(path: Path, data: bytes) -> None:
    """Write a file, whole and on the disk, that only its owner can read."""
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring to the disk which files a folder has."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(entries: list[dict[str, Any]]) -> tuple[StoredFile, ...]:
    return tuple(StoredFile(**entry) for entry in entries)
