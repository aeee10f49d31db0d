"""What the model comes by too rarely to rely on."""

from __future__ import annotations

from tests.model.conftest import Opens


def test_a_client_that_repeats_itself_has_one_job_and_one_hold(model: Opens) -> None:
    machine = model("")()
    machine.begin([8], False)
    for _ in range(2):
        machine.step(machine.send([machine.router(0)], 0, 3, 0))
    assert len(machine.jobs) == 2
    assert len(machine.state.holds) == 1
    machine.teardown()
