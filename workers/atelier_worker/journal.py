"""The journal of outcomes: one file to which records are appended, so that all outcomes of a moment cost one flush.

A record is a mark, a kind, the length of its body and a checksum (CRC-32 over kind, length and body). The body is an
outcome that is kept, or the completion id of one that was answered. What a killed process or a power cut left
unfinished at the end is no record, and was never called kept. The file is emptied when it keeps nothing, and when it
has grown it is written anew without what was answered.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from atelier.worker.v1 import worker_service_pb2 as pb
from service_kit.errors import FailedPrecondition
from service_kit.telemetry import get_logger

# In no text, since UTF-8 knows neither byte: what somebody wrote is never taken for a record where the disk is damaged.
_MARK = b"\xff\xfe\xff\xfe"
_KEEP, _FORGET = 1, 2
_MARK_AND_SUM = struct.Struct(">4sI")
_KIND_AND_LENGTH = struct.Struct(">BI")
_HEAD_BYTES = _MARK_AND_SUM.size + _KIND_AND_LENGTH.size
# The file may grow to this before it is written anew, and to twice what it then keeps.
_ENOUGH_BYTES = 1 << 20

log = get_logger(__name__)


class JournalUnusable(FailedPrecondition):
    """The journal of an earlier process cannot be read, or is damaged and cannot be put aside."""


class Journal:
    """The outcomes of one worker that are on disk. Everything here blocks, and is for one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Read what an earlier process kept in a folder, which must be there and this process's own.

        Raises:
            JournalUnusable: it cannot be read, or a damaged one cannot be copied; the sentence says what to do.
        """
        self._folder = folder
        self._path = folder / "journal"
        self._records = _read_files(folder) | _read_journal(self._path)
        # None while it is not known that the file ends with a whole record: then the next change writes it anew.
        self._descriptor: int | None = None
        self._size_bytes = 0
        self._most_bytes = _ENOUGH_BYTES

    def kept(self) -> list[pb.Outcome]:
        """Return the outcomes that are kept, oldest first."""
        return [pb.Outcome.FromString(record[_HEAD_BYTES:]) for record in self._records.values()]

    def change(self, keep: Sequence[pb.Outcome], forget: Sequence[str]) -> None:
        """Write outcomes so that neither a crash nor a power cut loses them, and leave out others by completion id.

        That something is left out is not flushed: after a power cut it may be kept again.

        Raises:
            OSError: not all of it was written; the next change tries it again.
        """
        added = [_record(_FORGET, name.encode()) for name in forget if self._records.pop(name, None) is not None]
        for outcome in keep:
            added.append(_record(_KEEP, outcome.SerializeToString()))
            self._records[outcome.completion_id] = added[-1]
        content = b"".join(added)
        try:
            if self._descriptor is None or self._size_bytes + len(content) > self._most_bytes:
                self._write_anew()
            elif self._records:
                self._append(self._descriptor, content, flush=bool(keep))
            elif self._size_bytes:
                # At once, as texts of people do not stay on disk for longer than they are needed.
                os.ftruncate(self._descriptor, 0)
                self._size_bytes = 0
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let the file go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, descriptor: int, content: bytes, *, flush: bool) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        if flush:
            os.fsync(descriptor)
        self._size_bytes += len(content)

    def _write_anew(self) -> None:
        """Replace the file, as a whole, by one with what is kept."""
        self.close()
        new = self._folder / ".journal.new"
        content = b"".join(self._records.values())
        self._descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size_bytes = 0
        self._append(self._descriptor, content, flush=True)
        new.replace(self._path)
        flush_folder(self._folder)
        self._most_bytes = max(_ENOUGH_BYTES, 2 * len(content))
        for file in _files(self._folder):
            file.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Found:
    """A sound record and where it ends."""

    kind: int
    body: bytes
    end: int


def _record(kind: int, body: bytes) -> bytes:
    rest = _KIND_AND_LENGTH.pack(kind, len(body)) + body
    return _MARK_AND_SUM.pack(_MARK, zlib.crc32(rest)) + rest


def _record_at(content: bytes, start: int) -> _Found | None:
    """Return the record that begins with a mark; None when it is not whole."""
    begin = start + _HEAD_BYTES
    if len(content) < begin:
        return None
    _, checksum = _MARK_AND_SUM.unpack_from(content, start)
    kind, length = _KIND_AND_LENGTH.unpack_from(content, start + _MARK_AND_SUM.size)
    end = begin + length
    if end > len(content) or zlib.crc32(content[start + _MARK_AND_SUM.size : end]) != checksum:
        return None
    return _Found(kind, content[begin:end], end)


def _records_in(content: bytes) -> Iterator[_Found]:
    """Yield the sound records. A damaged one costs none behind it."""
    at = content.find(_MARK)
    while at >= 0:
        found = _record_at(content, at)
        if found is not None:
            yield found
        at = content.find(_MARK, at + 1 if found is None else found.end)


def _read_journal(path: Path) -> dict[str, bytes]:
    """Return the records of what a journal keeps, by completion id, oldest first."""
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise JournalUnusable(
            f"The worker's journal {path} cannot be read: {error.strerror or error}. Mend that; or move it away, "
            "and the outcomes in it are lost, and their jobs run again."
        ) from error
    kept: dict[str, bytes] = {}
    end = damaged_bytes = 0
    for found in _records_in(content):
        record = content[found.end - _HEAD_BYTES - len(found.body) : found.end]
        damaged_bytes += found.end - len(record) - end
        end = found.end
        if found.kind == _FORGET:
            kept.pop(found.body.decode(), None)
        else:
            kept[pb.Outcome.FromString(found.body).completion_id] = record
    if damaged_bytes:
        # Appended and flushed, so the disk itself has lost it: keep it for a person, and go on.
        log.error("outcomes_unreadable", file=path.name, bytes=damaged_bytes)
        _put_aside(path, content, damaged_bytes)
    return kept


def _put_aside(path: Path, content: bytes, damaged_bytes: int) -> None:
    """Copy a damaged journal, which the next change would write anew without what is damaged."""
    copy = path.with_suffix(".unreadable")
    try:
        # Texts of people are in it.
        copy.touch(mode=0o600)
        copy.write_bytes(content)
    except OSError as error:
        raise JournalUnusable(
            f"The worker's journal {path} is damaged ({damaged_bytes} of {len(content)} bytes), and {copy.name}, the "
            f"copy for you to look at, cannot be written beside it: {error.strerror or error}. Free {len(content)} "
            "bytes there; or move the journal away, and the outcomes in it are lost, and their jobs run again."
        ) from error


def _files(folder: Path) -> list[Path]:
    """Return the files of a worker from before there was a journal, one for each outcome, oldest first."""
    return sorted(folder.glob("*.outcome"))


def _read_files(folder: Path) -> dict[str, bytes]:
    kept: dict[str, bytes] = {}
    for file in _files(folder):
        outcome = _outcome_in(file)
        if outcome is None:
            log.error("outcome_unreadable", file=file.name)
            file.replace(file.with_suffix(".unreadable"))
        else:
            kept[outcome.completion_id] = _record(_KEEP, outcome.SerializeToString())
    return kept


def _outcome_in(file: Path) -> pb.Outcome | None:
    """Return the outcome of a file; None when it is empty, cut off, or another one than its name says."""
    try:
        outcome = pb.Outcome.FromString(file.read_bytes())
    except DecodeError:
        return None
    # Bytes that break off between two fields are a message, too, but the result is missing.
    whole = outcome.completion_id == file.stem and outcome.ref.job_id and outcome.WhichOneof("result") is not None
    return outcome if whole else None


def flush_folder(path: Path) -> None:
    """Have what was made or renamed in a folder survive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
