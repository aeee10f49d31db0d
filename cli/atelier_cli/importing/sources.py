"""Where rows come from: the files of a folder, or dumped tables with their files. Only this module reads the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from atelier_cli.exits import UsageError
from atelier_cli.importing import seed_tables
from atelier_cli.importing.seed_tables import Row
from service_kit.descriptions import every_tool, texts
from service_kit.descriptions.described import Described

_LARGEST_DUMP = 1 << 30
_LARGEST_BESIDE = 1 << 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file to take over.

    Attributes:
        row: what the report calls it: a path in the gallery, or a table and an id.
        where: the path that its key is made of: what has the same one, and the same bytes, is the same file.
        saved: whether it becomes an item; else it stays an asset of the workspace.
    """

    row: str
    path: Path
    where: str
    described: Described
    saved: bool
    title: str = ""
    tags: tuple[str, ...] = ()
    favourite: bool = False


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that cannot be taken over, and why, as a sentence."""

    row: str
    why: str


class Source(Protocol):
    """What is brought in."""

    def count(self) -> int:
        """Return how many rows there are, for the bar."""

    def rows(self) -> Iterator[Candidate | Unusable]:
        """Give every row, in an order that is the same at the next run."""


class FolderSource:
    """The pictures and videos below a folder. Other files are passed over."""

    def __init__(self, root: Path, *, saved: bool) -> None:
        self._root = root
        self._saved = saved

    def count(self) -> int:
        """Return how many pictures and videos there are, and folders that cannot be read."""
        return sum(1 for _ in self._files())

    def rows(self) -> Iterator[Candidate | Unusable]:
        """Give every picture and video, by its path."""
        for path in self._files():
            if isinstance(path, Unusable):
                yield path
                continue
            where = path.relative_to(self._root).as_posix()
            try:
                where.encode("utf-8")
                # Whoever opened a pipe would wait for ever for what comes out of it.
                if path.exists() and not path.is_file():
                    yield Unusable(where, "it is no file")
                    continue
                described = _described(path)
            except UnicodeEncodeError:
                yield Unusable(ascii(where), "its name is not UTF-8")
            except OSError as error:
                yield Unusable(where, f"it cannot be read: {error.strerror or error}")
            else:
                yield Candidate(where, path, where, described, self._saved)

    def _files(self) -> Iterator[Path | Unusable]:
        unread: list[OSError] = []
        for parent, folders, names in os.walk(self._root, onerror=unread.append):
            yield from self._unread(unread)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if Path(name).suffix.lower() in every_tool.PICTURES | every_tool.VIDEOS and not name.startswith("."):
                    yield Path(parent, name)
        yield from self._unread(unread)

    def _unread(self, errors: list[OSError]) -> Iterator[Unusable]:
        """Give the folders that could not be listed."""
        for error in errors:
            where = os.path.relpath(error.filename, self._root).encode("utf-8", "backslashreplace").decode()
            yield Unusable(where, f"the folder cannot be read: {error.strerror}")
        errors.clear()


class TablesSource:
    """Dumps of the old tables, with their files below a folder."""

    def __init__(self, dumps: Sequence[Path], files: Path, *, user: str) -> None:
        """Choose the dumps, where their files are, and whose rows are taken; all, if they are of one user."""
        self._dumps = dumps
        self._files = files.resolve()
        self._user = user

    def count(self) -> int:
        """Return how many rows of the user there are.

        Raises:
            UsageError: the rows are of several users, and none was named; or a dump cannot be read.
        """
        users: set[str] = set()
        number = 0
        for row in self._read():
            if isinstance(row, Row) and row.user and not self._user:
                users.add(row.user)
            number += 1
        if len(users) > 1:
            some = ", ".join(sorted(users)[:5])
            raise UsageError(
                f"the dump has rows of {len(users)} users ({some}{', …' if len(users) > 5 else ''}); "
                "name one with --user, and use the key of the owner who gets them"
            )
        return number

    def rows(self) -> Iterator[Candidate | Unusable]:
        """Give a row for each file of each row."""
        for row in self._read():
            if isinstance(row, Unusable):
                yield row
            elif row.problem:
                yield Unusable(row.name, row.problem)
            else:
                yield from self._candidates(row)

    def _candidates(self, row: Row) -> Iterator[Candidate | Unusable]:
        for number, places in enumerate(row.files, start=1):
            name = row.name if len(row.files) == 1 else f"{row.name} file {number}"
            found = next((path for place in places if (path := self._inside(place)) is not None), None)
            if found is None:
                yield Unusable(name, f"its file is not there: {places[0]}")
                continue
            kind = "library" if row.saved else "workspace"
            where = f"{kind}/{found.relative_to(self._files).as_posix()}"
            yield Candidate(name, found, where, row.described, row.saved, row.title, row.tags, row.favourite)

    def _inside(self, place: str) -> Path | None:
        """Return the file at a place, unless a link leads out of the folder."""
        try:
            path = (self._files / place).resolve()
            return path if path.is_file() and path.is_relative_to(self._files) else None
        except OSError:
            return None

    def _read(self) -> Iterator[Row | Unusable]:
        for dump in self._dumps:
            table, kind = dump.stem, dump.suffix[1:].lower()
            if dump.stat().st_size > _LARGEST_DUMP:
                raise UsageError(f"{dump} is larger than {_LARGEST_DUMP >> 20} MiB; split it, as CSV or JSON lines")
            try:
                text = dump.read_text("utf-8")
                for number, given in enumerate(seed_tables.read_rows(text, kind), start=1):
                    if isinstance(given, str):
                        yield Unusable(f"{table} number {number}", given)
                        continue
                    row = seed_tables.read_row(table, number, given)
                    if not self._user or row.user == self._user:
                        yield row
            except ValueError as error:
                raise UsageError(f"{dump} cannot be read: {str(error)[:300]}") from error


def open_source(path: Path, *, files: Path | None, user: str, saved: bool) -> Source:
    """Return what is at a path: dumps of the old tables, if it is one or a folder that has some, else a gallery.

    Raises:
        UsageError: there is nothing at the path, or a file that is no dump.
    """
    if not path.exists():
        raise UsageError(f"there is nothing at {path}")
    if path.is_file():
        if not _is_dump(path):
            names = ", ".join(seed_tables.TABLES)
            raise UsageError(f"{path.name} is no dump: a folder is expected, or {names} as .csv, .json or .jsonl")
        return TablesSource([path], files or path.parent, user=user)
    dumps = sorted((entry for entry in path.iterdir() if entry.is_file() and _is_dump(entry)), key=_in_order)
    if dumps:
        return TablesSource(dumps, files or path, user=user)
    return FolderSource(path, saved=saved)


def _is_dump(path: Path) -> bool:
    return path.stem in seed_tables.TABLES and path.suffix[1:].lower() in seed_tables.KINDS


def _in_order(path: Path) -> tuple[int, str]:
    # A file that is in both tables of the workspace is taken with what the newer one says of it.
    newest_first = ("user_library", "workspace_assets", "workspace_items")
    return newest_first.index(path.stem), path.suffix


def _described(path: Path) -> Described:
    found: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    if path.suffix.lower() in every_tool.PICTURES:
        try:
            with path.open("rb") as file:
                found = texts.texts_of(file)
        except texts.TooLong as error:
            found, notes = error.found, (str(error),)
    beside = path.with_suffix(".txt")
    text = ""
    try:
        if beside.is_file() and beside.stat().st_size <= _LARGEST_BESIDE:
            text = beside.read_text("utf-8-sig", "replace")
    except OSError as error:
        notes = (*notes, f"{beside.name} beside it cannot be read: {error.strerror or error}")
    described = every_tool.describe(found, text)
    if notes:
        described = replace(described, notes=(*notes, *described.notes))
    return described
