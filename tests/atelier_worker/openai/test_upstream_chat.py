"""Conversations with an upstream, over real connections: what is asked, what comes through, and every way to fail."""

from __future__ import annotations

import json
import logging
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

from atelier_worker.engine import Cancelled, EngineError
from tests.atelier_worker.openai.stand_in import (
    DONE,
    Exchange,
    Heard,
    StandIn,
    Time,
    asks,
    engine_for,
    event,
    heard,
    refuses,
    says,
    streams,
)

_ODD = "The upstream answered 307, which its API does not do; the worker's log says more."
_POOR = "The upstream's quota is used up; the worker's log says more."
_WHOLE = (event("A "), event("kite.", usage=None), event(finish="stop"), event(usage=(11, 3)), DONE)


def test_a_text_is_streamed_with_its_reason_and_counts(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(*_WHOLE))
    context = heard(tmp_path)
    engine_for(upstream).run(asks(), context)
    assert context.text == ["A ", "kite."]
    assert context.finishes == [("stop", 11, 3)]


def test_what_was_asked_for_is_passed_on_and_nothing_else(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(*_WHOLE))
    engine = engine_for(upstream)
    engine.run(asks(), heard(tmp_path))
    engine.run(asks(max_tokens=9, temperature=0.0, top_p=0.5, stop=("END",)), heard(tmp_path))
    first, second = (one.json for one in upstream.asked)
    assert first == {
        "model": "Qwen/Qwen3-8B",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What do you see?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 7,
    }
    assert second == first | {"max_tokens": 9, "temperature": 0.0, "top_p": 0.5, "stop": ["END"]}
    assert upstream.asked[0].path == "/v1/chat/completions"


def test_a_model_may_take_its_limit_under_another_name_and_no_seed(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(*_WHOLE))
    model = {"max_tokens_field": "max_completion_tokens", "seeds": False}
    engine_for(upstream, model=model).run(asks(max_tokens=9), heard(tmp_path))
    assert upstream.asked[0].json["max_completion_tokens"] == 9
    assert "max_tokens" not in upstream.asked[0].json
    assert "seed" not in upstream.asked[0].json


def test_pieces_may_be_split_anywhere_with_comments_between(upstream: StandIn, tmp_path: Path) -> None:
    whole = (
        b"\xef\xbb\xbf: ping\r\n\r\n"
        + event("K\u00f6nig ").replace(b"\n", b"\r\n")
        + b": still here\n\n"
        + b"".join(_WHOLE)
    )
    upstream.answer(streams(*(whole[at : at + 1] for at in range(len(whole)))))
    context = heard(tmp_path)
    engine_for(upstream).run(asks(), context)
    assert "".join(context.text) == "K\u00f6nig A kite."


@pytest.mark.parametrize(
    ("reason", "finish"), [("stop", "stop"), ("length", "length"), ("eos_token", "stop"), (None, "stop")]
)
def test_every_reason_to_end_a_text_has_a_name(
    reason: str | None, finish: str, upstream: StandIn, tmp_path: Path
) -> None:
    upstream.answer(streams(event("x", finish=reason), DONE))
    context = heard(tmp_path)
    engine_for(upstream).run(asks(), context)
    assert context.finishes == [(finish, None, None)]


@pytest.mark.parametrize(("reason", "words"), [("content_filter", "filter of contents"), ("tool_calls", "call a tool")])
def test_an_end_that_is_no_text_fails(reason: str, words: str, upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(event("x", finish=reason), DONE))
    with pytest.raises(EngineError, match=words):
        engine_for(upstream).run(asks(), heard(tmp_path))


def test_the_stream_may_end_without_saying_done_when_it_said_why(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(event("x"), event(finish="stop")))
    context = heard(tmp_path)
    engine_for(upstream).run(asks(), context)
    assert context.text == ["x"]


@pytest.mark.parametrize("answer", [streams(event("half "), cut=True), streams(event("half "))])
def test_a_stream_that_is_cut_in_the_middle_is_not_asked_for_again(
    answer: Any, upstream: StandIn, tmp_path: Path
) -> None:
    upstream.answer(answer)
    context = heard(tmp_path)
    with pytest.raises(EngineError, match="in the middle of the text") as failed:
        engine_for(upstream).run(asks(), context)
    assert not failed.value.retryable
    assert len(upstream.asked) == 1
    assert context.text == ["half "]


@pytest.mark.parametrize(
    "first",
    [
        streams(cut=True),
        streams(),
        streams(b"data: no json\n\n"),
        streams(b"data: " + 100_000 * b"[" + b"\n\n"),
        streams(b'data: {"error": {"message": "CUDA is busy", "code": 503}}\n\n'),
        streams(b"data: " + (1 << 20) * b"x", b"x"),
        streams(event("x" * (1 << 20))),
        says(200, {"error": {"message": "the model is loading", "type": "server_error"}}),
        refuses(429, "slow down"),
        refuses(500, "oh"),
        says(502, b"<html>bad gateway</html>"),
    ],
    ids=[
        "cut",
        "nothing",
        "nonsense",
        "deep",
        "error-event",
        "endless-line",
        "huge-delta",
        "200-busy",
        "429",
        "500",
        "502",
    ],
)
def test_what_failed_before_the_first_word_is_tried_again(first: Any, upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(first, streams(*_WHOLE))
    context, time = heard(tmp_path), Time()
    engine_for(upstream, time).run(asks(), context)
    assert "".join(context.text) == "A kite."
    assert len(upstream.asked) == 2
    assert 0.25 <= sum(time.slept) <= 0.5
    assert "trying the upstream again, 1 of 3" in context.phases


def test_tries_are_bounded_and_their_waits_grow(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(refuses(503, "loading the model"))
    time = Time()
    with pytest.raises(EngineError, match=r"^The upstream failed \(503: loading the model\)\.$") as failed:
        engine_for(upstream, time, attempts=3).run(asks(), heard(tmp_path))
    assert failed.value.retryable
    assert len(upstream.asked) == 3
    assert 0.75 <= sum(time.slept) <= 1.5


def test_the_upstream_says_how_long_to_wait(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(refuses(429, "slow down", None, ("retry-after", "7")), streams(*_WHOLE))
    time = Time()
    engine_for(upstream, time).run(asks(), heard(tmp_path))
    assert 7 <= sum(time.slept) <= 8


def test_a_wait_that_is_too_long_is_left_to_others(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(refuses(429, "slow down", None, ("retry-after", "900")))
    with pytest.raises(EngineError, match="asks to wait 900 seconds") as failed:
        engine_for(upstream).run(asks(), heard(tmp_path))
    assert failed.value.retryable
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            refuses(400, "max_tokens is too\nlarge: 9999."),
            "The upstream refused the request (400: max_tokens is too large: 9999).",
        ),
        (refuses(404, "no such model"), "The upstream has no model 'Qwen/Qwen3-8B', or does not offer this."),
        (refuses(429, "pay first", "insufficient_quota"), _POOR),
        (says(422, {"detail": "no"}), "The upstream refused the request (422: no)."),
        (says(400, {"error": "no"}), "The upstream refused the request (400: no)."),
        (says(400, b"\xff"), "The upstream refused the request (400)."),
        (says(307, b"", ("location", "http://127.0.0.1:9/")), _ODD),
        (says(200, {"error": {"message": "no such voice"}}), "The upstream failed: no such voice"),
        (says(200, b"{" * 100_000), "The upstream answered with application/json and not with a stream of events."),
        (says(200, {"choices": []}), "The upstream answered with application/json and not with a stream of events."),
    ],
)
def test_what_would_fail_again_is_not_tried_again(
    answer: Any, sentence: str, upstream: StandIn, tmp_path: Path
) -> None:
    upstream.answer(answer)
    with pytest.raises(EngineError) as failed:
        engine_for(upstream).run(asks(), heard(tmp_path))
    assert str(failed.value) == sentence
    assert not failed.value.retryable
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_told_to_the_operator_and_shown_to_nobody(
    status: int, upstream: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = "very-secret-0123456789"
    (tmp_path / "key").write_text(key + "\n")
    upstream.answer(refuses(status, f"the key {key} is unknown"))
    engine = engine_for(upstream, api_key_file=str(tmp_path / "key"))
    context = heard(tmp_path)
    with caplog.at_level(logging.DEBUG), pytest.raises(EngineError) as failed:
        engine.run(asks(), context)
    assert str(failed.value) == "The upstream does not let this worker in; the worker's log says why."
    assert upstream.asked[0].headers["authorization"] == f"Bearer {key}"
    assert "api_key_file" in caplog.text
    everything = caplog.text + repr(engine.__dict__) + "".join(traceback.format_exception(failed.value)) + str(context)
    assert key not in everything


def test_an_upstream_that_is_not_there_is_tried_again(upstream: StandIn, tmp_path: Path) -> None:
    time = Time()
    engine = engine_for(upstream, time, url="http://127.0.0.1:9/v1")
    with pytest.raises(EngineError, match="cannot be reached") as failed:
        engine.run(asks(), heard(tmp_path))
    assert failed.value.retryable
    assert time.slept


def test_a_cancelled_conversation_hangs_up_within_one_token(upstream: StandIn, tmp_path: Path) -> None:
    hung_up: list[bool] = []
    ended = threading.Event()

    def talks_on(exchange: Exchange) -> None:
        exchange.head(200, ("content-type", "text/event-stream"))
        exchange.piece(event("one "))
        exchange.piece(event("two "))
        hung_up.append(exchange.wait_until_gone())
        ended.set()

    upstream.answer(talks_on)
    context = heard(tmp_path, cancel_when=lambda so_far: len(so_far.text) >= 1)
    with pytest.raises(Cancelled):
        engine_for(upstream).run(asks(), context)
    assert ended.wait(10)
    assert hung_up == [True]
    assert context.text == ["one "]


def test_a_job_that_is_cancelled_while_the_upstream_thinks_hangs_up(upstream: StandIn, tmp_path: Path) -> None:
    hung_up: list[bool] = []
    thinking, ended = threading.Event(), threading.Event()

    def thinks(exchange: Exchange) -> None:
        thinking.set()
        hung_up.append(exchange.wait_until_gone())
        ended.set()

    upstream.answer(thinks)
    with pytest.raises(Cancelled):
        engine_for(upstream).run(asks(), heard(tmp_path, cancel_when=lambda _: thinking.is_set()))
    assert ended.wait(10)
    assert hung_up == [True]


def test_silence_and_length_are_bounded(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(lambda exchange: (exchange.wait_until_gone(), None)[1])
    with pytest.raises(EngineError, match="took too long before it began") as idle:
        engine_for(upstream, idle_timeout="50ms", attempts=1).run(asks(), heard(tmp_path))
    with pytest.raises(EngineError, match=r"not done within 0\.05 seconds") as total:
        engine_for(upstream, timeout="50ms").run(asks(), heard(tmp_path))
    assert idle.value.retryable
    assert total.value.retryable


def test_the_limit_of_a_minute_is_waited_for_in_sight(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(*_WHOLE))
    time = Time()
    engine = engine_for(upstream, time, requests_per_minute=2)
    for _ in range(2):
        engine.run(asks(), heard(tmp_path))
    assert sum(time.slept) == 0
    context = heard(tmp_path)
    engine.run(asks(), context)
    assert sum(time.slept) == pytest.approx(60)
    assert context.phases.count("waiting for the upstream's limit") == 60


def test_tokens_count_as_the_upstream_counted_them(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(event("x", "stop", usage=(60, 30)), DONE))
    time = Time()
    engine = engine_for(upstream, time, tokens_per_minute=100)
    engine.run(asks(max_tokens=1), heard(tmp_path))
    engine.run(asks(max_tokens=1), heard(tmp_path))
    assert sum(time.slept) == 0, "ten are left, and eight are asked for"
    engine.run(asks(max_tokens=1), heard(tmp_path))
    assert sum(time.slept) == pytest.approx(60)


@pytest.mark.parametrize(
    "counts",
    ((10**400, 1), (2**40, 1), (-3, 1), (True, 1), ("4", 1), (1.5, 1)),
    ids=("huge", "large", "negative", "truth", "text", "part"),
)
def test_counts_that_cannot_be_count_for_nothing(counts: Any, upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(event("x", "stop"), _usage(*counts), DONE))
    time, prices = Time(), {"cost_per_million_input_tokens": 1}
    engine = engine_for(upstream, time, tokens_per_minute=100, model=prices)
    for _ in range(2):
        context = heard(tmp_path)
        engine.run(asks(max_tokens=1), context)
        assert context.lines == ["The upstream's Qwen/Qwen3-8B did not say how many tokens it took."]
    assert sum(time.slept) == 0, "nobody waits for what was never read"
    assert engine.counters() == {"requests": 2}


def _usage(read: Any, written: Any) -> bytes:
    chunk = {"choices": [], "usage": {"prompt_tokens": read, "completion_tokens": written}}
    return f"data: {json.dumps(chunk)}\n\n".encode()


def test_a_job_that_waits_for_the_limit_can_be_cancelled(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(*_WHOLE))
    engine = engine_for(upstream, requests_per_minute=1)
    engine.run(asks(), heard(tmp_path))

    def waits(so_far: Any) -> bool:
        return isinstance(so_far, Heard) and "waiting for the upstream's limit" in so_far.phases

    with pytest.raises(Cancelled):
        engine.run(asks(), heard(tmp_path, cancel_when=waits))
    assert len(upstream.asked) == 1


def test_tokens_and_cost_are_told(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(*_WHOLE))
    prices = {"cost_per_million_input_tokens": 100, "cost_per_million_output_tokens": 400.0}
    engine, context = engine_for(upstream, model=prices), heard(tmp_path)
    engine.run(asks(), context)
    assert context.lines == ["The upstream's Qwen/Qwen3-8B read 11 and wrote 3 tokens; cost 0.0023."]
    assert engine.counters() == {
        "requests": 1,
        "input_tokens": 11,
        "output_tokens": 3,
        "cost": pytest.approx(0.0023),
    }


def test_a_model_that_is_not_there_is_named(upstream: StandIn, tmp_path: Path) -> None:
    engine = engine_for(upstream, model={"name": "other"})
    with pytest.raises(EngineError, match="no model 'chat'; it has other") as raised:
        engine.run(asks(), heard(tmp_path))
    assert raised.value.retryable, "another worker of the pool may have it"
    anything = engine_for(upstream, model={"name": "*"})
    upstream.answer(streams(*_WHOLE))
    anything.run(asks(), heard(tmp_path))
    assert upstream.asked[0].json["model"] == "Qwen/Qwen3-8B"
