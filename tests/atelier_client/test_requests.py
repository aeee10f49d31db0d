"""What is sent, what is sent again, and what refusals become."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from atelier_client import (
    BadReply,
    InvalidRequest,
    Lora,
    Model,
    NotAuthenticated,
    NotFound,
    Policy,
    ReferenceImage,
    Refused,
    Timeout,
    Unavailable,
    Unreachable,
    Webhook,
)
from tests.atelier_client.either import QUICK, Either
from tests.atelier_client.scripted import DROP, Reply, ScriptedApi, refusal, reply_json

ACCEPTED = {
    "job_id": "j1",
    "state": "queued",
    "generation_settings": {"seed": 0, "size": "1024x1024"},
    "asset_ids": ["a0"],
}


def test_a_request_carries_what_was_said_and_nothing_else(api: ScriptedApi, client: Either) -> None:
    api.script(reply_json(ACCEPTED))
    references = [ReferenceImage("a9", "init", 0.25), ReferenceImage("a8", "mask")]
    submitted = client.submit("a fox", model="sdxl", format="image", seed=0, reference_images=references, priority=-3)
    (seen,) = api.seen
    assert (seen.method, seen.path) == ("POST", "/v1/generate-content")
    assert seen.headers["authorization"] == "Bearer atl_key"
    assert seen.json == {
        "prompt": "a fox",
        "model": "sdxl",
        "format": "image",
        "seed": 0,
        "priority": -3,
        "reference_images": [{"asset_id": "a9", "kind": "init", "strength": 0.25}, {"asset_id": "a8", "kind": "mask"}],
    }
    assert (submitted.job_id, submitted.generation_settings.size, submitted.asset_ids) == ("j1", "1024x1024", ("a0",))


def test_what_steers_a_generation_is_sent_and_read(api: ScriptedApi, client: Either) -> None:
    settings = {"guidance": 0, "scheduler": "euler", "loras": [{"name": "ink", "weight": 1}]}
    api.script(reply_json({**ACCEPTED, "generation_settings": settings}))
    loras = [Lora("ink"), Lora("grain", -0.5)]
    submitted = client.submit("a fox", model="sdxl", format="image", guidance=0.0, scheduler="euler", loras=loras)
    sent = api.seen[0].json
    assert (sent["guidance"], sent["scheduler"]) == (0, "euler")
    assert sent["loras"] == [{"name": "ink"}, {"name": "grain", "weight": -0.5}]
    effective = submitted.generation_settings
    assert (effective.guidance, effective.scheduler, effective.loras) == (0, "euler", (Lora("ink", 1),))


def test_a_webhook_is_said_as_far_as_it_is_known(api: ScriptedApi, client: Either) -> None:
    api.script(reply_json(ACCEPTED), reply_json(ACCEPTED))
    client.submit("a fox", model="sdxl", format="image", webhook=Webhook("https://hooks.example/a"))
    told = Webhook("https://hooks.example/a", ("started", "completed"), "openai")
    client.submit("a fox", model="sdxl", format="image", webhook=told)
    assert [seen.json["webhook"] for seen in api.seen] == [
        {"url": "https://hooks.example/a"},
        {"url": "https://hooks.example/a", "events": ["started", "completed"], "dialect": "openai"},
    ]


def test_workers_come_in_pages(api: ScriptedApi, client: Either) -> None:
    api.script(reply_json({"workers": [{"name": "attic"}], "next_page_token": "t"}), reply_json({"workers": []}))
    page = client.workers(page_size=1)
    assert ([worker.name for worker in page], page.next_page_token) == (["attic"], "t")
    assert len(client.workers(page_token="t")) == 0
    assert [seen.path for seen in api.seen] == ["/v1/workers?page_size=1", "/v1/workers?page_token=t"]


def test_a_key_has_limits(api: ScriptedApi, client: Either) -> None:
    key = {"key_id": "k1", "requests_per_minute": 90, "running_jobs": 0}
    api.script(reply_json({"key": key, "secret": "s"}), reply_json({"key": key}))
    client.create_key("ada", requests_per_minute=90, running_jobs=0)
    changed = client.update_key("k1", queued_jobs=3)
    assert (changed.requests_per_minute, changed.queued_jobs, changed.running_jobs) == (90, None, 0)
    assert api.seen[0].json == {"owner_id": "ada", "requests_per_minute": 90, "running_jobs": 0}
    assert (api.seen[1].method, api.seen[1].path, api.seen[1].json) == ("PUT", "/v1/keys/k1", {"queued_jobs": 3})


def test_a_frame_rate_is_asked_for_and_registered(api: ScriptedApi, client: Either) -> None:
    row = {"name": "reel", "default_frame_rate": 16}
    api.script(reply_json(ACCEPTED), reply_json({"model": row}))
    client.submit("a kite", model="reel", format="video", duration_seconds=2, frame_rate=12)
    assert client.put_model(Model(name="reel", worker_type="wan", default_frame_rate=16)).default_frame_rate == 16
    assert (api.seen[0].json["frame_rate"], api.seen[1].json["default_frame_rate"]) == (12, 16)


@pytest.mark.parametrize("trouble", [DROP, refusal(503, "UNAVAILABLE", retry_after=0)], ids=["dropped", "503"])
def test_a_submit_is_repeated_with_the_same_idempotency_key(api: ScriptedApi, client: Either, trouble: Reply) -> None:
    api.script(trouble, reply_json(ACCEPTED))
    assert client.submit("a fox", model="sdxl", format="image").job_id == "j1"
    first, second = api.seen
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert len(first.headers["idempotency-key"]) >= 32
    assert first.body == second.body


def test_two_submits_have_two_idempotency_keys(api: ScriptedApi, client: Either) -> None:
    api.script(reply_json(ACCEPTED), reply_json(ACCEPTED))
    client.submit("a fox", model="sdxl", format="image")
    client.submit("a fox", model="sdxl", format="image")
    assert api.seen[0].headers["idempotency-key"] != api.seen[1].headers["idempotency-key"]


def test_an_upload_and_a_key_are_not_repeated_after_they_were_sent(
    api: ScriptedApi, client: Either, tmp_path: Path
) -> None:
    picture = tmp_path / "a fox.png"
    picture.write_bytes(b"bytes")
    api.script(DROP, DROP)
    with pytest.raises(Unreachable):
        client.upload(picture)
    with pytest.raises(Unreachable):
        client.create_key("ada")
    assert [seen.method for seen in api.seen] == ["POST", "POST"]
    assert api.seen[0].body == b"bytes"
    assert api.seen[0].path.startswith("/v1/uploads?filename=a+fox.png&size_bytes=5&sha256=")


def test_trouble_ends_after_the_attempts_of_the_policy(api: ScriptedApi, client: Either) -> None:
    api.script(*[refusal(503, "UNAVAILABLE", "service_unavailable")] * 5)
    with pytest.raises(Unavailable) as caught:
        client.get_job("j1")
    assert len(api.seen) == QUICK.attempts
    assert caught.value.reason == "service_unavailable"


@pytest.mark.parametrize("seconds", [None, 3600])
def test_429_is_repeated_only_when_told_when_and_soon(api: ScriptedApi, client: Either, seconds: float | None) -> None:
    api.script(refusal(429, "RESOURCE_EXHAUSTED", "limit_reached", retry_after=seconds))
    with pytest.raises(Refused) as caught:
        client.get_job("j1")
    assert len(api.seen) == 1
    assert caught.value.retry_after == seconds


def test_a_refusal_says_it_all(api: ScriptedApi, client: Either) -> None:
    fields = [{"field": "reference_images[0].strength", "message": "must be 0..1, got 2"}]
    api.script(refusal(400, "INVALID_ARGUMENT", "out_of_range", fields=fields))
    with pytest.raises(InvalidRequest) as caught:
        client.submit("a fox", model="sdxl")
    error = caught.value
    assert (error.status, error.reason, error.request_id) == ("INVALID_ARGUMENT", "out_of_range", "r-1")
    assert (error.http_status, str(error)) == (400, "out_of_range was said")
    assert [(problem.field, problem.message) for problem in error.fields] == [
        ("reference_images[0].strength", "must be 0..1, got 2")
    ]
    assert len(api.seen) == 1


@pytest.mark.parametrize(
    ("http_status", "status", "kind"),
    [
        (401, "UNAUTHENTICATED", NotAuthenticated),
        (404, "NOT_FOUND", NotFound),
        (409, "ABORTED", Refused),
        (504, "DEADLINE_EXCEEDED", Timeout),
        (500, "SOMETHING_NEW", Refused),
    ],
)
def test_each_status_has_its_exception(
    api: ScriptedApi, client: Either, http_status: int, status: str, kind: type[Exception]
) -> None:
    api.script(refusal(http_status, status))
    with pytest.raises(kind):
        client.cancel("j1")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"other": 1}'])
def test_somebody_else_who_answers_is_told_apart(api: ScriptedApi, client: Either, body: bytes) -> None:
    api.script(Reply(200, body))
    with pytest.raises(BadReply):
        client.get_job("j1")
    api.script(Reply(502, body))
    with pytest.raises(BadReply):
        client.get_job("j1")


def test_nobody_there_is_unreachable(client: Either) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(Unreachable, match=url):
            client.at(url).health()


class WaitsBriefly(Policy):
    """Waits for an answer a moment, and as long as it takes for the connection."""

    def httpx_timeout(self, read: float | None = None) -> httpx.Timeout:
        return httpx.Timeout(self.timeout, read=0.05)


def test_an_answer_that_does_not_come_is_a_timeout(api: ScriptedApi, client: Either) -> None:
    api.script(*[Reply(200, b"{", ending="silent")] * 2)
    with pytest.raises(Timeout):
        client.with_policy(WaitsBriefly(attempts=2, first_pause=0.001)).get_job("j1")


def test_ids_are_encoded_and_never_empty(api: ScriptedApi, client: Either) -> None:
    api.script(reply_json({"job": {}}), reply_json({"model": {"name": "my/*"}}), reply_json({}))
    client.get_job("../keys?x=1")
    client.put_model(Model(name="my/*", stage="generate", worker_type="wan", formats=("video",)))
    client.delete_model("*")
    assert api.paths() == ["/v1/jobs/..%2Fkeys%3Fx%3D1", "/v1/models/my%2F%2A", "/v1/models/%2A"]
    assert api.seen[1].json == {"stage": "generate", "worker_type": "wan", "formats": ["video"]}
    with pytest.raises(ValueError, match="empty"):
        client.get_job("")


def test_unknown_fields_and_values_are_kept(api: ScriptedApi, client: Either) -> None:
    job: dict[str, Any] = {
        "job_id": "j1",
        "state": "dreaming",
        "moon": "full",
        "created_at": "2026-11-22T13:00:00.123456Z",
        "outputs": [{"asset_index": 1, "state": "delivered", "failure": None}],
    }
    api.script(reply_json({"job": job}))
    got = client.get_job("j1")
    assert (got.state, got.ended, got.raw["moon"], got.outputs[0].asset_index) == ("dreaming", False, "full", 1)
    assert got.created_at.isoformat() == "2026-11-22T13:00:00.123456+00:00"


@pytest.mark.parametrize("wrong", [{"job_id": 7}, {"version": "many"}, {"outputs": {}}, {"created_at": "noon"}])
def test_a_value_of_a_wrong_type_is_a_bad_reply(api: ScriptedApi, client: Either, wrong: dict[str, Any]) -> None:
    api.script(reply_json({"job": wrong}))
    with pytest.raises(BadReply, match=next(iter(wrong))):
        client.get_job("j1")


def test_lists_know_their_next_page_and_why_they_are_empty(api: ScriptedApi, client: Either) -> None:
    api.script(
        reply_json({"jobs": [{"job_id": "j2"}, {"job_id": "j1"}], "next_page_token": "t"}),
        reply_json({"items": [], "next_page_token": "", "empty_state": "nothing_saved"}),
    )
    page = client.list_jobs(state="failed", page_size=2, page_token="p")
    assert ([job.job_id for job in page], len(page), page.next_page_token) == (["j2", "j1"], 2, "t")
    assert api.seen[0].path == "/v1/jobs?state=failed&page_size=2&page_token=p"
    assert client.items().empty_state == "nothing_saved"


def test_saving_tells_each_result(api: ScriptedApi, client: Either) -> None:
    results = [
        {"asset_id": "a1", "item": {"item_id": "i1"}},
        {"asset_id": "a2", "failure": {"reason": "not_found", "message": "gone"}},
    ]
    api.script(reply_json({"results": results}))
    first, second = client.save("a1", "a2")
    assert api.seen[0].json == {"asset_ids": ["a1", "a2"]}
    assert first.item.item_id == "i1"
    assert (second.item, second.failure.reason) == (None, "not_found")


@pytest.mark.parametrize(("http_status", "status", "serving"), [(200, "degraded", True), (503, "not_serving", False)])
def test_health_is_an_answer_also_when_it_is_bad(
    api: ScriptedApi, client: Either, http_status: int, status: str, serving: bool
) -> None:
    api.script(reply_json({"status": status, "services": []}, http_status))
    assert client.health().serving is serving


def test_a_new_key_does_not_print_its_text(api: ScriptedApi, client: Either) -> None:
    api.script(reply_json({"key": {"key_id": "k"}, "secret": "atl_k_topsecret"}))
    made = client.create_key("ada", kind="user")
    assert made.secret == "atl_k_topsecret"
    assert "topsecret" not in repr(made)


def test_webhooks_are_listed_sent_again_and_signed_anew(api: ScriptedApi, client: Either) -> None:
    delivery = {"delivery_id": "d1", "job_id": "j1", "event": "completed", "state": "given_up", "attempts": 10}
    api.script(
        reply_json({"deliveries": [delivery], "next_page_token": "p2"}),
        reply_json({"delivery": {**delivery, "state": "pending"}}),
        reply_json({"secret": "whsec_old", "created_at": "2026-01-02T03:04:05Z"}),
        reply_json({"secret": "whsec_new", "previous_ends_at": "2026-01-03T03:04:05Z"}),
    )
    page = client.webhook_deliveries(job_id="j1", state="given_up", page_size=1)
    assert ([each.attempts for each in page], page.next_page_token) == ([10], "p2")
    assert client.redeliver_webhook("d1").state == "pending"
    assert client.webhook_secret().secret == "whsec_old"
    rotated = client.rotate_webhook_secret()
    assert rotated.secret == "whsec_new" and "whsec_new" not in repr(rotated)
    assert [(seen.method, seen.path.partition("?")[0]) for seen in api.seen] == [
        ("GET", "/v1/webhooks/deliveries"),
        ("POST", "/v1/webhooks/deliveries/d1/redeliver"),
        ("GET", "/v1/webhooks/secret"),
        ("POST", "/v1/webhooks/secret/rotate"),
    ]


def test_a_rotation_is_not_repeated_by_itself(api: ScriptedApi, client: Either) -> None:
    api.script(DROP, reply_json({"secret": "whsec_new"}))
    with pytest.raises(Unreachable):
        client.rotate_webhook_secret()
    assert len(api.seen) == 1
