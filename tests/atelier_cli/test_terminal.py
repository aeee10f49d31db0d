"""Words of engines, files and other people steer no terminal, and go as they are to where no terminal is."""

from __future__ import annotations

import argparse
import io
import sys

import pytest

from atelier_cli import progress
from atelier_cli.context import Context
from atelier_cli.exits import USAGE, complain
from atelier_client.events import JobEvent, LogLine, Progress
from tests.atelier_cli.conftest import Run
from tests.atelier_client.scripted import ScriptedApi, reply_json

HOSTILE = "a\x1b]0;title\x07 [/b] \x9b2J ü 👩‍🚀"
SHOWN = r"a\x1b]0;title\x07 [/b] \x9b2J ü 👩‍🚀"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_others_wrote_is_seen_on_a_terminal_and_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(argparse.Namespace())
    for stdout, expected in ((Terminal(), SHOWN), (io.StringIO(), HOSTILE)):
        monkeypatch.setattr(sys, "stdout", stdout)
        context.print(HOSTILE)
        context.table(("PROMPT",), [(HOSTILE,)])
        assert stdout.getvalue().splitlines()[-1] == expected
        assert expected in stdout.getvalue()
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    complain(HOSTILE)
    assert stderr.getvalue() == f"{SHOWN}\n"


def test_the_words_of_an_engine_are_no_markup_of_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("COLUMNS", "200")
    with progress.Bars(1) as bars:
        bars.show(JobEvent("progress", progress=Progress("", "generate", 0, 1, 2, 0.5, HOSTILE)))
        bars.show(JobEvent("log", log=LogLine("", HOSTILE)))
    assert stderr.getvalue().count(SHOWN) >= 2
    assert HOSTILE not in stderr.getvalue()


def test_who_ends_the_question_erases_nothing(run: Run, api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keyboard(Terminal):
        """Somebody presses Ctrl-D."""

    monkeypatch.setattr(sys, "stdin", Keyboard())
    api.script(reply_json({"tenant_id": "main"}), reply_json({"keys": [], "next_page_token": ""}))
    done = run("erase", "--owner", "ann", "--url", api.url)
    assert (done.code, done.out) == (USAGE, "Type the owner's name to go on: ")
    # Whoever is asked knows by then that there may be no such owner.
    unknown, asked, ended = done.err.splitlines()
    assert unknown.startswith("No key of ann is known")
    assert asked.startswith("Everything of ann goes")
    assert ended == "atelier: Nothing was erased."
    assert [seen.method for seen in api.seen] == ["GET", "GET"]
