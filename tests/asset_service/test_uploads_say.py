"""What an uploaded file says of itself becomes its recipe, whichever tool wrote it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import av
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from atelier.type.v1 import generation_pb2
from atelier_worker.engine import EnhancedBy, Lora, Task
from atelier_worker.engines import files
from library_service.domain import Item
from library_service.shelf_wire import recipe
from service_kit.identity import Owner
from tests.asset_service.harness import Harness
from tests.asset_service.pictures import mp4, png
from tests.support.galleries.gallery import TOOLS

TASK = Task(
    stage="generate",
    format="image",
    model="sdxl",
    prompt="a lantern 提灯",
    negative_prompt="fog",
    seed=7,
    quantity=1,
    width=832,
    height=1216,
    steps=4,
    quality="high",
    references=(),
    frames=0,
    fps=0,
    indexes=(0,),
    options={},
)


def item_of(provenance: generation_pb2.Provenance) -> Item:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    said = provenance.SerializeToString()
    return Item("i", Owner("default", "ann"), "a", "image", said, (), moment, None, 1)


async def test_a_picture_of_ours_is_made_again_from_the_file_alone(harness: Harness, tmp_path: Path) -> None:
    files.save_png(Image.new("RGB", (16, 16)), tmp_path / "a.png", files.made_with(TASK, 8, "sketch"))
    asset = await harness.bring((tmp_path / "a.png").read_bytes())
    request = recipe(item_of(asset.provenance), as_enhanced=False)
    assert (request.prompt, request.negative_prompt, request.model) == ("a lantern 提灯", "fog", "sdxl")
    assert (request.seed, request.steps, request.width, request.height) == (8, 4, 832, 1216)
    assert (request.format, request.quality) == (generation_pb2.FORMAT_IMAGE, generation_pb2.QUALITY_HIGH)
    assert not request.enhance_prompt


async def test_what_steered_a_picture_of_ours_steers_it_again(harness: Harness, tmp_path: Path) -> None:
    steered = replace(TASK, guidance=0.0, scheduler="euler", loras=(Lora("ink", -0.5),))
    files.save_png(Image.new("RGB", (16, 16)), tmp_path / "a.png", files.made_with(steered, 8, "sketch"))
    request = recipe(item_of((await harness.bring((tmp_path / "a.png").read_bytes())).provenance), as_enhanced=False)
    assert (request.HasField("guidance"), request.guidance, request.scheduler) == (True, 0.0, "euler")
    assert [(lora.name, lora.weight) for lora in request.loras] == [("ink", -0.5)]


@pytest.mark.parametrize(
    "said",
    [
        {"guidance": "much", "scheduler": ["euler"], "loras": {"ink": 1}},
        {"guidance": 31, "scheduler": None, "loras": [{"name": "ink", "weight": 5}, {"name": "", "weight": 1}, 7]},
        {"guidance": -1, "loras": [{"name": "n" * 101, "weight": 1}, {"name": "ink", "weight": True}, {"name": "ink"}]},
    ],
)
async def test_what_no_request_may_ask_for_is_not_asked_for(
    harness: Harness, tmp_path: Path, said: dict[str, object]
) -> None:
    made = json.loads(files.made_with(TASK, 8, "sketch"))
    made["settings"] |= said
    files.save_png(Image.new("RGB", (16, 16)), tmp_path / "a.png", json.dumps(made))
    request = recipe(item_of((await harness.bring((tmp_path / "a.png").read_bytes())).provenance), as_enhanced=False)
    assert (request.HasField("guidance"), request.scheduler, list(request.loras)) == (False, "", [])
    assert request.prompt == TASK.prompt


async def test_the_prompt_as_it_was_given_is_told_from_the_enhanced_one(harness: Harness, tmp_path: Path) -> None:
    said = json.loads(files.made_with(TASK, 8, "sketch")) | {"original_prompt": "a lantern"}
    info = PngInfo()
    info.add_itxt(files.KEY, json.dumps(said))
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", pnginfo=info)
    asset = await harness.bring((tmp_path / "a.png").read_bytes())
    assert (asset.provenance.prompt, asset.provenance.enhanced_prompt) == ("a lantern", "a lantern 提灯")
    assert recipe(item_of(asset.provenance), as_enhanced=False).enhance_prompt
    assert not asset.provenance.HasField("enhanced_by")


async def test_what_wrote_an_enhanced_prompt_is_read_from_the_file(harness: Harness, tmp_path: Path) -> None:
    # A prompt that was left as it is was enhanced nevertheless.
    task = replace(TASK, enhanced_by=EnhancedBy("transformers", "chat", "enhance/sdxl", "v" * 101))
    files.save_png(Image.new("RGB", (16, 16)), tmp_path / "a.png", files.made_with(task, 8, "sketch"))
    made = (await harness.bring((tmp_path / "a.png").read_bytes())).provenance
    assert (made.prompt, made.enhanced_prompt, made.enhance_prompt) == (TASK.prompt, TASK.prompt, True)
    by = generation_pb2.EnhancedBy(engine="transformers", model="chat", template="enhance/sdxl")
    by.template_version = "v" * 100
    assert made.enhanced_by == by


async def test_a_video_of_ours_is_made_again_from_the_file_alone(harness: Harness, tmp_path: Path) -> None:
    said = json.loads(files.made_with(TASK, 8, "sketch"))
    said["settings"] |= {"frames": 24, "fps": 8}
    asset = await harness.bring(tagged(tmp_path, atelier=json.dumps(said)))
    request = recipe(item_of(asset.provenance), as_enhanced=False)
    assert (request.prompt, request.format) == ("a lantern 提灯", generation_pb2.FORMAT_VIDEO)
    assert (request.duration_seconds, request.frame_rate) == (3, 8)
    said["settings"] |= {"frames": 610, "fps": 61}
    asset = await harness.bring(tagged(tmp_path, atelier=json.dumps(said)))
    request = recipe(item_of(asset.provenance), as_enhanced=False)
    assert (request.duration_seconds, request.HasField("frame_rate")) == (10, False)


@pytest.mark.parametrize("tool", TOOLS)
async def test_a_picture_of_another_tool_is_known_by_its_prompt(harness: Harness, tmp_path: Path, tool: str) -> None:
    fixture = next(fixture for fixture in TOOLS[tool] if fixture.name.endswith(".png") and "seed" in fixture.expected)
    fixture.write(tmp_path / fixture.name, 1)
    made = (await harness.bring((tmp_path / fixture.name).read_bytes())).provenance
    assert (made.prompt, made.imported.tool) == (fixture.expected["prompt"], tool)
    assert made.imported.seed == fixture.expected["seed"]


async def test_a_graph_in_the_comment_of_a_video_is_read(harness: Harness, tmp_path: Path) -> None:
    fixture = next(fixture for fixture in TOOLS["comfyui"] if fixture.name.endswith(".png"))
    fixture.write(tmp_path / "a.png", 1)
    with Image.open(tmp_path / "a.png") as picture:
        graph = {name: json.loads(text) for name, text in picture.info.items() if name in ("prompt", "workflow")}
    asset = await harness.bring(tagged(tmp_path, comment=json.dumps(graph)))
    assert asset.provenance.prompt == fixture.expected["prompt"]


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"prompt": 5}', '{"prompt": "x", "settings": 3, "seed": []}'])
async def test_a_file_that_says_nonsense_is_taken_all_the_same(harness: Harness, text: str) -> None:
    target, info = BytesIO(), PngInfo()
    info.add_text(files.KEY, text)
    Image.new("RGB", (8, 8)).save(target, "PNG", pnginfo=info)
    asset = await harness.bring(target.getvalue())
    assert not asset.provenance.HasField("settings")


async def test_a_file_that_says_nothing_has_no_recipe(harness: Harness) -> None:
    asset = await harness.bring(png())
    assert asset.provenance == generation_pb2.Provenance()


def tagged(folder: Path, **tags: str) -> bytes:
    """Return a video with tags."""
    (folder / "plain.mp4").write_bytes(mp4(folder))
    with (
        av.open(str(folder / "plain.mp4")) as source,
        av.open(str(folder / "tagged.mp4"), "w", options={"movflags": "+faststart+use_metadata_tags"}) as target,
    ):
        target.metadata.update(tags)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return (folder / "tagged.mp4").read_bytes()
