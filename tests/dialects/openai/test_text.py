"""Conversations as the official client holds them, parsed strictly: plain, streamed, cut, refused and broken off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from atelier.router.v1 import chat_pb2, job_pb2, router_service_pb2
from gateway.dialects.fields import Treatment
from gateway.dialects.openai import chat, responses, text
from service_kit.errors import Internal
from service_kit.events.watching import NEWS
from tests.dialects.openai.test_images import strict
from tests.support.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")
ASKED = "a heron in the reeds at dawn"
SAID: Any = [{"role": "user", "content": ASKED}]
CUT = {"max_tokens": 4}


@pytest_asyncio.fixture(loop_scope="session")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {system.key()}"}
    async with httpx.AsyncClient(base_url=system.url, headers=headers, trust_env=False, timeout=20) as made:
        yield made


async def job(http: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get(f"/v1/jobs/{job_id.partition('-')[2]}")).json()["job"]
    return found


async def test_a_completion(system: System, http: httpx.AsyncClient) -> None:
    async with strict(system) as client:
        said: Any = [{"role": "developer", "content": "Be brief."}, *SAID]
        answer = await client.chat.completions.create(
            model="chat", messages=said, seed=7, user="u-1", metadata={"run": "7"}
        )
        again = await client.chat.completions.create(model="chat", messages=said, seed=7)
    (choice,) = answer.choices
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert choice.message.content == again.choices[0].message.content
    assert f"“{ASKED}”" in (choice.message.content or "")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens - answer.usage.completion_tokens) == (9, 9)
    made = await job(http, answer.id)
    assert made["annotations"] == {"dialect": "openai", "metadata.run": "7", "user": "u-1"}
    assert (answer.model, again.id != answer.id) == ("chat", True)


async def test_a_completion_is_cut_and_stopped(system: System) -> None:
    async with strict(system) as client:
        cut = await client.chat.completions.create(model="chat", messages=SAID, max_completion_tokens=4)
        stopped = await client.chat.completions.create(model="chat", messages=SAID, stop=["draw"])
    assert (cut.choices[0].finish_reason, cut.choices[0].message.content) == ("length", "I would draw “a")
    assert (stopped.choices[0].finish_reason, stopped.choices[0].message.content) == ("stop", "I would ")


async def test_a_streamed_completion(system: System, http: httpx.AsyncClient) -> None:
    async with strict(system) as client:
        plain = await client.chat.completions.create(model="chat", messages=SAID, seed=7)
        stream = await client.chat.completions.create(
            model="chat",
            messages=SAID,
            seed=7,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    first, *deltas, last, counted = chunks
    assert first.choices[0].delta.model_dump(exclude_none=True) == {"role": "assistant", "content": ""}
    assert len(deltas) > 2
    assert "".join(chunk.choices[0].delta.content or "" for chunk in deltas) == plain.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in (first, *deltas)] == [None] * (len(deltas) + 1)
    assert last.choices[0].delta.model_dump(exclude_none=True) == {}
    assert (last.choices[0].finish_reason, last.usage) == ("stop", None)
    assert (counted.choices, counted.usage) == ([], plain.usage)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_ends_with_done_and_says_what_was_counted_only_if_asked(http: httpx.AsyncClient) -> None:
    body = {"model": "chat", "messages": SAID, "stream": True, **CUT}
    answer = await http.post("/openai/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")
    assert "usage" not in answer.text


async def test_a_response(system: System) -> None:
    async with strict(system) as client:
        answer = await client.responses.create(model="chat", input=ASKED, instructions="Be brief.", metadata={"a": "b"})
        listed = await client.responses.create(
            model="chat",
            input=[
                {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
                *[item.model_dump() for item in answer.output],  # type: ignore[list-item]
                {"role": "user", "content": ASKED},
            ],
            max_output_tokens=4,
        )
    assert (answer.status, answer.metadata) == ("completed", {"a": "b"})
    assert f"“{ASKED}”" in answer.output_text
    assert answer.usage is not None
    assert answer.usage.input_tokens == 9
    assert (listed.status, listed.output_text) == ("incomplete", "I would draw “a")
    assert listed.incomplete_details is not None
    assert listed.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("most", [None, 4])
async def test_a_streamed_response(system: System, most: int | None) -> None:
    async with strict(system) as client:
        stream = await client.responses.create(model="chat", input=ASKED, stream=True, max_output_tokens=most)
        events: list[Any] = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    ending = "response.completed" if most is None else "response.incomplete"
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        ending,
    ]
    text = "".join(event.delta for event in events[4:-4])
    assert text == events[-4].text == events[-1].response.output_text
    assert events[-1].response.usage.output_tokens == len(text.split())


async def test_the_helper_for_streams_puts_a_response_together(system: System) -> None:
    async with strict(system) as client, client.responses.stream(model="chat", input=ASKED) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert f"“{ASKED}”" in final.output_text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [*SAID, {"role": "user", "content": [{"type": "image_url"}]}]}, "messages[1].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "x" * 100_001}]}, "messages[0].content"),
        ({"model": "gpt"}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["", "x"]}, "stop[0]"),
        ({"n": 2}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_more": True}}, "stream_options.include_more"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"metadata": {"a": 1}}, "metadata.a"),
    ],
)
async def test_what_cannot_be_expressed_is_refused_by_its_name(
    http: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    answer = await http.post("/openai/v1/chat/completions", json={"model": "chat", "messages": SAID, **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": [{"type": "function_call_output"}]}, "input[0].type"),
        ({"input": ["x"]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": "x" * 100_001}, "input[0].content"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
async def test_what_a_response_cannot_express_is_refused_by_its_name(
    http: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    answer = await http.post("/openai/v1/responses", json={"model": "chat", "input": "x", **body})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("endpoint", [*chat.ENDPOINTS, *responses.ENDPOINTS], ids=lambda endpoint: endpoint.template)
async def test_every_field_that_is_taken_goes_over_the_wire(http: httpx.AsyncClient, endpoint: Any) -> None:
    body = {entry.name: entry.example for entry in endpoint.fields if entry.treatment is not Treatment.REFUSED}
    body.pop("stream_options", None)
    answer = await http.post(endpoint.template, json=body)
    assert answer.status_code == 200, answer.text
    job_id = answer.headers["atelier-job-id"]
    made = (await http.get(f"/v1/jobs/{job_id}")).json()["job"]
    noted = {entry.name for entry in endpoint.fields if entry.treatment is Treatment.NOTED}
    assert made["annotations"] == {
        "dialect": "openai",
        "metadata.run": "7",
        **{name: body[name] for name in noted},
    }
    if "seed" in body:
        assert made["generation_settings"]["seed"] == body["seed"]


async def test_a_job_that_is_cancelled_is_an_error_in_the_stream(system: System, http: httpx.AsyncClient) -> None:
    row = {"stage": "chat", "worker_type": "nobody"}
    (await http.put("/v1/models/silent", json=row)).raise_for_status()
    async with strict(system) as client:
        stream = await client.chat.completions.create(model="silent", messages=SAID, stream=True)
        first = await anext(stream)
        await http.post(f"/v1/jobs/{first.id.partition('-')[2]}/cancel")
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
        assert caught.value.code == "cancelled"
        response = await client.responses.create(model="silent", input=ASKED, stream=True)
        first_event = await anext(response)
        await http.post(f"/v1/jobs/{first_event.response.id.partition('_')[2]}/cancel")  # type: ignore[union-attr]
        *_, last = [event async for event in response]
    assert (last.type, last.response.status) == ("response.failed", "failed")  # type: ignore[union-attr]
    (await http.delete("/v1/models/silent")).raise_for_status()


async def test_a_retry_is_told_the_same_reply_and_makes_no_second_job(http: httpx.AsyncClient) -> None:
    body = {"model": "chat", "messages": SAID, "stream": True, "metadata": {"case": "retried"}}
    answers = [
        await http.post("/openai/v1/chat/completions", json=body, headers={"x-stainless-retry-count": str(count)})
        for count in range(3)
    ]
    chunks = [[json.loads(line[6:]) for line in a.text.split("\n\n") if line.startswith("data: {")] for a in answers]
    assert len({chunk["id"] for each in chunks for chunk in each}) == 1
    assert len({"".join(chunk["choices"][0]["delta"].get("content", "") for chunk in each) for each in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_has_not_cancelled_its_job(http: httpx.AsyncClient, stream: bool) -> None:
    case = f"gone {stream}"
    body = {"model": "chat", "messages": SAID, "stream": stream, "metadata": {"case": case}}
    leaving = asyncio.create_task(http.post("/openai/v1/chat/completions", json=body))
    async with asyncio.timeout(20):
        while (found := await job_of(http, case)) is None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        while found is not None and found["state"] != "succeeded":
            assert found["state"] in ("queued", "running")
            await asyncio.sleep(0.02)
            found = await job_of(http, case)


async def job_of(http: httpx.AsyncClient, case: str) -> dict[str, Any] | None:
    """Return the newest job that was made for a case, None when there is none yet."""
    jobs = (await http.get("/v1/jobs?page_size=20")).json()["jobs"]
    return next((one for one in jobs if one["annotations"].get("metadata.case") == case), None)


class Told:
    """A call whose job is watched with these events."""

    def __init__(self, *events: router_service_pb2.WatchJobResponse) -> None:
        self.jobs = self
        self._events = events

    async def watch(self, job_id: str, how: str) -> AsyncIterator[router_service_pb2.WatchJobResponse]:
        # It was submitted a moment ago.
        assert how == NEWS
        for event in self._events:
            yield event


def written(offset: int, piece: str) -> router_service_pb2.WatchJobResponse:
    return router_service_pb2.WatchJobResponse(text_delta=router_service_pb2.TextDelta(offset=offset, text=piece))


def said_in_the_end(whole: str) -> router_service_pb2.WatchJobResponse:
    reply = chat_pb2.ChatReply(text=whole)
    return router_service_pb2.WatchJobResponse(state=job_pb2.Job(state=job_pb2.JOB_STATE_SUCCEEDED, reply=reply))


@pytest.mark.parametrize(
    ("events", "pieces"),
    [
        ([written(0, "one "), written(4, "two "), written(8, "three")], ["one ", "two ", "three"]),
        ([written(0, "one two "), written(4, "two three")], ["one two ", "three"]),
        ([written(0, "one "), written(8, "three")], ["one ", "two three"]),
        ([], ["one two three"]),
        ([written(0, "one two three"), written(4, "two")], ["one two three"]),
    ],
)
async def test_no_piece_is_sent_twice_or_left_out(events: list[Any], pieces: list[str]) -> None:
    call: Any = Told(*events, said_in_the_end("one two three"))
    found = [piece async for piece in text.pieces(call, "j1")]
    assert found[:-1] == pieces
    assert isinstance(found[-1], job_pb2.Job)


async def test_a_reply_that_was_written_anew_is_a_fault() -> None:
    call: Any = Told(written(0, "one "), said_in_the_end("another"))
    with pytest.raises(Internal):
        async for _ in text.pieces(call, "j1"):
            pass
