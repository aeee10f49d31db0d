"""A conversation in the worker: what the engine is given, how its end is told, and what is cut off."""

from __future__ import annotations

import pytest

from atelier.router.v1 import chat_pb2, job_pb2
from tests.atelier_worker.conftest import StartWorker
from tests.atelier_worker.fake_router import FakeRouter
from tests.atelier_worker.leases import chat_lease, lease


async def test_the_worker_says_which_stages_its_engine_runs(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    assert list(session.hello.stages) == [
        job_pb2.STAGE_KIND_GENERATE,
        job_pb2.STAGE_KIND_ENHANCE,
        job_pb2.STAGE_KIND_CHAT,
    ]


async def test_an_engine_that_does_not_say_is_given_no_conversation(
    router: FakeRouter, start_worker: StartWorker
) -> None:
    await start_worker(worker__engine="tests.support.tiny_engine:TinyEngine")
    assert list((await router.session()).hello.stages) == []


async def test_the_engine_is_given_the_conversation(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=chat_lease("chat", max_tokens=9, temperature=0.0, stop=["\n"]))
    text = (await session.expect("outcome")).text
    assert text.startswith("chat None () Chat(messages=(Message(role='system', content='Obey.'), Message(role='user', ")
    assert text.endswith("max_tokens=9, temperature=0.0, top_p=None, stop=('\\n',))")


async def test_the_outcome_says_why_the_text_ends_and_what_was_counted(
    router: FakeRouter, start_worker: StartWorker
) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=chat_lease("write hello; write  there; finish length 7 2"))
    outcome = await session.expect("outcome")
    assert (outcome.text, outcome.finish_reason) == ("hello there", chat_pb2.FINISH_REASON_LENGTH)
    assert outcome.usage == chat_pb2.TokenUsage(prompt_tokens=7, completion_tokens=2)
    assert [report.text.text for report in session.reports()] in (["hello there"], ["hello", " there"])


@pytest.mark.parametrize("script", ["finish stop", "finish stop 3 0"])
async def test_a_text_may_end_before_it_begins(router: FakeRouter, start_worker: StartWorker, script: str) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=chat_lease(script))
    outcome = await session.expect("outcome")
    assert outcome.WhichOneof("result") == "text"
    assert (outcome.text, outcome.finish_reason) == ("", chat_pb2.FINISH_REASON_STOP)
    assert outcome.HasField("usage") is ("3" in script)


async def test_control_characters_are_left_out(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=chat_lease("write a\x00b\x1b[2Jc\td\x85e; write \x07; write \x9ff; finish stop"))
    assert (await session.expect("outcome")).text == "ab[2Jc\tdef"


async def test_an_engine_that_says_nothing_at_all_has_failed(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=chat_lease("log nothing"))
    assert (await session.expect("outcome")).failure.failure.message == "The engine wrote no text."


async def test_what_nobody_keeps_is_cut_off(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=chat_lease("much 100001; finish stop"))
    outcome = await session.expect("outcome")
    assert (len(outcome.text), outcome.finish_reason) == (100_000, chat_pb2.FINISH_REASON_LENGTH)
    assert list(outcome.warnings) == ["The engine wrote more than 100000 characters; the rest is cut off."]
    await session.say(lease=lease("much 32001", enhance=True, fence=2))
    assert len((await session.expect("outcome")).text) == 32_000
