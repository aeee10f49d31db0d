"""`atelier import`: an existing gallery comes in, with a bar, and can be gone on with."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atelier_cli.context import Context
from atelier_cli.exits import OK, REFUSED, Ended, complain

if TYPE_CHECKING:
    from atelier_cli.importing.run import Outcome

_SHOWN = 20


def import_gallery(context: Context) -> int:
    """Bring in a gallery; the exit code tells whether every row was taken."""
    from atelier_cli.importing.progress_file import ProgressFile
    from atelier_cli.importing.run import Import
    from atelier_cli.importing.sources import open_source
    from atelier_client import AtelierError, Refused

    arguments = context.arguments
    path = Path(arguments.path).expanduser()
    files = Path(arguments.files).expanduser() if arguments.files else None
    source = open_source(path, files=files, user=arguments.user, saved=arguments.to == "library")
    total = source.count()
    with context.client() as client:
        caller = client.identity()
        about = {
            "path": str(path.resolve()),
            "to": arguments.to,
            "url": context.url,
            "owner": f"{caller.tenant_id}/{caller.owner_id}",
        }
        state = _state_file(context, about)
        with ProgressFile(state, about) as progress, _shown(context, total) as tell:
            try:
                outcome = Import(client, source, progress, tell).run()
            except AtelierError as error:
                if isinstance(error, Refused) and error.status in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
                    raise
                complain("The import broke off. Run the same command again: it goes on where it was.")
                raise
    report = Path(arguments.report).expanduser() if arguments.report else state.with_suffix(".report.json")
    _write_report(report, {"about": about, "rows": total, **outcome.as_json()})
    return _end(context, outcome, report)


def _state_file(context: Context, about: dict[str, str]) -> Path:
    if context.arguments.state:
        return Path(context.arguments.state).expanduser()
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return context.settings.core.data_dir / "imports" / f"{name}.jsonl"


def _end(context: Context, outcome: Outcome, report: Path) -> int:
    if context.json:
        context.print_json(outcome.as_json() | {"report": str(report)})
    else:
        context.print(f"{outcome.taken} taken, {outcome.there_already} there already, {len(outcome.refused)} not taken")
        for row, why in outcome.refused[:_SHOWN]:
            context.note(f"  {_visible(row)}: {_visible(why)}")
        if len(outcome.refused) > _SHOWN:
            context.note(f"  … and {len(outcome.refused) - _SHOWN} more")
        if outcome.notes:
            context.note(f"{len(outcome.notes)} were taken with a remark")
        if outcome.refused or outcome.notes:
            context.note(f"the report is {report}")
    return REFUSED if outcome.refused else OK


def _visible(text: str) -> str:
    """Return a text in which nothing moves the cursor: names of files come from anywhere."""
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)


def _write_report(path: Path, report: dict[str, object]) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", "utf-8")
        partial.replace(path)
    except OSError as error:
        raise Ended(REFUSED, f"atelier: the report {path} cannot be written: {error.strerror}") from error


@contextmanager
def _shown(context: Context, total: int) -> Iterator[Callable[[Outcome], None]]:
    """Give what shows how far the import is: a bar on a terminal, else a line at each tenth, nothing with --json."""
    if context.json:
        yield lambda outcome: None
    elif not sys.stderr.isatty():
        yield _Tenths(total).tell
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=total)

            def draw(outcome: Outcome) -> None:
                refused = f"{len(outcome.refused)} not taken" if outcome.refused else ""
                progress.update(task, completed=_rows(outcome), description=refused)

            yield draw


class _Tenths:
    def __init__(self, total: int) -> None:
        self._total = max(1, total)
        self._last = 0

    def tell(self, outcome: Outcome) -> None:
        tenth = 10 * _rows(outcome) // self._total
        if tenth > self._last:
            self._last = tenth
            complain(f"{_rows(outcome)} of {self._total}, {len(outcome.refused)} not taken")


def _rows(outcome: Outcome) -> int:
    return outcome.taken + outcome.there_already + len(outcome.refused)
