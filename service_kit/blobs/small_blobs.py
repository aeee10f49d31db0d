"""Small blobs of a directory on their way from memory: first their bytes, which nobody sees, then their names.

The bytes go into files without a name: one for each folder, as far as they fit, with all blobs that come for it at once
(`bundles`), or one for a blob that comes alone (`single_files`). They are on the disk before any has a name, and are
gone when their writer dies. So whoever does not know yet which of them there shall be has them written meanwhile.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service_kit.blobs import BlobInfo, NewBlob, bundles, folders, nameless, single_files
from service_kit.blobs.local_drafts import TAKEN, TRIES, Drafts, new_generation, taken
from service_kit.blobs.local_files import DATA
from service_kit.blobs.single_files import NewFile
from service_kit.errors import AtelierError


@dataclass(frozen=True, slots=True)
class _Nameless:
    """An open file without a name that is on the disk, and which blobs it has."""

    places: Sequence[int]
    descriptor: int


class SmallBlobs:
    """What is written with one call. Its methods block, and one runs at a time."""

    def __init__(self, drafts: Drafts, bucket: str, blobs: Sequence[NewBlob]) -> None:
        """Begin with nothing on the disk. Raises ValueError for what names no bucket, or no blob."""
        now = datetime.now(UTC)
        self._drafts = drafts
        self._bucket = bucket
        self._paths = [drafts.path(bucket, blob.key) for blob in blobs]
        self._infos = [
            BlobInfo(bucket, blob.key, new_generation(), len(blob.data), blob.sha256, blob.content_type, now)
            for blob in blobs
        ]
        self._blobs = blobs
        self._written: list[_Nameless] = []

    @property
    def is_open(self) -> bool:
        """Return whether there are files to close."""
        return bool(self._written)

    @property
    def count_files(self) -> int:
        """Return how many files all of them need, which are open until they have their names."""
        return sum(1 for _ in self._groups(range(len(self._blobs))))

    def write(self) -> None:
        """Write the bytes of all. What cannot be written now `publish` tries again, and tells why not."""
        self._write(range(len(self._blobs)))

    def publish(self, places: Sequence[int]) -> Sequence[BlobInfo | Exception]:
        """Make blobs of those at these places, and of no others. Returns each, or why it is not there."""
        try:
            self._keep_only(set(places))
            told = self._name_written()
            # Folder by folder: those of many would all be open at once.
            left: dict[Path, list[int]] = {}
            for place in places:
                if place not in told:
                    left.setdefault(self._paths[place].parent, []).append(place)
            for some in left.values():
                told |= self._write(some) | self._name_written()
        finally:
            self.close()
        return [self._outcome(place, told[place]) for place in places]

    def close(self) -> None:
        """Close the files. Those that got no name are gone."""
        while self._written:
            os.close(self._written.pop().descriptor)

    def _keep_only(self, places: set[int]) -> None:
        """Give up files that have a blob that there shall not be: its bytes would stay with the others."""
        for one in list(self._written):
            if not places.issuperset(one.places):
                self._written.remove(one)
                os.close(one.descriptor)

    def _write(self, places: Iterable[int]) -> dict[int, Exception | None]:
        """Write blobs to files without a name. Returns why one is not there; NotHere if the system cannot do that."""
        told: dict[int, Exception | None] = {}
        for group in self._groups(places):
            try:
                # Not where they will be: a folder is there as long as something in it has a name.
                with folders.opened(self._drafts.place(self._bucket)) as folder:
                    files = [self._file(place) for place in group]
                    begun = bundles.begin(folder, files) if len(files) > 1 else single_files.begin(folder, files[0])
                self._written.append(_Nameless(group, begun))
            except (OSError, nameless.NotHere) as error:
                told.update(dict.fromkeys(group, error))
        return told

    def _groups(self, places: Iterable[int]) -> Iterator[Sequence[int]]:
        """Give which blobs share a file: small ones of one folder."""
        together: dict[Path, list[int]] = {}
        for place in places:
            if len(self._blobs[place].data) > bundles.MOST_BYTES:
                yield (place,)
            else:
                together.setdefault(self._paths[place].parent, []).append(place)
        for small in together.values():
            yield from (small[at : at + bundles.MOST] for at in range(0, len(small), bundles.MOST))

    def _file(self, place: int) -> NewFile:
        return NewFile(self._paths[place].name, self._blobs[place].data, single_files.note(self._infos[place]))

    def _name_written(self) -> dict[int, Exception | None]:
        """Give all files that are written their names, and close them. Returns for each blob None, or why not."""
        folders_of: dict[Path, list[_Nameless]] = {}
        for one in self._written:
            folders_of.setdefault(self._paths[one.places[0]].parent, []).append(one)
        told: dict[int, Exception | None] = {}
        for folder, written in folders_of.items():
            told |= self._name(folder, written)
        self.close()
        return told

    def _name(self, folder: Path, written: Sequence[_Nameless]) -> dict[int, Exception | None]:
        """Give files the names of their blobs in a folder. Returns for each None, or why it has no name."""
        left = {place: one.descriptor for one in written for place in one.places}
        told: dict[int, Exception | None] = dict.fromkeys(left, FileNotFoundError(f"{folder} is removed all the time"))
        for _ in range(TRIES):
            try:
                folders.make_folders(folder, self._drafts.root)
                with folders.opened(folder) as target:
                    try:
                        for place, descriptor in list(left.items()):
                            told[place] = self._told(place, _named(descriptor, target, self._paths[place].name))
                            if not isinstance(told[place], FileNotFoundError):
                                del left[place]
                    finally:
                        # Also a name that an earlier try has given: its repeat believes that it stays.
                        os.fsync(target)
            except FileNotFoundError:
                # The last blob beside them was deleted in this moment, and the folder with it, or one above.
                continue
            except OSError as error:
                # Names may have been given, and a crash would lose them. Or a blob lies where the folder would be.
                return {place: self._told(place, error) for place in told}
            if not left:
                break
        return told

    def _told(self, place: int, error: Exception | None) -> Exception | None:
        """Return why a blob has no name, as whoever writes hears it."""
        is_taken = isinstance(error, OSError) and error.errno in TAKEN
        return taken(self._infos[place]) if is_taken else error

    def _outcome(self, place: int, told: Exception | None) -> BlobInfo | Exception:
        info = self._infos[place]
        if isinstance(told, nameless.NotHere):
            try:
                self._write_folder(place)
            except (AtelierError, OSError) as error:
                return error
            return info
        return told or info

    def _write_folder(self, place: int) -> None:
        """Write a blob as large ones are: where no file is without a name. Raises AlreadyExists if its key is taken."""
        draft = self._drafts.new(self._bucket, self._infos[place].key)
        try:
            with (draft / DATA).open("xb") as data:
                data.write(self._blobs[place].data)
                data.flush()
                os.fsync(data.fileno())
            self._drafts.publish(draft, self._infos[place])
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def _named(descriptor: int, folder: int, name: str) -> Exception | None:
    try:
        nameless.give_name(descriptor, folder, name)
    except (OSError, nameless.NotHere) as error:
        return error
    return None
