"""The journal of outcomes: what is kept survives crashes and damage, what was answered goes, the file stays small."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker import journal as module
from atelier_worker.journal import Journal, JournalUnusable


def _outcome(name: str, text: str = "A heron") -> pb.Outcome:
    return pb.Outcome(ref=pb.LeaseRef(job_id=name, fence=1), completion_id=name, text=text)


def _names(journal: Journal) -> list[str]:
    return [outcome.completion_id for outcome in journal.kept()]


def _read_again(folder: Path) -> list[str]:
    """Return what the next process finds if this one is killed now."""
    return _names(Journal(folder))


def _file(folder: Path) -> Path:
    return folder / "journal"


def test_what_is_kept_is_read_again_as_it_was_oldest_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    outcomes = [_outcome(name, f"§ {name}" * 500) for name in ("b", "a", "c")]
    journal.change(outcomes[:1], [])
    journal.change(outcomes[1:], [])
    assert journal.kept() == outcomes
    assert Journal(tmp_path).kept() == outcomes


def test_what_was_answered_is_not_read_again_after_a_restart_and_another(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.change([_outcome("a"), _outcome("b")], [])
    journal.change([_outcome("c")], ["a", "never kept"])
    journal.change([], ["c"])
    again = Journal(tmp_path)
    assert _names(again) == ["b"]
    again.change([_outcome("d")], [])
    assert _read_again(tmp_path) == ["b", "d"]


def test_nothing_is_left_on_disk_of_texts_that_were_answered(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.change([_outcome("a"), _outcome("b")], [])
    journal.change([], ["a"])
    assert _file(tmp_path).stat().st_size > 0
    journal.change([], ["b"])
    assert _file(tmp_path).stat().st_size == 0
    journal.change([_outcome("c")], [])
    assert _read_again(tmp_path) == ["c"]


def test_a_torn_end_is_passed_over_wherever_it_was_torn(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.change([_outcome("a")], [])
    whole = _file(tmp_path).read_bytes()
    journal.change([_outcome("b")], [])
    both = _file(tmp_path).read_bytes()
    for cut in range(len(whole), len(both)):
        for filler in (b"", b"\0" * 100):
            _file(tmp_path).write_bytes(both[:cut] + filler)
            again = Journal(tmp_path)
            assert _names(again) == ["a"]
            again.change([_outcome("c")], [])
            again.close()
            assert _read_again(tmp_path) == ["a", "c"]
    assert not _file(tmp_path).with_suffix(".unreadable").exists()


def test_damage_costs_one_outcome_and_is_kept_for_a_person(tmp_path: Path) -> None:
    Journal(tmp_path).change([_outcome(name) for name in "abc"], [])
    sound = _file(tmp_path).read_bytes()
    for position in range(len(sound) // 3, 2 * len(sound) // 3):
        damaged = bytearray(sound)
        damaged[position] ^= 0x10
        _file(tmp_path).write_bytes(damaged)
        assert _read_again(tmp_path) == ["a", "c"]
        copy = _file(tmp_path).with_suffix(".unreadable")
        assert (copy.read_bytes(), copy.stat().st_mode & 0o777) == (bytes(damaged), 0o600)


def test_damage_that_cannot_be_put_aside_is_told_with_what_to_do(tmp_path: Path) -> None:
    Journal(tmp_path).change([_outcome(name) for name in "abc"], [])
    damaged = bytearray(_file(tmp_path).read_bytes())
    damaged[len(damaged) // 2] ^= 0x10
    _file(tmp_path).write_bytes(damaged)
    # Whoever writes there is told that the disk is full.
    copy = _file(tmp_path).with_suffix(".unreadable")
    copy.symlink_to("/dev/full")
    with pytest.raises(JournalUnusable) as caught:
        Journal(tmp_path)
    assert str(caught.value) == (
        f"The worker's journal {_file(tmp_path)} is damaged ({len(damaged) // 3} of {len(damaged)} bytes), and "
        "journal.unreadable, the copy for you to look at, cannot be written beside it: No space left on device. "
        f"Free {len(damaged)} bytes there; or move the journal away, and the outcomes in it are lost, and their jobs "
        "run again."
    )
    assert _file(tmp_path).read_bytes() == damaged
    copy.unlink()
    assert _read_again(tmp_path) == ["a", "c"]


def test_a_journal_that_cannot_be_read_is_told_with_what_to_do(tmp_path: Path) -> None:
    _file(tmp_path).mkdir()
    with pytest.raises(JournalUnusable, match=r"journal cannot be read: Is a directory\. Mend that; or move it away"):
        Journal(tmp_path)


def test_the_file_is_written_anew_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENOUGH_BYTES", 4000)
    journal = Journal(tmp_path)
    journal.change([_outcome("stays")], [])
    sizes = []
    for number in range(200):
        journal.change([_outcome(f"n{number}", "x" * 100)], [f"n{number - 1}"])
        sizes.append(_file(tmp_path).stat().st_size)
    assert max(sizes) <= 4000
    assert _read_again(tmp_path) == ["stays", "n199"]
    # What has to be kept may be more than that; it is not written anew each time.
    descriptors = set()
    for number in range(200):
        journal.change([_outcome(f"m{number}", "x" * 100)], [])
        descriptors.add(_file(tmp_path).stat().st_ino)
    assert len(descriptors) < 10
    assert len(_read_again(tmp_path)) == 202


def test_outcomes_of_one_moment_cost_one_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.change([_outcome("first")], [])
    flushed: list[bytes] = []
    flush: Callable[[int], None] = os.fsync

    def note(descriptor: int) -> None:
        flush(descriptor)
        flushed.append(_file(tmp_path).read_bytes())

    monkeypatch.setattr(os, "fsync", note)
    journal.change([_outcome(name) for name in "abc"], ["first"])
    assert flushed == [_file(tmp_path).read_bytes()]
    journal.change([], ["a"])
    assert len(flushed) == 1


def test_the_name_of_a_new_file_is_flushed_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> None:
        assert _file(path).exists()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "flush_folder", fails)
    with pytest.raises(OSError, match="Input/output"):
        Journal(tmp_path).change([_outcome("a")], [])


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_after_a_failure_the_file_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    journal = Journal(tmp_path)
    journal.change([_outcome("a")], [])
    inner = os.write

    def half(descriptor: int, content: memoryview) -> int:
        if len(content) < 20:
            raise OSError(28, "No space left on device")
        return inner(descriptor, content[: len(content) // 2])

    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, half if step == "write" else fails)
        for name in "bc":
            with pytest.raises(OSError, match=r"No space|Input/output"):
                journal.change([_outcome(name)], [])
            assert "a" in _read_again(tmp_path)
    # What could not be written is written with the next, unless it was answered meanwhile.
    journal.change([_outcome("d")], ["b"])
    assert _read_again(tmp_path) == ["a", "c", "d"]


def test_files_of_an_older_worker_are_read_until_the_journal_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.outcome").write_bytes(_outcome(name).SerializeToString())
    journal = Journal(tmp_path)
    assert _names(journal) == ["a", "b"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output"):
            journal.change([], ["a"])
    assert _read_again(tmp_path) == ["a", "b"]
    journal.change([], ["a"])
    assert [file.name for file in tmp_path.iterdir()] == ["journal"]
    assert _read_again(tmp_path) == ["b"]
