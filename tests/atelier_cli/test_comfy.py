"""`atelier comfy import`: what it finds in workflows, what it refuses, and the template that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atelier_cli.__main__ import main
from atelier_cli.comfy_graph import find
from service_kit.comfy_template import read_template, read_workflow

WORKFLOWS = Path(__file__).parents[1] / "data" / "comfyui" / "workflows"

SAMPLER = {
    "seed": "seed",
    "steps": "steps",
    "guidance": "cfg",
    "sampler": "sampler_name",
    "scheduler": "scheduler",
}


def names_of(workflow: str) -> dict[str, list[str]]:
    found = find(read_workflow((WORKFLOWS / f"{workflow}.json").read_bytes()))
    assert not found.choices
    return {name: [str(place) for place in places] for name, places in found.inputs.items()}


def sampler(node: str) -> dict[str, list[str]]:
    return {name: [f"{node}.{field}"] for name, field in SAMPLER.items()}


def test_every_input_of_a_text_to_image_workflow_is_found() -> None:
    assert names_of("sdxl") == sampler("3") | {
        "prompt": ["6.text"],
        "negative_prompt": ["7.text"],
        "width": ["5.width"],
        "height": ["5.height"],
        "batch_size": ["5.batch_size"],
        "checkpoint": ["4.ckpt_name"],
    }


def test_every_input_of_an_image_to_image_workflow_with_a_lora_is_found() -> None:
    assert names_of("redraw_lora") == sampler("17") | {
        "prompt": ["12.text"],
        "negative_prompt": ["13.text"],
        "width": ["15.width"],
        "height": ["15.height"],
        "checkpoint": ["10.ckpt_name"],
        "init": ["14.image"],
        "strength": ["17.denoise"],
        "lora_1": ["11.lora_name"],
        "lora_1_weight": ["11.strength_model", "11.strength_clip"],
    }


def test_every_input_of_an_inpainting_workflow_is_found() -> None:
    found = names_of("inpaint")
    assert found["init"] == ["4.image"]
    assert found["mask"] == ["5.image"]
    assert found["strength"] == ["9.denoise"]


def test_every_input_of_a_video_workflow_is_found() -> None:
    assert names_of("wan_video") == sampler("3") | {
        "prompt": ["6.text"],
        "negative_prompt": ["7.text"],
        "width": ["50.width"],
        "height": ["50.height"],
        "frames": ["50.length"],
        "batch_size": ["50.batch_size"],
        "first_frame": ["52.image"],
        "fps": ["57.fps"],
        "checkpoint": ["37.unet_name"],
    }


def test_a_sampler_in_parts_is_followed_into_each_of_them() -> None:
    found = names_of("flux_custom")
    assert found["prompt"] == ["4.value"]
    assert "negative_prompt" not in found
    assert found["guidance"] == ["5.guidance"]
    assert found["seed"] == ["9.noise_seed"]
    assert found["steps"] == ["8.steps"]
    assert found["sampler"] == ["7.sampler_name"]


def test_a_negative_prompt_that_is_zeroed_is_none() -> None:
    workflow = json.loads((WORKFLOWS / "sdxl.json").read_text())
    workflow["7"] = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}}
    assert "negative_prompt" not in find(workflow).inputs


def test_a_picture_that_carries_its_mask_is_both() -> None:
    workflow = json.loads((WORKFLOWS / "inpaint.json").read_text())
    workflow["6"]["inputs"]["mask"] = ["4", 1]
    del workflow["5"]
    found = find(workflow)
    assert [str(place) for place in found.inputs["init"]] == ["4.image"]
    assert [str(place) for place in found.inputs["mask"]] == ["4.image"]


def test_steps_split_over_two_samplers_are_left_alone() -> None:
    workflow = json.loads((WORKFLOWS / "wan_video.json").read_text())
    first = workflow["3"]
    first["class_type"] = "KSamplerAdvanced"
    first["inputs"] |= {"start_at_step": 0, "end_at_step": 10}
    second = json.loads(json.dumps(first))
    second["inputs"] |= {"start_at_step": 10, "end_at_step": 10000, "latent_image": ["3", 0]}
    workflow |= {"60": second}
    workflow["8"]["inputs"]["samples"] = ["60", 0]
    found = find(workflow)
    assert "steps" not in found.inputs
    assert len(found.notes) == 2
    assert {str(place) for place in found.inputs["seed"]} == {"3.seed", "60.seed"}
    assert [str(place) for place in found.inputs["frames"]] == ["50.length"]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def places(workflow: dict[str, Any], name: str) -> list[str]:
    return [str(place) for place in find(workflow).inputs.get(name, [])]


def test_both_texts_of_an_encoder_are_the_prompt() -> None:
    workflow = json.loads((WORKFLOWS / "sdxl.json").read_text())
    workflow["6"] = node("CLIPTextEncodeSDXL", text_g="a kite", text_l="kite, dunes", clip=["4", 1])
    assert places(workflow, "prompt") == ["6.text_g", "6.text_l"]


def test_a_batch_that_becomes_a_video_is_its_frames() -> None:
    workflow = json.loads((WORKFLOWS / "sdxl.json").read_text())
    workflow["9"] = node("VHS_VideoCombine", images=["8", 0], frame_rate=8, format="video/h264-mp4")
    workflow["20"] = node("ADE_UseEvolvedSampling", model=["4", 0], motion="v3")
    workflow["3"]["inputs"]["model"] = ["20", 0]
    assert places(workflow, "frames") == ["5.batch_size"]
    assert places(workflow, "fps") == ["9.frame_rate"]
    assert places(workflow, "batch_size") == []
    assert places(workflow, "checkpoint") == ["4.ckpt_name"]
    assert find(workflow).is_video


def test_pictures_that_guide_are_found_by_what_they_lead_into() -> None:
    workflow = json.loads((WORKFLOWS / "sdxl.json").read_text())
    workflow |= {
        "30": node("LoadImage", image="pose.png"),
        "31": node("ControlNetLoader", control_net_name="depth.safetensors"),
        "32": node(
            "ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], control_net=["31", 0], image=["30", 0],
            strength=0.8, start_percent=0.0, end_percent=1.0,
        ),
        "40": node("LoadImage", image="style.png"),
        "41": node("IPAdapter", model=["4", 0], ipadapter=["42", 0], image=["40", 0], weight=0.7),
        "42": node("IPAdapterUnifiedLoader", model=["4", 0], preset="PLUS"),
    }  # fmt: skip
    workflow["3"]["inputs"] |= {"positive": ["32", 0], "negative": ["32", 1], "model": ["41", 0]}
    assert places(workflow, "composition") == ["30.image"]
    assert places(workflow, "style") == ["40.image"]
    assert places(workflow, "prompt") == ["6.text"]
    assert places(workflow, "negative_prompt") == ["7.text"]
    assert places(workflow, "init") == []


def test_the_first_of_two_samplers_says_the_size() -> None:
    workflow = json.loads((WORKFLOWS / "sdxl.json").read_text())
    workflow["50"] = node("LatentUpscale", samples=["3", 0], width=1536, height=1536)
    workflow["51"] = json.loads(json.dumps(workflow["3"]))
    workflow["51"]["inputs"] |= {"latent_image": ["50", 0], "denoise": 0.4}
    workflow["8"]["inputs"]["samples"] = ["51", 0]
    assert places(workflow, "width") == ["5.width"]
    assert sorted(places(workflow, "seed")) == ["3.seed", "51.seed"]
    assert sorted(places(workflow, "steps")) == ["3.steps", "51.steps"]


def write(folder: Path, workflow: Any) -> Path:
    file = folder / "workflow_api.json"
    file.write_text(json.dumps(workflow))
    return file


def test_the_template_runs_as_it_was_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "redraw.json"
    assert main(["comfy", "import", str(WORKFLOWS / "redraw_lora.json"), "--out", str(out)]) == 0
    assert "17.denoise" in capsys.readouterr().out
    template = read_template(out.read_text())
    assert template.format == "image"
    assert template.outputs == ("19",)
    assert template.loras == 1
    assert (template.defaults or {})["guidance"] == 7.0
    filled = template.filled({"prompt": "a cat", "lora_1_weight": 0.5})
    assert filled["12"]["inputs"]["text"] == "a cat"
    assert filled["11"]["inputs"]["strength_clip"] == 0.5
    assert template.workflow["12"]["inputs"]["text"] == "ink drawing of a harbour"


def test_a_name_with_several_places_is_a_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workflow = json.loads((WORKFLOWS / "sdxl.json").read_text())
    workflow["20"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "in the rain", "clip": ["4", 1]}}
    combine = {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["6", 0], "conditioning_2": ["20", 0]}}
    workflow["21"] = combine
    workflow["3"]["inputs"]["positive"] = ["21", 0]
    file, out = write(tmp_path, workflow), tmp_path / "out.json"

    assert main(["comfy", "import", str(file), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "prompt could be 6.text = a lighthouse in fog, 20.text = in the rain. Say which: --input prompt=" in said
    assert not out.exists()

    assert main(["comfy", "import", str(file), "--out", str(out), "--input", "prompt=20.text"]) == 0
    assert [str(place) for place in read_template(out.read_text()).inputs["prompt"]] == ["20.text"]


def _row(length: int) -> dict[str, Any]:
    """A sampler whose text stands behind so many nodes."""
    nodes = {f"c{n}": {"class_type": "Combine", "inputs": {"to": [f"c{n + 1}", 0]}} for n in range(length)}
    nodes[f"c{length}"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "a kite"}}
    inputs = {"latent_image": ["c0", 0], "positive": ["c0", 0], "seed": 1, "steps": 4, "cfg": 5.0}
    nodes["k"] = {"class_type": "KSampler", "inputs": inputs}
    return nodes | {"s": {"class_type": "SaveImage", "inputs": {"images": ["k", 0]}}}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"nodes": [], "links": [], "version": 0.4}', "choose Workflow > Export (API)"),
        ("not json", "is not JSON"),
        ("[]", "an object of nodes"),
        ('{"1": {"inputs": {}}}', "'1' has no class_type and inputs"),
        ('{"1": {"class_type": "A", "inputs": {"x": ["9", 0]}}}', "1.x is fed by node '9'"),
        ('{"1": {"class_type": "EmptyImage", "inputs": {}}}', "The workflow saves nothing"),
        ('{"1": {"class_type": "A", "inputs": {"cfg": NaN}}}', "has NaN where a number belongs"),
        ('{"1": {"class_type": "A", "inputs": {"cfg": -1e999}}}', "has -1e999 where a number belongs"),
        ('{"1": {"class_type": "A", "inputs": {"text": "\\ud800"}}}', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (json.dumps({str(n): {"class_type": "A", "inputs": {}} for n in range(1001)}), "1001 nodes; at most 1000"),
        (json.dumps(_row(990)), "too many nodes stand in one row"),
    ],
)
def test_what_is_no_workflow_is_refused(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.json"
    file.write_text(text)
    assert main(["comfy", "import", str(file)]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--input=colour=1.text", "with a known name"),
        ("--input=prompt=6", "named as NODE.FIELD"),
        ("--input=prompt=99.text", "which the workflow does not have"),
        ("--input=prompt=6.words", "does not have. It has: text."),
        ("--input=prompt=6.clip", "is fed by node 4"),
        ("--output=99", "names node '99'"),
        ("--ignore=everything", "takes the name of an input"),
    ],
)
def test_what_cannot_be_named_is_refused(option: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["comfy", "import", str(WORKFLOWS / "sdxl.json"), option]) == 2
    assert sentence in capsys.readouterr().err
