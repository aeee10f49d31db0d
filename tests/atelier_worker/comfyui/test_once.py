"""Nothing runs twice in ComfyUI, whatever is cut, and nothing goes on there that was cancelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from atelier_worker.engine import Cancelled, EngineError
from tests.atelier_worker.comfyui.conftest import QUICK, MakeEngine
from tests.atelier_worker.comfyui.stand_in import StandIn
from tests.atelier_worker.comfyui.tasks import SMALL, Listener, sampling
from tests.atelier_worker.engines.listener import Listener as _Listener
from tests.support.unreliable import Fault, unreliable_thread

# Once, whatever is cut.


def test_a_cut_socket_runs_nothing_twice(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    comfyui.hold_at = 1

    def cut(listener: _Listener) -> bool:
        if listener.steps and listener.steps[-1][1] == 1 and comfyui.hold_at == 1:
            comfyui.cut_sockets()
            comfyui.hold_at = None
        return False

    listener = Listener(tmp_path, cancel_when=cut)
    make_engine(comfyui.url, "sdxl").run(SMALL, listener)
    assert len(comfyui.ran) == len(comfyui.taken) == 1
    assert 0 in listener.delivered


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.ERROR, Fault.CUT_AT_ONCE])
def test_a_lost_answer_runs_nothing_twice(
    fault: Fault, comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    # Numbered among the requests that hand in a prompt. The proxy takes no sockets: all is looked up.
    with unreliable_thread(comfyui.url, {1: fault}, counts=lambda method, path: path == "/prompt") as proxy:
        listener = Listener(tmp_path)
        make_engine(proxy.url, "sdxl").run(SMALL, listener)
    assert len(comfyui.ran) == 1
    assert 0 in listener.delivered


def test_what_arrives_twice_after_all_is_taken_out_of_the_queue(
    comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    """The first one, given up for lost, was only slow."""
    comfyui.hold_at = 1

    def again(listener: _Listener) -> bool:
        if len(comfyui.taken) == 2 and not comfyui.waiting:
            comfyui.hold_at = None
        if listener.steps and listener.steps[-1][1] == 1 and len(comfyui.taken) == 1:
            httpx.post(f"{comfyui.url}/prompt", json=comfyui.taken[0], trust_env=False)
        return False

    make_engine(comfyui.url, "sdxl").run(SMALL, Listener(tmp_path, cancel_when=again))
    assert len(comfyui.taken) == 2
    assert len(comfyui.ran) == 1


def test_another_attempt_takes_up_what_the_first_one_began(
    comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    """The process of the engine was killed; the router gives the stage to another worker."""
    comfyui.hold_at = 1

    class Killed(BaseException):
        pass

    def die(listener: _Listener) -> bool:
        if listener.steps and listener.steps[-1][1] == 1:
            raise Killed
        return False

    with pytest.raises(Killed):
        make_engine(comfyui.url, "sdxl").run(SMALL, Listener(tmp_path, cancel_when=die))
    comfyui.hold_at = None
    listener = Listener(tmp_path)
    make_engine(comfyui.url, "sdxl").run(SMALL, listener)
    make_engine(comfyui.url, "sdxl").run(SMALL, Listener(tmp_path))
    assert len(comfyui.ran) == 1
    assert 0 in listener.delivered
    make_engine(comfyui.url, "sdxl").run(replace(SMALL, stage_key="another/0"), Listener(tmp_path))
    assert len(comfyui.ran) == 2


def test_what_was_made_and_removed_is_made_again(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    engine = make_engine(comfyui.url, "sdxl")
    engine.run(SMALL, Listener(tmp_path))
    comfyui.remove_outputs()
    listener = Listener(tmp_path)
    engine.run(SMALL, listener)
    assert len(comfyui.ran) == 2
    assert 0 in listener.delivered


def test_what_failed_is_tried_again_under_another_id(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    workflow = sampling()
    workflow["20"] = {"class_type": "NoMemory", "inputs": {"image": ["8", 0]}}
    workflow["9"]["inputs"]["images"] = ["20", 0]
    engine = make_engine(comfyui.url, workflow)
    for _ in range(2):
        with pytest.raises(EngineError) as raised:
            engine.run(SMALL, Listener(tmp_path))
        assert str(raised.value) == "ComfyUI ran out of memory in NoMemory of the workflow sdxl."
        assert raised.value.retryable
    assert len(set(comfyui.ran)) == 2


def test_a_comfyui_that_forgot_the_work_is_a_failure_that_may_be_tried_again(
    comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    comfyui.hold_at = 1

    def restart(listener: _Listener) -> bool:
        if listener.steps and listener.steps[-1][1] == 1 and comfyui.hold_at:
            comfyui.forget()
            comfyui.hold_at = None
        return False

    with pytest.raises(EngineError, match="the work is gone") as raised:
        make_engine(comfyui.url, "sdxl").run(SMALL, Listener(tmp_path, cancel_when=restart))
    assert raised.value.retryable
    assert len(comfyui.ran) == 1


def test_a_comfyui_that_is_down_may_be_tried_again(tmp_path: Path, make_engine: MakeEngine) -> None:
    engine = make_engine("http://127.0.0.1:9", "sdxl", reach_timeout="100ms")
    with pytest.raises(EngineError) as raised:
        engine.run(SMALL, Listener(tmp_path))
    assert (str(raised.value), raised.value.retryable) == ("ComfyUI cannot be reached; is it running?", True)


def test_a_comfyui_that_chooses_ids_is_too_old(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    comfyui.takes_ids = False
    with pytest.raises(EngineError, match="it is too old"):
        make_engine(comfyui.url, "sdxl").run(SMALL, Listener(tmp_path))


# Cancel.


def cancel_at(step: int, comfyui: StandIn) -> Callable[[_Listener], bool]:
    return lambda listener: bool(listener.steps) and listener.steps[-1][1] == step and bool(comfyui.ran)


def test_a_cancel_stops_what_runs_and_leaves_the_rest(
    comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    comfyui.hold_at = 2
    with pytest.raises(Cancelled):
        make_engine(comfyui.url, "sdxl").run(SMALL, Listener(tmp_path, cancel_when=cancel_at(2, comfyui)))
    assert comfyui.interrupts == 1
    comfyui.hold_at = None
    listener = Listener(tmp_path)
    make_engine(comfyui.url, "sdxl").run(replace(SMALL, stage_key="next/0"), listener)
    assert 0 in listener.delivered


def test_a_cancel_takes_what_waits_out_of_the_queue_and_interrupts_nobody(
    comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    comfyui.hold_at = 0
    other = {"prompt": sampling(), "prompt_id": "somebody else's", "client_id": "x"}
    httpx.post(f"{comfyui.url}/prompt", json=other, trust_env=False)
    with pytest.raises(Cancelled):
        engine = make_engine(comfyui.url, "sdxl")
        engine.run(SMALL, Listener(tmp_path, cancel_when=lambda _: bool(comfyui.waiting)))
    assert comfyui.waiting == []
    assert comfyui.interrupts == 0
    assert comfyui.ran == ["somebody else's"]


def test_a_prompt_that_takes_too_long_is_stopped(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    comfyui.hold_at = 1
    # So long that it runs by then on a busy machine, too.
    engine = make_engine(comfyui.url, "sdxl", prompt_timeout="1s")
    with pytest.raises(EngineError, match=r"took longer than 1 seconds"):
        engine.run(SMALL, Listener(tmp_path))
    assert comfyui.interrupts == 1


def test_a_node_that_is_silent_for_long_is_said_to_run_still(
    comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    """A worker ends a task that says nothing for minutes, and a step of a large video takes longer."""
    comfyui.hold_at = 1

    def go_on(listener: _Listener) -> bool:
        if listener.steps.count((0, 1, 3)) > 3:
            comfyui.hold_at = None
        return False

    listener = Listener(tmp_path, cancel_when=go_on)
    engine = make_engine(comfyui.url, "sdxl", patience=replace(QUICK, look_s=0.0, say_s=0.0), prompt_timeout="10s")
    engine.run(SMALL, listener)
    assert 0 in listener.delivered
