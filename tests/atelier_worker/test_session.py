"""What a worker says on its stream, and in which order."""

from __future__ import annotations

from tests.atelier_worker.conftest import StartWorker
from tests.atelier_worker.fake_router import FakeRouter
from tests.atelier_worker.leases import lease, ref


async def test_one_stage_from_hello_to_its_outcome(router: FakeRouter, start_worker: StartWorker) -> None:
    worker = await start_worker()
    session = await router.session()
    assert session.hello.worker_types == ["chat", "sdxl"]
    assert session.hello.slots == 4
    assert (await session.expect("credits")).free == 4

    await session.say(lease=lease("progress 0 1 2; deliver 0 10; deliver 1 2000000", quantity=2))
    outcome = await session.expect("outcome")
    await session.answer(outcome)

    assert session.kinds()[:3] == ["credits", "lease_ack", "credits"]
    assert outcome.ref == ref()
    assert [(entry.asset_index, entry.receipt) for entry in outcome.outputs.outputs] == [
        (0, "receipt-0"),
        (1, "receipt-1"),
    ]
    assert outcome.engine == "scripted"
    assert router.assets.content(0) == b"\x00" * 10
    assert router.assets.content(1) == b"\x01" * 2_000_000
    assert router.assets.tokens == {"lease-token"}
    worker.drain()
    assert await worker.exit_code() == 0
