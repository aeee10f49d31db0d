"""The engine in front of the stand-in: what it sends and brings back, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from atelier_worker.engine import Cancelled, EngineError, Lora, Reference, Task
from atelier_worker.engine_options import OptionsError
from atelier_worker.engines.comfyui_engine import ComfyEngine, failures
from atelier_worker.engines.comfyui_engine.api import Saved
from atelier_worker.engines.comfyui_engine.outputs import saved_files
from atelier_worker.engines.comfyui_engine.previews import small_preview
from service_kit.comfy_template import read_template
from tests.atelier_worker.comfyui.conftest import WORKFLOWS, MakeEngine, template_of
from tests.atelier_worker.comfyui.stand_in import StandIn
from tests.atelier_worker.comfyui.tasks import SMALL, VIDEO, Listener, inputs, picture, sampling

# What is sent, and what comes back.


def test_a_job_is_cancelled_while_its_file_is_fetched(
    comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    engine = make_engine(comfyui.url, "sdxl")
    with pytest.raises(Cancelled):
        engine.run(SMALL, Listener(tmp_path, cancel_when=lambda so_far: (so_far.workdir / "0.raw").exists()))
    (tmp_path / "next").mkdir()
    listener = Listener(tmp_path / "next")
    engine.run(SMALL, listener)
    assert listener.delivered.keys() == {0}
    assert len(comfyui.taken) == 1, "what was made is there, and is fetched"


def test_text_to_image(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    listener = Listener(tmp_path)
    task = replace(SMALL, quantity=2, indexes=(0, 1), negative_prompt="fog", guidance=3.5, scheduler="euler_a")
    make_engine(comfyui.url, "sdxl").run(task, listener)

    assert [inputs(comfyui, "3", run)["seed"] for run in (0, 1)] == [7, 8]
    sent = inputs(comfyui, "3")
    assert (sent["steps"], sent["cfg"], sent["sampler_name"], sent["scheduler"]) == (
        3,
        3.5,
        "euler_ancestral",
        "karras",
    )
    assert inputs(comfyui, "6")["text"] == "a kite over dunes"
    assert inputs(comfyui, "7")["text"] == "fog"
    assert inputs(comfyui, "5") == {"width": 64, "height": 48, "batch_size": 1}
    assert [step for step in listener.steps if step[0] == 1][-1] == (1, 3, 3)
    assert {preview[0] for preview in listener.previews} == {0, 1}
    for index in (0, 1):
        with Image.open(listener.delivered[index]) as made:
            assert made.size == (64, 48)
            assert made.getpixel((0, 0)) == (7 + index, 3, 1)
            assert json.loads(made.info["atelier"])["seed"] == 7 + index
    assert listener.warnings == []


def test_what_a_job_does_not_say_is_as_the_workflow_has_it(
    comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    make_engine(comfyui.url, "sdxl").run(SMALL, Listener(tmp_path))
    assert inputs(comfyui, "7")["text"] == "blurry, text"
    assert inputs(comfyui, "3")["cfg"] == 6.5
    assert inputs(comfyui, "3")["sampler_name"] == "dpmpp_2m"


def test_image_to_image_with_a_lora(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    init = picture(tmp_path, "init.png", (200, 10, 10), (64, 48))
    task = replace(
        SMALL,
        references=(Reference("init", 0.75, init, "image/png"),),
        loras=(Lora("pen", 0.4),),
        scheduler="euler_karras",
    )
    listener = Listener(tmp_path)
    make_engine(comfyui.url, "redraw_lora", lora_names={"pen": "pen_v2.safetensors"}).run(task, listener)
    assert inputs(comfyui, "17")["denoise"] == 0.25
    assert (inputs(comfyui, "17")["sampler_name"], inputs(comfyui, "17")["scheduler"]) == ("euler", "karras")
    assert inputs(comfyui, "11") | {"model": 0, "clip": 0} == {
        "model": 0, "clip": 0, "lora_name": "pen_v2.safetensors", "strength_model": 0.4, "strength_clip": 0.4,
    }  # fmt: skip
    name = inputs(comfyui, "14")["image"]
    # Named by what is in it, in a folder of its own.
    assert name.startswith("atelier/")
    assert len(name) == len("atelier/") + 64 + len(".png")
    assert (comfyui.folder / "input" / name).is_file()
    assert 0 in listener.delivered


def test_inpainting_with_a_mask(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    init, mask = picture(tmp_path, "init.png", (200, 10, 10)), picture(tmp_path, "mask.png", (255, 255, 255))
    references = (Reference("init", 0.5, init, "image/png"), Reference("mask", 1.0, mask, "image/png"))
    make_engine(comfyui.url, "inpaint").run(replace(SMALL, references=references), Listener(tmp_path))
    with Image.open(comfyui.folder / "input" / inputs(comfyui, "5")["image"]) as sent:
        assert sent.getpixel((3, 3)) == (255, 255, 255)


def test_a_picture_that_carries_its_mask_is_sent_as_one(
    comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    workflow = json.loads((WORKFLOWS / "inpaint.json").read_text())
    workflow["6"]["inputs"]["mask"] = ["4", 1]
    del workflow["5"]
    init, mask = picture(tmp_path, "init.png", (200, 10, 10)), picture(tmp_path, "mask.png", (255, 255, 255), (8, 8))
    references = (Reference("init", 0.5, init, "image/png"), Reference("mask", 1.0, mask, "image/png"))
    make_engine(comfyui.url, workflow).run(replace(SMALL, references=references), Listener(tmp_path))
    with Image.open(comfyui.folder / "input" / inputs(comfyui, "4")["image"]) as sent:
        # Transparent is what ComfyUI draws anew.
        assert sent.getpixel((3, 3)) == (200, 10, 10, 0)


def test_a_video_from_its_first_frame(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    start = picture(tmp_path, "start.png", (1, 2, 3))
    task = replace(VIDEO, references=(Reference("first_frame", 1.0, start, "image/png"),))
    listener = Listener(tmp_path)
    make_engine(comfyui.url, "wan_video").run(task, listener)
    sent = inputs(comfyui, "50")
    assert (sent["width"], sent["height"], sent["length"], sent["batch_size"]) == (64, 48, 9, 1)
    assert inputs(comfyui, "57")["fps"] == 12
    with av.open(str(listener.delivered[0])) as video:
        assert (video.streams.video[0].width, video.streams.video[0].frames) == (64, 9)
        assert json.loads(video.metadata["atelier"])["settings"]["workflow"] == "sdxl"
    assert listener.delivered[0].read_bytes().index(b"moov") < listener.delivered[0].read_bytes().index(b"mdat")


def test_a_workflow_that_batches_runs_once_for_all(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    listener = Listener(tmp_path)
    task = replace(SMALL, quantity=2, indexes=(0, 1))
    make_engine(comfyui.url, "sdxl", "--batches").run(task, listener)
    assert len(comfyui.ran) == 1
    assert inputs(comfyui, "5")["batch_size"] == 2
    # The stand-in saves one picture whatever it is asked for.
    assert 0 in listener.delivered
    assert listener.failed == {1: "The workflow sdxl made 1 of 2 outputs."}


def test_what_a_workflow_does_not_follow_is_said(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    listener = Listener(tmp_path)
    fixed = sampling()
    make_engine(comfyui.url, fixed, "--input=width=", "--input=steps=").run(SMALL, listener)
    assert listener.warnings == [
        "The workflow sdxl takes no steps from outside; 3 was not used.",
        "The workflow sdxl made 1024 × 48 in place of 64 × 48.",
    ]


# What is refused, before anything is sent.


@pytest.mark.parametrize(
    ("workflow", "changes", "sentence"),
    [
        ("sdxl", {"references": ("mask",)}, "The workflow sdxl takes no reference of kind mask."),
        ("sdxl", {"references": ("init",)}, "The workflow sdxl takes no reference of kind init."),
        ("sdxl", {"loras": (Lora("pen"),)}, "The workflow sdxl takes no LoRA."),
        ("sdxl", {"format": "video"}, "The workflow sdxl makes images, no videos."),
        ("invert", {}, "The workflow sdxl takes no prompt."),
        ("flux_custom", {"negative_prompt": "fog"}, "The workflow sdxl takes no negative prompt."),
        ("redraw_lora", {}, "The workflow sdxl needs a reference of kind init."),
        ("redraw_lora", {"references": ("init",), "loras": (Lora("pen"),)},
         "The LoRA pen is not known to the workflow sdxl; known: none."),
        ("redraw_lora", {"references": ("init",), "loras": (Lora("a"), Lora("b"))},
         "The workflow sdxl takes 1 LoRA at most, got 2."),
        ("sdxl", {"references": ("pose",)}, "This worker does not know the reference kind pose."),
    ],
)  # fmt: skip
def test_what_a_workflow_cannot_express_is_refused_by_name(
    workflow: str, changes: dict[str, Any], sentence: str, comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    file = picture(tmp_path, "reference.png", (0, 0, 0))
    changes = dict(changes)
    changes["references"] = tuple(Reference(kind, 0.5, file, "image/png") for kind in changes.get("references", ()))
    with pytest.raises(EngineError) as raised:
        make_engine(comfyui.url, workflow).run(replace(SMALL, **changes), Listener(tmp_path))
    assert (str(raised.value), raised.value.retryable) == (sentence, False)
    assert comfyui.taken == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"url": "ftp://somewhere"}, "[[engine]] comfy: url cannot be used: an address such as"),
        ({"models": []}, "[[engine]] comfy: models is empty"),
        ({"modles": 1}, "modles is not known"),
        ({"models": [{"name": "a", "template": "/nowhere/a.json"}]}, "template cannot be read"),
        ({"models": [{"name": "a", "template": str(WORKFLOWS / "sdxl.json")}]}, "make one of a workflow with"),
    ],
)
def test_options_that_are_no_good_are_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    models = [{"name": "sdxl", "template": str(template_of("sdxl", tmp_path))}]
    table = {"engine": "comfyui", "name": "comfy", "models": models} | changes
    with pytest.raises(OptionsError) as raised:
        ComfyEngine(table)
    assert sentence in str(raised.value)


# What it makes is not trusted.


def test_a_model_that_is_not_there_may_be_with_another_worker(tmp_path: Path, make_engine: MakeEngine) -> None:
    with pytest.raises(EngineError, match="This worker has no model 'flux'; it has sdxl") as raised:
        make_engine("http://127.0.0.1:9", "sdxl").run(replace(SMALL, model="flux"), Listener(tmp_path))
    assert raised.value.retryable


def test_an_output_beyond_the_limit_is_refused(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    with pytest.raises(EngineError, match="more than 100 bytes"):
        make_engine(comfyui.url, "sdxl", output_limit="100 B").run(SMALL, Listener(tmp_path))


def test_an_output_that_is_no_picture_is_refused(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    comfyui.saves = b"<html>not a picture</html>"
    with pytest.raises(EngineError, match="no PNG, JPEG or WebP"):
        make_engine(comfyui.url, "sdxl").run(SMALL, Listener(tmp_path))


def test_names_are_only_names() -> None:
    template = read_template(json.dumps({
        "version": 1, "inputs": {}, "outputs": ["9"],
        "workflow": {"9": {"class_type": "SaveImage", "inputs": {}}},
    }))  # fmt: skip
    nonsense = [{"filename": 7}, {"filename": ""}, "text", None, {"filename": "x" * 500}, {}]
    good = {"filename": "../../a.png", "subfolder": "s", "type": "temp"}
    assert saved_files(template, {"9": {"images": [*nonsense, good], "text": ["x"]}, "8": {"images": [good]}}) == [
        Saved("../../a.png", "s", "temp")
    ]
    assert saved_files(template, {"9": {"images": "none"}}) == []


def test_sentences_hold_no_paths_and_no_installed_names() -> None:
    error = {"type": "value_not_in_list", "message": "Value not in list", "details": "ckpt_name: 'a' not in ['secret']"}
    extra = {"extra_info": {"input_name": "ckpt_name", "received_value": "a.safetensors"}}
    answer = {"error": {}, "node_errors": {"4": {"class_type": "CheckpointLoaderSimple", "errors": [error | extra]}}}
    assert str(failures.refused("sdxl", answer)) == (
        "ComfyUI refused the workflow sdxl: CheckpointLoaderSimple.ckpt_name: a.safetensors is not there."
    )
    assert (
        failures.clean("no file C:\\Users\\me\\models\\x.pt and /home/me/y.pt\nmore") == "no file (a file) and (a file)"
    )
    answers: list[Any] = [None, [], {}, {"node_errors": 3}, {"node_errors": {"1": {"errors": [None]}}}, "text"]
    for nonsense in answers:
        assert str(failures.refused("sdxl", nonsense)).startswith("ComfyUI refused the workflow sdxl")
        assert str(failures.failed("sdxl", nonsense)).startswith("The workflow sdxl failed")


def test_a_large_preview_is_made_small(tmp_path: Path) -> None:
    Image.effect_noise((1500, 1500), 90).convert("RGB").save(tmp_path / "large.png")
    made = small_preview((tmp_path / "large.png").read_bytes())
    assert made is not None
    assert made[1] == "image/jpeg"
    assert len(made[0]) <= 64 * 1024
    assert small_preview(b"nothing") is None


def test_each_output_has_an_id_of_its_own(comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine) -> None:
    task: Task = replace(SMALL, quantity=2, indexes=(0, 1))
    make_engine(comfyui.url, "sdxl").run(task, Listener(tmp_path))
    first, second = (body["prompt_id"] for body in comfyui.taken)
    assert first != second
