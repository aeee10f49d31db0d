"""Conversations: what is refused, where they go, who is given them, how they end, and what is read of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest

from atelier.router.v1 import chat_pb2, job_pb2, model_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2 as worker
from router_service.first_words import AWAITED_S
from service_kit.errors import AtelierError, ErrorReason
from service_kit.rpc_errors import from_rpc_error
from tests.router_service.support import WAIT_S, Router, ScriptedWorker

CHATS = [job_pb2.STAGE_KIND_GENERATE, job_pb2.STAGE_KIND_ENHANCE, job_pb2.STAGE_KIND_CHAT]


def chat(*contents: str, **options: Any) -> chat_pb2.Chat:
    messages = [chat_pb2.ChatMessage(role=chat_pb2.CHAT_ROLE_USER, content=content) for content in contents]
    return chat_pb2.Chat(messages=messages, **options)


async def ask(router: Router, **fields: Any) -> pb.GenerateContentResponse:
    request = {"model": "chat", "chat": chat("Hello?"), **fields}
    return await router.jobs.GenerateContent(pb.GenerateContentRequest(**request))


async def refused(router: Router, **fields: Any) -> AtelierError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(router, **fields)
    return from_rpc_error(caught.value)


async def talker(router: Router, name: str = "talker", **hello: Any) -> ScriptedWorker:
    return await router.worker(name, stages=CHATS, **hello)


async def test_a_conversation_is_leased_as_it_was_sent_and_answered_when_it_is_recorded(router: Router) -> None:
    sent = chat("Hello?", "Again?", max_tokens=9, temperature=0.0, top_p=0.5, stop=["\n"])
    accepted = await ask(router, chat=sent, seed=0)
    settings = accepted.generation_settings
    assert (settings.worker_type, settings.model, settings.seed, settings.quantity) == ("chat", "chat", 0, 0)
    assert (settings.size, settings.aspect_ratio, list(accepted.asset_ids)) == ("", "", [])
    scripted = await talker(router)
    lease = await scripted.take()
    assert lease.spec.kind == job_pb2.STAGE_KIND_CHAT
    assert (lease.spec.chat, lease.spec.prompt) == (sent, "")
    usage = chat_pb2.TokenUsage(prompt_tokens=4, completion_tokens=1)
    assert await scripted.finish(lease, text="Yes.", finish_reason="FINISH_REASON_LENGTH", usage=usage) == "recorded"
    job = await router.job(accepted.job_id)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert job.reply == chat_pb2.ChatReply(text="Yes.", finish_reason=chat_pb2.FINISH_REASON_LENGTH, usage=usage)
    assert [(stage.kind, stage.state) for stage in job.stages] == [(job_pb2.STAGE_KIND_CHAT, job_pb2.STAGE_STATE_DONE)]
    assert (job.requested, job.prompt, job.enhanced_prompt) == (0, "", "")


async def test_a_text_leaves_nothing_to_settle_for_its_lease_uploads_nothing(router: Router) -> None:
    await router.stop_settling()
    scripted = await talker(router)
    for ends in ({"text": "Yes."}, {"failure": worker.StageFailure(failure=job_pb2.Failure(message="No."))}):
        accepted = await ask(router)
        lease = await scripted.take()
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await scripted.upload(lease, 0)
            assert from_rpc_error(caught.value).reason is ErrorReason.OUT_OF_RANGE
            await scripted.finish(lease, completion_id=accepted.job_id, **ends)
        # It would not be removed while the asset service has to hear of it.
        await router.jobs.DeleteJob(pb.DeleteJobRequest(job_id=accepted.job_id))
    assert await router.asset_ids(accepted.job_id) == []


async def test_an_empty_reply_is_one_if_the_engine_says_why_it_ends(router: Router) -> None:
    scripted = await talker(router)
    accepted = await ask(router)
    await scripted.finish(await scripted.take(), text="", finish_reason="FINISH_REASON_STOP")
    job = await router.job(accepted.job_id)
    assert (job.state, job.reply.text, job.HasField("reply")) == (job_pb2.JOB_STATE_SUCCEEDED, "", True)
    another = await ask(router)
    await scripted.finish(await scripted.take(), completion_id="c2", text="")
    assert (await router.job(another.job_id)).state == job_pb2.JOB_STATE_QUEUED


async def test_a_reply_that_nobody_could_keep_is_cut_and_says_so(router: Router) -> None:
    scripted = await talker(router)
    accepted = await ask(router)
    await scripted.finish(await scripted.take(), text="ü" * 100_001, finish_reason="FINISH_REASON_STOP")
    reply = (await router.job(accepted.job_id)).reply
    assert (len(reply.text), reply.finish_reason) == (100_000, chat_pb2.FINISH_REASON_LENGTH)


async def test_only_who_says_so_is_given_a_conversation(router: Router) -> None:
    """One of the first release has the same worker type, for enhancements."""
    old = await router.worker("old")
    accepted = await ask(router)
    enhancing = await router.submit(enhancement_only=True, format=None)
    lease = await old.take()
    assert lease.ref.job_id == enhancing.job_id
    await old.heartbeat(lease)
    job = await router.job(accepted.job_id)
    assert job.state == job_pb2.JOB_STATE_QUEUED
    await router.service.reaper.refresh_pools()
    job = await router.job(accepted.job_id)
    assert "No connected worker of type chat holds conversations" in job.stages[0].waits_for
    new = await talker(router)
    assert (await new.take()).ref.job_id == accepted.job_id


async def test_a_conversation_waits_for_its_model(router: Router) -> None:
    row = model_pb2.Model(name="parrot-*", stage=job_pb2.STAGE_KIND_CHAT, worker_type="chat")
    await router.jobs.PutModel(pb.PutModelRequest(model=row))
    scripted = await talker(router, models=["parrot-2"])
    await ask(router)
    accepted = await ask(router, model="parrot-2")
    assert accepted.generation_settings.model == "parrot-2"
    assert (await scripted.take()).ref.job_id == accepted.job_id


async def test_workers_of_several_models_share_enhancements_and_each_has_its_own_conversations(router: Router) -> None:
    """An enhancement carries the model that its prompt is for, which none of these workers has."""
    row = model_pb2.Model(name="parrot", stage=job_pb2.STAGE_KIND_CHAT, worker_type="chat")
    await router.jobs.PutModel(pb.PutModelRequest(model=row))
    both = [job_pb2.STAGE_KIND_ENHANCE, job_pb2.STAGE_KIND_CHAT]
    only = await router.worker("only", worker_types=["chat"], models=["chat"], stages=[job_pb2.STAGE_KIND_CHAT])
    enhancing = (await router.submit(enhancement_only=True, format=None)).job_id
    await router.service.reaper.refresh_pools()
    assert (await router.job(enhancing)).stages[0].waits_for == "No connected worker of type chat enhances prompts."
    one = await router.worker("one", worker_types=["chat"], models=["chat"], stages=both, free=2)
    assert (await one.take()).ref.job_id == enhancing
    other = await router.worker("other", worker_types=["chat"], models=["parrot"], stages=both, free=2)
    named = (await ask(router, model="parrot")).job_id
    assert (await other.take()).ref.job_id == named
    # One slot is free at each of the two: the next are theirs, in whichever order, and not for the one that only talks.
    ids = {(await router.submit(enhancement_only=True, format=None)).job_id for _ in range(2)}
    assert {(await each.take()).ref.job_id for each in (one, other)} == ids
    talk = (await ask(router)).job_id
    assert (await only.take()).ref.job_id == talk
    await router.service.reaper.refresh_pools()
    listed = await router.jobs.ListModels(pb.ListModelsRequest())
    assert {row.name: row.connected_workers for row in listed.models if row.worker_type == "chat"} == {
        "enhancer": 2,
        "chat": 2,
        "parrot": 1,
    }


async def test_text_is_told_as_it_is_written_and_not_tried_again_if_nobody_can_take_it_back(router: Router) -> None:
    scripted = await talker(router)
    accepted = await ask(router, cannot_restart=True)
    watching = router.jobs.WatchJob(pb.WatchJobRequest(job_id=accepted.job_id))
    lease = await scripted.take()
    report = worker.Report(ref=lease.ref, text=worker.TextPiece(offset=0, text="Ye"))
    await scripted.say(reports=worker.Reports(reports=[report]))
    async with asyncio.timeout(WAIT_S):
        async for event in watching:
            if event.WhichOneof("event") == "text_delta":
                assert (event.text_delta.offset, event.text_delta.text) == (0, "Ye")
                break
    watching.cancel()
    failure = worker.StageFailure(retryable=True)
    assert await scripted.finish(lease, failure=failure) == "recorded"
    job = await router.job(accepted.job_id)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert "so it is not tried again" in job.failure.message


async def test_a_worker_is_heard_on_while_it_is_noted_that_its_texts_go_out(router: Router) -> None:
    scripted = await talker(router, free=2)
    accepted = [await ask(router, cannot_restart=True) for _ in range(2)]
    leases = [await scripted.take() for _ in accepted]
    # They have been silent for so long that it has to be noted anew.
    router.clock.advance(timedelta(seconds=AWAITED_S))
    await router.service.dispatch.unmark_silent()
    watching = [router.jobs.WatchJob(pb.WatchJobRequest(job_id=lease.ref.job_id)) for lease in leases]
    async with asyncio.timeout(WAIT_S):
        async with router.service.storage.write():
            # Nothing can be noted now.
            for offset, text in ((0, "Ye"), (2, "s.")):
                pieces = [
                    worker.Report(ref=each.ref, text=worker.TextPiece(offset=offset, text=text)) for each in leases
                ]
                for piece in pieces:
                    await scripted.say(reports=worker.Reports(reports=[piece]))
            for lease in leases:
                await scripted.say(reports=worker.Reports(reports=[worker.Report(ref=lease.ref, log="thinking")]))
            for events in watching:
                kinds = [event.WhichOneof("event") async for event in until(events, "log")]
                assert "text_delta" not in kinds
        for events in watching:
            told = ""
            async for event in events:
                if event.WhichOneof("event") == "text_delta":
                    assert event.text_delta.offset == len(told)
                    told += event.text_delta.text
                if told == "Yes.":
                    break
            events.cancel()


async def until(events: Any, kind: str) -> AsyncIterator[pb.WatchJobResponse]:
    """Give events up to the first of a kind."""
    async for event in events:
        yield event
        if event.WhichOneof("event") == kind:
            return


async def test_what_nobody_has_read_is_tried_again(router: Router) -> None:
    scripted = await talker(router)
    accepted = await ask(router, cannot_restart=True)
    await scripted.finish(await scripted.take(), failure=worker.StageFailure(retryable=True))
    assert (await router.job(accepted.job_id)).state == job_pb2.JOB_STATE_QUEUED


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "a lighthouse"),
        ("negative_prompt", "fog"),
        ("format", "FORMAT_IMAGE"),
        ("quantity", 2),
        ("quality", "QUALITY_HIGH"),
        ("aspect_ratio", "1:1"),
        ("steps", 3),
        ("duration_seconds", 2.0),
        ("frame_rate", 16),
        ("reference_images", [{"asset_id": "0197a000-0000-7000-8000-000000000001", "kind": "REFERENCE_KIND_INIT"}]),
        ("enhancement_only", True),
        ("enhance_prompt", True),
        ("on_enhancement_failure", "ON_ENHANCEMENT_FAILURE_WARN"),
    ],
)
async def test_what_is_about_outputs_conflicts_with_a_conversation(router: Router, field: str, value: Any) -> None:
    error = await refused(router, **{field: value})
    assert (error.reason, [problem.field for problem in error.fields]) == (ErrorReason.CONFLICTING_FIELDS, [field])


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (chat_pb2.Chat(), "chat.messages"),
        (chat(*["x"] * 257), "chat.messages"),
        (chat("x" * 100_001), "chat.messages[0].content"),
        (chat(*["x" * 70_000] * 3), "chat.messages"),
        (chat_pb2.Chat(messages=[chat_pb2.ChatMessage(content="x")]), "chat.messages[0].role"),
        (chat("x", max_tokens=0), "chat.max_tokens"),
        (chat("x", temperature=2.1), "chat.temperature"),
        (chat("x", top_p=-0.1), "chat.top_p"),
        (chat("x", stop=["", "x"]), "chat.stop[0]"),
        (chat("x", stop=["x", "y" * 501]), "chat.stop[1]"),
        (chat("x", stop=["x"] * 5), "chat.stop"),
    ],
)
async def test_a_conversation_has_limits(router: Router, sent: chat_pb2.Chat, field: str) -> None:
    error = await refused(router, chat=sent)
    assert [problem.field for problem in error.fields] == [field]


async def test_without_a_conversation_a_prompt_is_required(router: Router) -> None:
    error = await refused(router, chat=None, model="sdxl", format="FORMAT_IMAGE")
    assert (error.reason, [problem.field for problem in error.fields]) == (ErrorReason.MISSING_FIELD, ["prompt"])


async def test_an_unknown_model_is_an_error_that_names_the_known_ones(router: Router) -> None:
    for model in ("gpt", "sdxl", "wan-2.1"):
        error = await refused(router, model=model)
        assert (error.reason, [problem.field for problem in error.fields]) == (ErrorReason.UNKNOWN_MODEL, ["model"])
        assert "known are: chat" in error.message


async def test_a_model_for_conversations_makes_no_picture(router: Router) -> None:
    error = await refused(router, chat=None, prompt="x", model="chat", format="FORMAT_IMAGE")
    assert error.reason is ErrorReason.UNKNOWN_MODEL
    assert "is a model for conversations" in error.message


async def test_a_row_may_take_every_other_name(router: Router) -> None:
    (shipped,) = [row for row in await models(router) if row.stage == job_pb2.STAGE_KIND_CHAT]
    assert (shipped.name, shipped.worker_type, list(shipped.aliases)) == ("chat", "chat", [])
    shipped.aliases.append("*")
    await router.jobs.PutModel(pb.PutModelRequest(model=shipped))
    accepted = await ask(router, model="gpt")
    assert accepted.generation_settings.model == "chat"
    assert [warning.code for warning in accepted.warnings] == ["model_caught_by_wildcard"]
    assert not (await ask(router)).warnings
    # The other stage keeps its own.
    caught = await router.submit(model="gpt")
    assert caught.generation_settings.worker_type == "wan"


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"formats": ["FORMAT_IMAGE"]}, "model.formats"), ({"worker_type": "x" * 60}, "model.worker_type")],
)
async def test_a_row_of_the_chat_stage_has_limits(router: Router, changes: dict[str, Any], field: str) -> None:
    row = model_pb2.Model(**{"name": "m", "stage": "STAGE_KIND_CHAT", "worker_type": "t", **changes})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.jobs.PutModel(pb.PutModelRequest(model=row))
    assert [problem.field for problem in from_rpc_error(caught.value).fields] == [field]


async def test_the_list_of_models_says_who_holds_conversations(router: Router) -> None:
    await router.worker("old")
    (row,) = [row for row in await models(router) if row.stage == job_pb2.STAGE_KIND_CHAT]
    assert (row.connected_workers, row.free_slots) == (0, 0)
    assert "holds conversations" in row.hint
    await talker(router)
    (row,) = [row for row in await models(router) if row.stage == job_pb2.STAGE_KIND_CHAT]
    assert (row.connected_workers, row.free_slots, row.hint) == (1, 4, "")


async def models(router: Router) -> list[model_pb2.Model]:
    return list((await router.jobs.ListModels(pb.ListModelsRequest())).models)
