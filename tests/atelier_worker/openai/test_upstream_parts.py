"""The parts of the engine in front of an upstream: its options, limits of a minute, and the dates that servers send."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from atelier_worker.engine_options import OptionsError
from atelier_worker.engines.openai_engine import OpenAIEngine
from atelier_worker.engines.openai_engine.limits import MinuteLimits
from atelier_worker.engines.openai_engine.patience import asked_wait_s
from atelier_worker.engines.openai_engine.sse import LONGEST_EVENT_BYTES, BadStream, EventReader
from tests.atelier_worker.openai.stand_in import Time

_MODEL = {"name": "chat", "source": "Qwen/Qwen3-8B"}


def table(**changes: Any) -> dict[str, object]:
    return {"name": "talk", "engine": "openai", "url": "http://127.0.0.1:8000/v1", "models": [_MODEL], **changes}


def test_what_is_said_of_the_engine_comes_from_its_models() -> None:
    models: list[dict[str, Any]] = [
        {**_MODEL, "serves": ["chat"]},
        {"name": "p", "source": "gpt-image-1", "serves": ["images"]},
    ]
    engine = OpenAIEngine(table(slots=7, models=models))
    assert engine.concurrency == 7
    assert engine.models == ("chat", "p")
    assert engine.stages == ("chat", "generate")


def test_an_engine_names_the_models_that_are_asked_for_by_name() -> None:
    both = OpenAIEngine(table())
    assert (both.models, both.stages) == (("chat",), ("chat", "enhance"))
    apart = [{**_MODEL, "serves": ["chat"]}, {**_MODEL, "name": "scribe", "serves": ["enhance"]}]
    assert OpenAIEngine(table(models=apart)).models == ("chat",)
    assert OpenAIEngine(table(models=[{**_MODEL, "name": "*", "serves": ["chat"]}])).models == ()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"url": "127.0.0.1:8000"}, "url takes the address of an API"),
        ({"url": "http://me:secret@h/v1"}, "url takes the address of an API"),
        ({"models": []}, "name a model of the upstream"),
        ({"device": "cuda:0"}, "device is not known"),
        ({"api_key_file": "/nowhere/at/all"}, "api_key_file cannot be read: FileNotFoundError"),
        ({"outgoing_allow": ["http://x"]}, "outgoing_allow"),
        ({"models": [{**_MODEL, "serves": ["videos"]}]}, "serves takes chat, enhance, images, got 'videos'"),
        ({"models": [{**_MODEL, "serves": ["chat", "images"]}]}, "serves takes images alone"),
        ({"models": [{**_MODEL, "sizes": ["big"]}]}, "sizes takes sizes such as 1024x1024"),
        ({"models": [{**_MODEL, "serves": ["images"], "seeds": True, "images_per_request": 2}]}, "each picture is"),
        ({"models": [{**_MODEL, "cost": 1}]}, "cost is not known"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionsError, match=r"^\[\[engine\]\] talk|^outgoing_allow") as failed:
        OpenAIEngine(table(**changes))
    assert sentence in str(failed.value)
    assert "secret" not in str(failed.value)


def test_a_key_file_holds_one_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("two keys\nhere")
    with pytest.raises(OptionsError, match="one key on one line"):
        OpenAIEngine(table(api_key_file=str(tmp_path / "key")))


async def test_no_sixty_seconds_see_more_than_the_limit() -> None:
    time = Time()
    limits = MinuteLimits(3, 100, time.clock)
    passed: list[tuple[float, int]] = []
    for tokens in (10, 40, 40, 40, 5, 100, 1, 250, 1):
        passage = await limits.enter(tokens, time.sleep)
        passed.append((passage.at, tokens))
        await time.sleep(1)
    for at, _ in passed:
        window = [tokens for then, tokens in passed if at <= then < at + 60]
        assert len(window) <= 3
        assert sum(window) <= 100 or len(window) == 1
    assert passed[-1][0] - passed[0][0] < 6 * 60, "and no longer is waited than that takes"


async def test_who_waits_is_served_in_turn_and_who_leaves_holds_up_nobody() -> None:
    time = Time()
    limits = MinuteLimits(1, None, time.clock)
    await limits.enter(0, time.sleep)
    order: list[str] = []

    async def enter(name: str) -> None:
        async def wait(_seconds: float) -> None:
            time.now += 10
            await asyncio.sleep(0)

        await limits.enter(0, wait)
        order.append(name)

    first, second, third = (asyncio.create_task(enter(name)) for name in "abc")
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(second, third)
    assert order == ["b", "c"]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0.5 ", 0.5),
        ("Mon, 23 Nov 2026 00:01:00 GMT", 60.0),
        ("Sun, 22 Nov 2026 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        (f"Mon, 23 Nov 2026 00:01:00 +{'9' * 20}", None),
    ],
)
def test_a_wait_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert asked_wait_s(header, datetime(2026, 11, 23, tzinfo=UTC)) == seconds


def test_lines_may_end_in_three_ways_and_an_event_have_several() -> None:
    reader = EventReader()
    whole = b"event: x\rdata: a\rdata:b\r\rid: 1\n\ndata: c\r\n\r\n: no\n\nretry: 5\ndata\n\n"
    assert [event for at in range(len(whole)) for event in reader.feed(whole[at : at + 1])] == ["a\nb", "c", ""]
    assert reader.feed(b"data: never ended\n") == []


def test_a_long_line_in_very_small_pieces_is_read_once() -> None:
    # Read anew for each piece this is a hundred billion bytes, and nobody would wait for the end of this test.
    reader = EventReader()
    assert not any(reader.feed(piece) for piece in (b"data: ", *[b"x"] * 500_000))
    assert [len(event) for event in reader.feed(b"\n\n")] == [500_000]


def test_a_stream_without_an_end_of_line_is_not_kept() -> None:
    reader = EventReader()
    with pytest.raises(BadStream, match="larger than"):
        for _ in range(1 + (LONGEST_EVENT_BYTES >> 16)):
            reader.feed(b"x" * (1 << 16))
    with pytest.raises(BadStream, match="UTF-8"):
        EventReader().feed(b"data: \xff\n")
