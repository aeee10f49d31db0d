"""Folders that become blobs of a directory: bytes beside what is known of them, published by one rename."""

from __future__ import annotations

import errno
import json
import os
import secrets
from pathlib import Path

from service_kit.blobs import RESERVED_SUFFIX, BlobInfo, check_bucket, check_key, folders, single_files
from service_kit.blobs.local_files import META
from service_kit.errors import AlreadyExists

TRIES = 10
"""How often a folder is made for a name, while others remove it because it holds nothing yet."""
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
"""How a system says that a name is taken: a folder never takes the place of a file."""


class Drafts:
    """Makes drafts below the directory of a store, each in the bucket that it is for, and blobs of them."""

    def __init__(self, root: Path) -> None:
        """Choose the directory; it is made at the first write."""
        self.root = root

    def path(self, bucket: str, key: str) -> Path:
        """Return where a blob lies. Raises ValueError for what names no bucket, or no blob."""
        check_bucket(bucket)
        check_key(key)
        return self.root / bucket / (key + RESERVED_SUFFIX)

    def place(self, bucket: str) -> Path:
        """Return where the drafts of a bucket lie; it is there."""
        check_bucket(bucket)
        place = self.root / bucket / folders.DRAFTS
        folders.make_folders(place, self.root.parent)
        return place

    def new(self, bucket: str, key: str) -> Path:
        """Return a new folder for a blob, which is empty. Raises ValueError for what names no bucket, or no blob."""
        self.path(bucket, key)
        draft = self.place(bucket) / secrets.token_hex(16)
        draft.mkdir(mode=0o700)
        return draft

    def complete(self, draft: Path, info: BlobInfo) -> None:
        """Write what is known of the bytes in a draft beside them: then it lacks its key only."""
        with (draft / META).open("xb") as file:
            file.write(json.dumps(single_files.note(info)).encode())
            file.flush()
            os.fsync(file.fileno())
        folders.sync_folder(draft)

    def show(self, draft: Path, info: BlobInfo) -> None:
        """Make a blob of a draft that is complete. Raises AlreadyExists when its key is taken."""
        final = self.path(info.bucket, info.key)
        for tries_left in reversed(range(TRIES)):
            try:
                folders.make_folders(final.parent, self.root)
                draft.rename(final)
                break
            except OSError as error:
                if error.errno in TAKEN:
                    if final.parent.is_dir():
                        # Perhaps by an earlier try that broke off before this: its repeat believes that the name stays.
                        folders.sync_folder(final.parent)
                    raise taken(info) from None
                # The last blob beside it was deleted in this moment, and the folder with it, or one above.
                if error.errno != errno.ENOENT or not tries_left:
                    raise
        folders.sync_folder(final.parent)

    def publish(self, draft: Path, info: BlobInfo) -> None:
        """Complete a draft that has its bytes, and make a blob of it. Raises AlreadyExists when its key is taken."""
        self.complete(draft, info)
        self.show(draft, info)


def taken(info: BlobInfo) -> AlreadyExists:
    """Return how a writer hears that a key is taken."""
    return AlreadyExists(f"The key {info.key} in {info.bucket} is taken.")


def new_generation() -> str:
    """Return a generation that no other blob has."""
    return secrets.token_hex(8)
