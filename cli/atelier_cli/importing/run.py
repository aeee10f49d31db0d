"""The run of an import: each file is described, uploaded, saved and labelled, at most once, however often it is run."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atelier_cli.importing.progress_file import ProgressFile
from atelier_cli.importing.sources import Candidate, Source, Unusable
from atelier_client import (
    Asset,
    Atelier,
    Item,
    NotAllowed,
    NotAuthenticated,
    Refused,
    SaveResult,
    Timeout,
    Unavailable,
)

_SAVED_AT_ONCE = 50
_UPLOADED_AT_ONCE = 4
_PIECE = 1 << 20
_FOR_ALL = (Unavailable, NotAuthenticated, NotAllowed)
"""What would be said of every other row, too."""


@dataclass
class Outcome:
    """What an import did: how many files it took, how many were there, and what it could not take, and why."""

    taken: int = 0
    there_already: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as the report has it."""
        return {
            "taken": self.taken,
            "there_already": self.there_already,
            "refused": [{"row": row, "why": why} for row, why in self.refused],
            "notes": [{"row": row, "note": note} for row, note in self.notes],
        }


@dataclass(frozen=True)
class _Brought:
    """A file whose asset is there, and whether this run has brought it."""

    candidate: Candidate
    stat: os.stat_result
    asset: Asset
    new: bool


class Import:
    """Brings in what a source has."""

    def __init__(
        self, client: Atelier, source: Source, progress: ProgressFile, tell: Callable[[Outcome], None]
    ) -> None:
        """Prepare; `tell` is called after each row."""
        self._client = client
        self._source = source
        self._progress = progress
        self._tell = tell
        self._outcome = Outcome()
        self._waiting: list[_Brought] = []
        self._seen: set[str] = set()

    def run(self) -> Outcome:
        """Take over every row. A row that is refused stops no other.

        Raises:
            AtelierError: the system cannot be reached, or does not know the caller; the next run goes on from here.
        """
        with ThreadPoolExecutor(_UPLOADED_AT_ONCE, "import") as threads:
            for result in self._brought(threads):
                if isinstance(result, Unusable):
                    self._refuse(result.row, result.why)
                elif result is not None:
                    self._take(result)
                if len(self._waiting) >= _SAVED_AT_ONCE:
                    self._save()
                self._tell(self._outcome)
        self._save()
        self._tell(self._outcome)
        return self._outcome

    def _brought(self, threads: ThreadPoolExecutor) -> Iterator[_Brought | Unusable | None]:
        """Give the results of all rows in their order, some of them brought in at once; None for what is done."""
        running: deque[Future[_Brought | Unusable]] = deque()
        try:
            for row in self._source.rows():
                if isinstance(row, Unusable) or (stat := self._to_do(row)) is None:
                    while running:
                        yield running.popleft().result()
                    yield row if isinstance(row, Unusable) else None
                    continue
                running.append(threads.submit(self._bring, row, stat))
                if len(running) > 2 * _UPLOADED_AT_ONCE:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()

    def _to_do(self, candidate: Candidate) -> os.stat_result | None:
        """Return what the file is like; None when it was taken over already, or stands in another row, too."""
        try:
            stat = candidate.path.stat()
        except OSError:
            # Whoever reads it says why it cannot be read.
            return os.stat_result((0,) * 10)
        if candidate.where in self._seen or self._progress.is_done(candidate.where, stat):
            self._outcome.there_already += 1
            return None
        self._seen.add(candidate.where)
        return stat

    def _bring(self, candidate: Candidate, stat: os.stat_result) -> _Brought | Unusable:
        """Describe and upload a file unless it is there. Runs beside others: changes nothing of the run."""
        try:
            key = import_key(candidate.where, candidate.path)
            made = candidate.described
            described = self._client.describe_import(
                key,
                prompt=made.prompt,
                negative_prompt=made.negative_prompt,
                enhanced_prompt=made.enhanced_prompt,
                model=made.model,
                seed=made.seed,
                width=made.width or None,
                height=made.height or None,
                steps=made.steps or None,
                sampler=made.sampler,
                guidance=made.guidance,
                tool=made.tool,
                path=_plain(candidate.where)[-1024:],
                made_at=made.made_at,
            )
            if described.asset is not None:
                return _Brought(candidate, stat, described.asset, new=False)
            asset = self._client.upload(candidate.path, _plain(candidate.path.name)[-255:], import_key=key)
            return _Brought(candidate, stat, asset, new=True)
        except OSError as error:
            return Unusable(candidate.row, f"it cannot be read: {error.strerror or error}")
        except (Refused, Timeout) as error:
            if isinstance(error, _FOR_ALL):
                raise
            return Unusable(candidate.row, _sentence(error))

    def _take(self, brought: _Brought) -> None:
        candidate, asset = brought.candidate, brought.asset
        self._outcome.notes += [(candidate.row, note) for note in candidate.described.notes if brought.new]
        if asset.state == "available" and candidate.saved:
            self._waiting.append(brought)
        elif candidate.saved and not asset.saved_item_id:
            self._refuse(candidate.row, "it was brought in before and discarded since")
        else:
            self._finish(brought, new=brought.new)

    def _finish(self, brought: _Brought, *, new: bool) -> None:
        self._progress.done(brought.candidate.where, brought.stat, brought.asset.asset_id)
        if new:
            self._outcome.taken += 1
        else:
            self._outcome.there_already += 1

    def _save(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        results = self._client.save(*(one.asset.asset_id for one in waiting))
        for one, result in _paired(waiting, results):
            if result is None or result.item is None:
                why = result.failure.message if result is not None and result.failure is not None else "no answer came"
                self._refuse(one.candidate.row, f"it could not be saved: {why}")
                continue
            self._label(one.candidate, result.item)
            # The library has it; what expires in the workspace would only be in the way.
            self._client.discard(one.asset.asset_id)
            self._finish(one, new=True)

    def _label(self, candidate: Candidate, item: Item) -> None:
        if not (candidate.title or candidate.tags or candidate.favourite):
            return
        try:
            self._client.update_item(
                item.item_id,
                title=candidate.title or None,
                is_favourite=candidate.favourite or None,
                tags=candidate.tags or None,
            )
        except Refused as error:
            if isinstance(error, _FOR_ALL):
                raise
            note = f"it is saved, but without its title, tags and mark: {_sentence(error)}"
            self._outcome.notes.append((candidate.row, note))

    def _refuse(self, row: str, why: str) -> None:
        self._outcome.refused.append((row, why))


def import_key(where: str, path: Path) -> str:
    """Return the key of a file: of where it is and of its bytes. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return hashlib.sha256(f"{where}\0{digest.hexdigest()}".encode()).hexdigest()


def _plain(name: str) -> str:
    """Return a name without control characters: a file may have them in its name, and the API takes none."""
    return "".join(" " if unicodedata.category(mark) == "Cc" else mark for mark in name)


def _paired(waiting: list[_Brought], results: tuple[SaveResult, ...]) -> Iterator[tuple[_Brought, SaveResult | None]]:
    by_id = {result.asset_id: result for result in results}
    for one in waiting:
        yield one, by_id.get(one.asset.asset_id)


def _sentence(error: Exception) -> str:
    fields = getattr(error, "fields", ())
    said = "; ".join(f"{problem.field} {problem.message}" for problem in fields)
    return f"{error} ({said})" if said and said not in str(error) else str(error)
