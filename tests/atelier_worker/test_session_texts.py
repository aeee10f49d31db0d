"""What a worker says of texts: the pieces as they come, and what wrote an enhanced prompt."""

from __future__ import annotations

import pytest

from atelier.type.v1 import generation_pb2
from atelier_worker.engine import EnhancedBy
from tests.atelier_worker.conftest import StartWorker
from tests.atelier_worker.fake_router import FakeRouter
from tests.atelier_worker.leases import lease


async def test_text_comes_in_pieces_that_join_to_the_outcome(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=lease("write a rów; write  of; write  boats 提灯", enhance=True))
    outcome = await session.expect("outcome")
    assert outcome.text == "a rów of boats 提灯"
    text = ""
    for report in session.reports():
        assert report.text.offset == len(text)
        text += report.text.text
    assert text == outcome.text


async def test_a_prompt_is_enhanced_without_what_steers_its_picture(
    router: FakeRouter, start_worker: StartWorker
) -> None:
    await start_worker()
    session = await router.session()
    sent = lease("steered; write done", enhance=True)
    sent.spec.settings.guidance = 7
    await session.say(lease=sent)
    assert list((await session.expect("outcome")).warnings) == ["None '' [] []"]


@pytest.mark.parametrize("said", ["chat enhance/sdxl v1", "chat", ""])
async def test_what_wrote_a_prompt_goes_out_with_it_as_far_as_the_engine_says(
    router: FakeRouter, start_worker: StartWorker, said: str
) -> None:
    await start_worker()
    session = await router.session()
    await session.say(lease=lease(f"write a rów; wrote {said}", enhance=True))
    by = (await session.expect("outcome")).enhanced_by
    assert [by.engine, *f"{by.model} {by.template} {by.template_version}".split()] == ["", *said.split()]


async def test_an_engine_is_told_what_wrote_its_prompt(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker()
    session = await router.session()
    sent = lease("enhancer; deliver 0 5")
    sent.spec.enhanced_by.MergeFrom(generation_pb2.EnhancedBy(engine="transformers", template="enhance/sdxl"))
    await session.say(lease=sent)
    by = EnhancedBy("transformers", template="enhance/sdxl")
    assert list((await session.expect("outcome")).warnings) == [str(by)]
