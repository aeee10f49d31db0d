"""Words of engines, files and other people steer no terminal, and go as they are to where no terminal is."""

from __future__ import annotations

import argparse
import io
import sys

import pytest

from atelier_cli import progress
from atelier_cli.commands.sweep import erase
from atelier_cli.context import Context
from atelier_cli.exits import UsageError, complain
from atelier_client.events import JobEvent, LogLine, Progress

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


def test_who_ends_the_question_erases_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Keyboard(Terminal):
        """Somebody presses Ctrl-D."""

    monkeypatch.setattr(sys, "stdin", Keyboard())
    with pytest.raises(UsageError, match="Nothing was erased"):
        erase(Context(argparse.Namespace(yes=False, owner_id="ann", tenant_id="default")))
