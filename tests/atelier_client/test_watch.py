"""Watching: events in order, once each, over as many connections as it takes, and within its limits."""

from __future__ import annotations

import time
from itertools import count
from types import SimpleNamespace

import pytest

from atelier_client import BadReply, InvalidRequest, JobFailed, NotFound, Policy, Timeout, Unavailable, Unreachable
from tests.atelier_client.either import QUICK, Either
from tests.atelier_client.scripted import DROP, Reply, ScriptedApi, event, refusal, reply_json, stream

RUNNING = {"job_id": "j1", "state": "running"}
DONE = {"job_id": "j1", "state": "succeeded", "enhanced_prompt": "a fox at dawn"}
LONG_SECONDS = 20.0
FAILED = {"job_id": "j1", "state": "failed", "failure": {"reason": "engine_failed", "message": "It broke."}}


def test_events_are_typed_and_the_last_one_ends_it(api: ScriptedApi, client: Either) -> None:
    api.script(
        stream(
            event("snapshot", RUNNING, "c1"),
            event("progress", {"job_id": "j1", "stage": "generate", "step": 3, "steps": 8, "fraction": 0.375}),
            event("preview", {"job_id": "j1", "image": "AAEC", "content_type": "image/webp"}),
            event("text_delta", {"job_id": "j1", "offset": 2, "text": "fox"}),
            event("log", {"job_id": "j1", "line": "warm"}),
            event("comet", {"tail": 1}),
            event("state", DONE, "c2"),
            event("log", {"line": "never read"}),
        )
    )
    events = client.watch("j1")
    kinds = [got.kind for got in events]
    assert kinds == ["snapshot", "progress", "preview", "text_delta", "log", "comet", "state"]
    assert (events[0].cursor, events[1].cursor, events[-1].cursor) == ("c1", "", "c2")
    assert events[1].progress.fraction == 0.375
    assert events[2].preview.image == b"\0\1\2"
    assert events[3].text_delta.offset == 2
    assert events[4].log.line == "warm"
    assert events[6].job.ended
    assert len(api.seen) == 1
    assert api.seen[0].headers["accept"] == "text/event-stream"


@pytest.mark.parametrize("ending", ["whole", "silent"])
def test_the_end_of_a_stream_is_awaited_for_a_moment(
    api: ScriptedApi, client: Either, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then its connection serves the next request; a stream that does not end keeps nobody."""
    if ending == "whole":
        # However busy the machine is: the end comes.
        for module in ("_connection", "_async_connection"):
            monkeypatch.setattr(f"atelier_client.{module}.END_SECONDS", LONG_SECONDS)
    api.script(
        reply_json({"job_id": "j1"}), stream(event("state", DONE, "c1"), ending=ending), reply_json({"assets": []})
    )
    began = time.monotonic()
    assert client.generate("a fox", model="sdxl", format="image").assets == ()
    assert time.monotonic() - began < LONG_SECONDS
    assert len(api.connections) == (1 if ending == "whole" else 2)


@pytest.mark.parametrize(
    "trouble",
    [
        stream(event("snapshot", RUNNING, "c1"), ending="broken"),
        stream(event("snapshot", RUNNING, "c1")),
        stream(
            event("snapshot", RUNNING, "c1"), event("progress", {"step": 1}), b"event: state\ndata: {", ending="broken"
        ),
        stream(
            event("snapshot", RUNNING, "c1"),
            b'event: error\ndata: {"error": {"status": "UNAUTHENTICATED", "reason": "expired_identity"}}\n\n',
        ),
        *(
            stream(event("snapshot", RUNNING, "c1"), b'event: error\ndata: {"error": {"status": "%s"}}\n\n' % status)
            for status in (b"UNAVAILABLE", b"RESOURCE_EXHAUSTED")
        ),
    ],
    ids=["broken", "ended early", "half an event", "identity expired", "service down", "too many watch"],
)
def test_a_lost_stream_goes_on_after_the_last_cursor(api: ScriptedApi, client: Either, trouble: Reply) -> None:
    api.script(trouble, DROP, refusal(503, "UNAVAILABLE", retry_after=0), stream(event("state", DONE, "c2")))
    events = client.watch("j1")
    assert [got.cursor for got in events if got.cursor] == ["c1", "c2"]
    assert "last-event-id" not in api.seen[0].headers
    assert [seen.headers.get("last-event-id") for seen in api.seen[1:]] == ["c1"] * 3


def test_watching_begins_after_a_given_cursor(api: ScriptedApi, client: Either) -> None:
    api.script(stream(event("state", DONE, "c9")))
    client.watch("j1", "c8")
    assert api.seen[0].headers["last-event-id"] == "c8"


def test_204_means_that_nothing_more_comes(api: ScriptedApi, client: Either) -> None:
    api.script(Reply(204))
    assert client.watch("j1", "c9") == []


def test_waiting_after_204_asks_for_the_job(api: ScriptedApi, client: Either) -> None:
    api.script(Reply(204), reply_json({"job": DONE}))
    assert client.wait("j1").state == "succeeded"


@pytest.mark.parametrize("trouble", ["status", "event"])
def test_a_refusal_ends_it_at_once(api: ScriptedApi, client: Either, trouble: str) -> None:
    body = b'event: error\ndata: {"error": {"status": "NOT_FOUND", "reason": "not_found", "message": "no job"}}\n\n'
    api.script(refusal(404, "NOT_FOUND", "not_found") if trouble == "status" else stream(body))
    with pytest.raises(NotFound):
        client.watch("j1")
    assert len(api.seen) == 1


def test_what_is_no_event_is_a_bad_reply(api: ScriptedApi, client: Either) -> None:
    api.script(stream(b"event: state\ndata: nonsense\n\n"))
    with pytest.raises(BadReply):
        client.watch("j1")


@pytest.mark.parametrize("ending", ["silent", "pings", "whole"])
def test_the_limit_of_time_holds_on_a_silent_and_on_a_restless_stream(
    api: ScriptedApi, client: Either, ending: str
) -> None:
    api.script(*[stream(event("snapshot", RUNNING, "c1"), ending=ending)] * 5000)
    began = time.monotonic()
    with pytest.raises(Timeout, match=r"j1 did not end within 0\.3 s"):
        client.wait("j1", 0.3)
    assert 0.3 <= time.monotonic() - began < LONG_SECONDS, "neither the silence nor the comments would have ended"


def test_a_gateway_that_never_was_there_is_given_up_soon(api: ScriptedApi, client: Either) -> None:
    api.script(*[DROP] * 9)
    with pytest.raises(Unreachable):
        client.watch("j1")
    assert len(api.seen) == QUICK.attempts


def test_a_stream_that_never_comes_back_is_given_up(
    api: ScriptedApi, client: Either, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second passes between two looks at the clock.
    monkeypatch.setattr("atelier_client._policy.time", SimpleNamespace(monotonic=count(1).__next__))
    api.script(stream(event("snapshot", RUNNING, "c1"), ending="broken"), *[refusal(503, "UNAVAILABLE")] * 500)
    with pytest.raises(Unavailable):
        client.with_policy(Policy(reconnect_for=10, first_pause=0.001, longest_pause=0.001)).watch("j1")
    assert len(api.seen) == 12, "one at first, and so many more as there are seconds, and then one"


def test_generate_waits_and_brings_the_assets_in_order(api: ScriptedApi, client: Either) -> None:
    api.script(
        reply_json({"job_id": "j1"}),
        stream(event("state", DONE, "c1")),
        reply_json({"assets": [{"asset_id": "a1", "asset_index": 1}, {"asset_id": "a0", "asset_index": 0}]}),
    )
    made = client.generate("a fox", model="sdxl", format="image", quantity=2)
    assert [asset.asset_id for asset in made.assets] == ["a0", "a1"]
    assert api.seen[2].path.startswith("/v1/assets?job_id=j1&")


def test_a_failed_job_is_an_exception_that_carries_it(api: ScriptedApi, client: Either) -> None:
    api.script(reply_json({"job_id": "j1"}), stream(event("state", FAILED, "c1")))
    with pytest.raises(JobFailed, match="It broke") as caught:
        client.generate("a fox", model="sdxl", format="image")
    assert (caught.value.job.state, caught.value.reason) == ("failed", "engine_failed")


def test_an_enhancement_is_told_while_it_grows(api: ScriptedApi, client: Either) -> None:
    api.script(
        reply_json({"job_id": "j1"}),
        stream(
            event("text_delta", {"offset": 0, "text": "a fox"}),
            event("text_delta", {"offset": 5, "text": " at dawn"}),
            event("text_delta", {"offset": 0, "text": "a fox at dawn"}),
            event("state", DONE, "c1"),
        ),
    )
    grown: list[str] = []
    assert client.enhance("a fox", on_text=grown.append).text == "a fox at dawn"
    assert grown == ["a fox", "a fox at dawn"]
    assert api.seen[0].json == {"prompt": "a fox", "model": "sdxl", "enhancement_only": True}


def test_an_invalid_prompt_does_not_wait(api: ScriptedApi, client: Either) -> None:
    api.script(refusal(400, "INVALID_ARGUMENT", "missing_field"))
    with pytest.raises(InvalidRequest):
        client.enhance("")
