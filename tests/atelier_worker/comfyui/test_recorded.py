"""The stand-in answers as the real ComfyUI did, and the engine understands what the real one said."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops
from websockets.sync.client import connect

from atelier_worker.engine import EngineError, Reference
from atelier_worker.engines.comfyui_engine import failures
from atelier_worker.engines.comfyui_engine.previews import small_preview
from atelier_worker.engines.comfyui_engine.watch import Entered, Over, Picture, Step, event_of
from scripts.record_comfyui import invert, steps
from tests.atelier_worker.comfyui.conftest import MakeEngine
from tests.atelier_worker.comfyui.replay import Replay, part, recorded
from tests.atelier_worker.comfyui.serving import Server
from tests.atelier_worker.comfyui.stand_in import StandIn
from tests.atelier_worker.engines.listener import IMAGE, Listener

SMALL = replace(IMAGE, width=64, height=64)


def shape(value: Any) -> Any:
    """Return what a value is made of: keys and types, not numbers and texts."""
    if isinstance(value, dict):
        named = {"1", "2", "3", "4"} | {key for key in value if key.startswith(("run", "loaded", "steps", "stop"))}
        return {key if key not in named else "*": shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value and all(isinstance(one, str) for one in value) else [shape(v) for v in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def kinds(frames: list[str | bytes]) -> list[tuple[str, Any, Any]]:
    """Return the frames that tell of the course of a prompt, as their kinds and shapes."""
    told: list[tuple[str, Any, Any]] = []
    for frame in frames:
        if isinstance(frame, bytes):
            told.append(("picture", int.from_bytes(frame[:4], "big"), {}))
            continue
        message = json.loads(frame)
        if message["type"] not in ("status", "progress_state", "feature_flags"):
            node = message["data"].get("node")
            told.append((message["type"], node, shape(message["data"])))
    return told


def frames_of(events: list[dict[str, Any]]) -> list[str | bytes]:
    frames = [event for event in events if "text" in event or "binary" in event]
    return [json.dumps(one["text"]) if "text" in one else base64.b64decode(one["binary"]) for one in frames]


def until_over(comfyui: StandIn, http: httpx.Client, body: dict[str, Any], *, flags: bool) -> list[str | bytes]:
    frames: list[str | bytes] = []
    with connect(f"ws{comfyui.url[4:]}/ws?clientId={body['client_id']}", proxy=None) as socket:
        if flags:
            socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
            while "feature_flags" not in str(socket.recv(timeout=5)):
                pass
        assert http.post("/prompt", json=body).status_code == 200
        while True:
            frames.append(socket.recv(timeout=5))
            if isinstance(frames[-1], str) and '"node": null' in frames[-1]:
                return frames


@pytest.fixture
def http(comfyui: StandIn) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=comfyui.url, trust_env=False, verify=False) as client:
        yield client


@pytest.mark.parametrize(
    ("scenario", "prompt_id"),
    [("run", "run-1"), ("run", "run-2"), ("steps", "steps-0"), ("steps", "steps-1"), ("upload", "loaded-2")],
)
def test_the_stand_in_says_what_the_real_one_said(
    scenario: str, prompt_id: str, comfyui: StandIn, http: httpx.Client
) -> None:
    events = part(scenario, prompt_id)
    body = events[0]["request"]["json"]
    flags = prompt_id == "steps-1"
    if prompt_id == "run-2":
        until_over(comfyui, http, body | {"prompt_id": "run-1"}, flags=False)
    if prompt_id == "steps-1":
        # The real one still knew the first node.
        until_over(comfyui, http, body | {"prompt": invert(colour=0x112233), "prompt_id": "before"}, flags=False)
    if prompt_id == "loaded-2":
        picture = {"image": ("broken.png", b"no picture", "image/png")}
        http.post("/upload/image", data={"type": "input", "subfolder": "atelier"}, files=picture)

    heard = until_over(comfyui, http, body, flags=flags)

    told, expected = kinds(heard), kinds(frames_of(events))
    assert [one[:2] for one in told] == [one[:2] for one in expected]
    for (kind, _, got), (_, _, wanted) in zip(told, expected, strict=True):
        # Which nodes are remembered, and what the failing one was given, is known to the real one only.
        assert got.keys() == wanted.keys() if kind in ("execution_cached", "execution_error") else got == wanted


@pytest.mark.parametrize("scenario", ["about", "refused"])
def test_the_stand_in_answers_as_the_real_one_did(scenario: str, http: httpx.Client) -> None:
    for event in recorded(scenario):
        request, answer = event["request"], event["answer"]
        got = http.request(request["method"], request["path"], json=request.get("json"))
        assert got.status_code == answer["status"], request
        assert shape(got.json()) == shape(answer["json"]), request


def test_the_stand_in_keeps_what_the_real_one_kept(comfyui: StandIn, http: httpx.Client) -> None:
    events = part("run", "run-1")
    until_over(comfyui, http, events[0]["request"]["json"], flags=False)
    answers = {event["request"]["path"]: event["answer"] for event in events if "request" in event}
    history = http.get("/history/run-1").json()
    wanted = answers["/history/run-1"]["json"]["run-1"]
    assert history["run-1"].keys() == wanted.keys()
    assert shape(history["run-1"]["outputs"]) == shape(wanted["outputs"])
    assert shape(history["run-1"]["prompt"][:2]) == shape(wanted["prompt"][:2])
    assert [one[0] for one in history["run-1"]["status"]["messages"]] == [
        one[0] for one in wanted["status"]["messages"]
    ]
    picture = http.get("/view", params=history["run-1"]["outputs"]["3"]["images"][0])
    real = Image.open(io.BytesIO(base64.b64decode(answers["/view"]["base64"])))
    with Image.open(io.BytesIO(picture.content)) as made:
        # The real one computes with fractions, and cuts them off.
        assert max(ImageChops.difference(made, real).tobytes()) <= 1


def test_the_stand_in_stops_as_the_real_one_did(comfyui: StandIn, http: httpx.Client) -> None:
    events = [event for event in recorded("stopped") if "request" in event]
    comfyui.hold_at = 1
    running, waiting = (event["request"]["json"] for event in events[:2])
    with connect(f"ws{comfyui.url[4:]}/ws?clientId=recorder", proxy=None) as socket:
        http.post("/prompt", json=running)
        while '"progress"' not in str(socket.recv(timeout=5)):
            pass
        http.post("/prompt", json=waiting)
        for event in events[2:5]:
            got = http.request(event["request"]["method"], event["request"]["path"], json=event["request"].get("json"))
            assert got.status_code == event["answer"]["status"]
            if "json" in event["answer"]:
                wanted = event["answer"]["json"]
                assert {name: [one[1] for one in got.json()[name]] for name in wanted} == {
                    name: [one[1] for one in wanted[name]] for name in wanted
                }
        http.post("/interrupt", json={"prompt_id": "stop-another"})
        assert comfyui.interrupts == 0
        http.post("/interrupt", json={"prompt_id": "stop-running"})
        while '"node": null' not in str(socket.recv(timeout=5)):
            pass
    status = http.get("/history/stop-running").json()["stop-running"]["status"]
    wanted = next(event["answer"]["json"] for event in events if event["request"]["path"] == "/history/stop-running")
    assert status["status_str"] == wanted["stop-running"]["status"]["status_str"] == "error"
    assert status["messages"][-1][0] == wanted["stop-running"]["status"]["messages"][-1][0] == "execution_interrupted"
    assert http.get("/history/stop-waiting").json() == {}


def test_the_engine_makes_the_picture_of_the_recording(server: Server, tmp_path: Path, make_engine: MakeEngine) -> None:
    replay, listener = Replay("run", "run-1"), Listener(tmp_path)
    with server.use(replay.app()) as url:
        make_engine(url, "invert", "--ignore=prompt", "--ignore=seed", "--ignore=steps").run(SMALL, listener)
    assert replay.submits == 1
    assert listener.warnings == []
    with Image.open(listener.delivered[0]) as picture:
        assert picture.size == (64, 64)
        assert picture.getpixel((5, 5)) == (0xCC, 0x99, 0x65)
        assert json.loads(picture.info["atelier"])["engine"] == "comfyui"
        assert "prompt" not in picture.info  # ComfyUI's own description names everything that is installed there.


@pytest.mark.parametrize("prompt_id", ["steps-0", "steps-1"])
def test_the_engine_shows_the_steps_and_previews_of_the_recording(
    prompt_id: str, server: Server, tmp_path: Path, make_engine: MakeEngine
) -> None:
    listener = Listener(tmp_path)
    with server.use(Replay("steps", prompt_id).app()) as url:
        make_engine(url, steps(3, 20), "--ignore=prompt").run(SMALL, listener)
    shown = [step for step in listener.steps if step[2] == 3]
    assert list(dict.fromkeys(shown)) == [(0, 1, 3), (0, 2, 3), (0, 3, 3)]
    assert len(listener.previews) == 3
    for index, image, content_type in listener.previews:
        assert (index, content_type) == (0, "image/jpeg")
        with Image.open(io.BytesIO(image)) as picture:
            assert picture.size == (512, 512)


def test_the_engine_says_why_the_recorded_run_failed(server: Server, tmp_path: Path, make_engine: MakeEngine) -> None:
    picture = tmp_path / "reference.png"
    Image.new("RGB", (8, 8)).save(picture)
    task = replace(SMALL, references=(Reference("init", 0.5, picture, "image/png"),))
    workflow = part("upload", "loaded-2")[0]["request"]["json"]["prompt"]
    with server.use(Replay("upload", "loaded-2").app()) as url:
        engine = make_engine(url, workflow, "--ignore=prompt")
        with pytest.raises(EngineError) as raised:
            engine.run(task, Listener(tmp_path))
    assert str(raised.value) == ("The workflow sdxl failed in LoadImage: cannot identify image file '(a file)'.")
    assert not raised.value.retryable


@pytest.mark.parametrize(
    ("prompt_id", "sentence"),
    [
        ("refused-1", "EmptyImage.width: Failed to convert an input value to a INT value"),
        ("refused-2", "EmptyImage.width: Value -5 smaller than min of 1"),
        ("refused-3", "Cannot execute because node NoSuchNode does not exist"),
        ("refused-4", "Prompt has no outputs"),
        ("refused-5", "ImageInvert.image: Required input is missing"),
        ("refused-6", "LoadImage.image: image - Invalid image file: atelier/missing.png"),
    ],
)
def test_the_engine_says_why_a_recorded_workflow_was_refused(prompt_id: str, sentence: str) -> None:
    error = failures.refused("sdxl", part("refused", prompt_id)[0]["answer"]["json"])
    assert str(error) == f"ComfyUI refused the workflow sdxl: {sentence}."
    assert not error.retryable


def test_frames_are_read_as_they_were_recorded() -> None:
    for prompt_id in ("steps-0", "steps-1"):
        events = [event_of(frame, prompt_id) for frame in frames_of(part("steps", prompt_id))]
        assert [one for one in events if isinstance(one, Step)] == [Step("4", step, 3) for step in (1, 2, 3)]
        entered = [one.node for one in events if isinstance(one, Entered)]
        assert entered[-3:] == ["4", "2", "3"]
        assert isinstance(events[-1], Over)
        pictures = [small_preview(one.data) for one in events if isinstance(one, Picture)]
        assert len(pictures) == 3
        assert all(picture is not None and picture[1] == "image/jpeg" for picture in pictures)


@pytest.mark.parametrize(
    "frame",
    ["", "{", "[]", '{"type": "progress"}', '{"type": "progress", "data": {"prompt_id": "mine", "node": "1"}}',
     '{"type": "progress", "data": {"prompt_id": "mine", "node": "1", "value": 9, "max": 3}}',
     '{"type": "executing", "data": {"prompt_id": "another", "node": null}}',
     b"", b"\0\0\0\1", b"\0\0\0\4\xff\xff\xff\xffxxxx", b"\0\0\0\4\0\0\0\2{}xxxx", b"\0\0\0\3\0\0\0\1hello"],
)  # fmt: skip
def test_frames_of_others_and_nonsense_say_nothing(frame: str | bytes) -> None:
    assert event_of(frame, "mine") is None
