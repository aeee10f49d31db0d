"""Galleries as other tools leave them, made from what their formats' documentation says: five files for each tool.

    python -m tests.support.gallery_fixtures FOLDER

writes them, to look at. Pictures are small and each has other bytes.
"""

from __future__ import annotations

import csv
import io
import json
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

LARGEST = 2**64 - 1


@dataclass(frozen=True)
class Fixture:
    """One file: how it is made, and what must be found in it."""

    name: str
    write: Callable[[Path, int], None]
    expected: Mapping[str, Any]


def png(path: Path, shade: int, **texts: str) -> None:
    """Write a picture with texts, as PNG keeps them."""
    info = PngInfo()
    for name, text in texts.items():
        # Tools name chunks with characters that Python's names cannot have.
        key = name.replace("__", "-")
        if all(ord(mark) < 256 for mark in text):
            info.add_text(key, text)
        else:
            info.add_itxt(key, text)
    _picture(shade).save(path, "PNG", pnginfo=info)


def with_comment(kind: str) -> Callable[[Path, int, str], None]:
    """Return what writes a JPEG or a WebP with a user comment in its EXIF."""

    def write(path: Path, shade: int, text: str) -> None:
        _picture(shade).save(path, kind, exif=b"Exif\0\0" + exif_of(text))

    return write


def exif_of(comment: str) -> bytes:
    """Return a TIFF block (EXIF 2.32, sections 4.6.3 and 4.6.5) with a user comment in UTF-16, big end first."""
    body = b"UNICODE\0" + comment.encode("utf-16-be")
    first = struct.pack(">HHHIII", 1, 0x8769, 4, 1, 26, 0)
    second = struct.pack(">HHHIII", 1, 0x9286, 7, len(body), 44, 0)
    return b"MM\0*" + struct.pack(">I", 8) + first + second + body


def _picture(shade: int) -> Image.Image:
    return Image.new("RGB", (16, 8), (shade % 256, shade // 256 % 256, 90))


def _written(**texts: str) -> Callable[[Path, int], None]:
    return lambda path, shade: png(path, shade, **texts)


def _commented(kind: str, text: str) -> Callable[[Path, int], None]:
    return lambda path, shade: with_comment(kind)(path, shade, text)


_A1111_SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: {seed}, Size: 512x768, Model hash: 6ce0161689"

AUTOMATIC1111 = (
    Fixture(
        "plain.png",
        _written(
            parameters="a lighthouse in a storm\nNegative prompt: blurry, text\n"
            + _A1111_SETTINGS.format(seed=965400086)
            + ", Model: v1-5-pruned-emaonly, Version: v1.9.4"
        ),
        {
            "prompt": "a lighthouse in a storm",
            "negative_prompt": "blurry, text",
            "model": "v1-5-pruned-emaonly",
            "seed": "965400086",
            "width": 512,
            "height": 768,
            "steps": 20,
            "sampler": "Euler a",
            "guidance": 7.0,
        },
    ),
    Fixture(
        "lines.png",
        _written(
            parameters="first line: with a colon, and Steps: in words\nsecond line\n"
            "Negative prompt: one\ntwo\n"
            "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, Seed: 0, Size: 1024x1024, "
            'Model: "a, \\"b\\""'
        ),
        {
            "prompt": "first line: with a colon, and Steps: in words\nsecond line",
            "negative_prompt": "one\ntwo",
            "model": 'a, "b"',
            "seed": "0",
            "sampler": "DPM++ 2M Karras",
            "guidance": 5.5,
        },
    ),
    Fixture(
        "comment.jpg",
        _commented("JPEG", "提灯 by the river\nNegative prompt: ぼやけた\n" + _A1111_SETTINGS.format(seed=7)),
        {"prompt": "提灯 by the river", "negative_prompt": "ぼやけた", "seed": "7", "steps": 20},
    ),
    Fixture(
        "comment.webp",
        _commented("WEBP", "a café at dawn\n" + _A1111_SETTINGS.format(seed=8) + ", Model: sd_xl_base_1.0"),
        {"prompt": "a café at dawn", "negative_prompt": "", "seed": "8", "model": "sd_xl_base_1.0"},
    ),
    Fixture(
        "large-seed.png",
        _written(parameters="ملونة tiles\n" + _A1111_SETTINGS.format(seed=LARGEST)),
        {"prompt": "ملونة tiles", "seed": str(LARGEST), "steps": 20},
    ),
)


def _graph(**nodes: tuple[str, dict[str, Any]]) -> str:
    graph = {key.lstrip("n"): {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
    return json.dumps(graph)


_LOADER = ("CheckpointLoaderSimple", {"ckpt_name": "xl/sd_xl_base_1.0.safetensors"})
_CLIP = ["4", 1]

_SIMPLE = _graph(
    n3=(
        "KSampler",
        {
            "seed": 156680208700286,
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    ),
    n4=_LOADER,
    n5=("EmptyLatentImage", {"width": 512, "height": 640, "batch_size": 1}),
    n6=("CLIPTextEncode", {"text": "a galaxy in a bottle", "clip": _CLIP}),
    n7=("CLIPTextEncode", {"text": "watermark", "clip": _CLIP}),
    n8=("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
    n9=("SaveImage", {"filename_prefix": "ComfyUI", "images": ["8", 0]}),
)

_JOINED = _graph(
    n1=(
        "KSampler",
        {
            "seed": ["20", 0],
            "steps": 12,
            "cfg": 4,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "model": ["3", 0],
            "positive": ["10", 0],
            "negative": ["10", 1],
            "latent_image": ["5", 0],
        },
    ),
    n3=("LoraLoader", {"lora_name": "detail.safetensors", "model": ["4", 0], "clip": _CLIP}),
    n4=_LOADER,
    n5=("EmptyLatentImage", {"width": ["21", 0], "height": 768, "batch_size": 1}),
    n10=(
        "ControlNetApplyAdvanced",
        {"positive": ["11", 0], "negative": ["14", 0], "control_net": ["30", 0], "image": ["31", 0], "strength": 1.0},
    ),
    n11=("ConditioningCombine", {"conditioning_1": ["12", 0], "conditioning_2": ["13", 0]}),
    n12=("CLIPTextEncode", {"text": "red sandstone", "clip": _CLIP}),
    n13=("ConditioningSetArea", {"conditioning": ["15", 0], "width": 64, "height": 64}),
    n14=("CLIPTextEncode", {"text": "people", "clip": _CLIP}),
    n15=("CLIPTextEncode", {"text": "blue sky", "clip": _CLIP}),
    n20=("PrimitiveInt", {"value": 42}),
    n21=("PrimitiveInt", {"value": 896}),
    n30=("ControlNetLoader", {"control_net_name": "depth.safetensors"}),
    n31=("LoadImage", {"image": "depth.png"}),
    n40=("SaveImage", {"images": ["41", 0]}),
    n41=("VAEDecode", {"samples": ["1", 0], "vae": ["4", 2]}),
)

_BASE = {"steps": 25, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal"}
_REFINED = _graph(
    n1=(
        "KSamplerAdvanced",
        {
            **_BASE,
            "noise_seed": LARGEST,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    ),
    n2=(
        "KSamplerAdvanced",
        {
            **_BASE,
            "noise_seed": 0,
            "model": ["14", 0],
            "positive": ["16", 0],
            "negative": ["17", 0],
            "latent_image": ["1", 0],
        },
    ),
    n4=_LOADER,
    n5=("EmptyLatentImage", {"width": 1024, "height": 1024, "batch_size": 1}),
    n6=("CLIPTextEncodeSDXL", {"text_g": "a harbour", "text_l": "oil painting", "width": 4096, "clip": _CLIP}),
    n7=("CLIPTextEncodeSDXL", {"text_g": "ugly", "text_l": "ugly", "clip": _CLIP}),
    n14=("CheckpointLoaderSimple", {"ckpt_name": "sd_xl_refiner_1.0.safetensors"}),
    n16=("CLIPTextEncodeSDXLRefiner", {"text": "sharp", "ascore": 6.0, "clip": ["14", 1]}),
    n17=("CLIPTextEncodeSDXLRefiner", {"text": "soft", "ascore": 2.0, "clip": ["14", 1]}),
    n18=("VAEDecode", {"samples": ["2", 0], "vae": ["14", 2]}),
    n19=("SaveImage", {"images": ["18", 0]}),
)

_PARTS = _graph(
    n1=(
        "SamplerCustomAdvanced",
        {
            "noise": ["2", 0],
            "guider": ["3", 0],
            "sampler": ["4", 0],
            "sigmas": ["5", 0],
            "latent_image": ["6", 0],
        },
    ),
    n2=("RandomNoise", {"noise_seed": 5}),
    n3=("BasicGuider", {"model": ["7", 0], "conditioning": ["8", 0]}),
    n4=("KSamplerSelect", {"sampler_name": "euler"}),
    n5=("BasicScheduler", {"scheduler": "simple", "steps": 4, "denoise": 1.0, "model": ["7", 0]}),
    n6=("EmptySD3LatentImage", {"width": 768, "height": 512, "batch_size": 1}),
    n7=("UNETLoader", {"unet_name": "flux1-schnell.safetensors", "weight_dtype": "default"}),
    n8=("FluxGuidance", {"guidance": 3.5, "conditioning": ["9", 0]}),
    n9=("CLIPTextEncode", {"text": ["10", 0], "clip": ["20", 0]}),
    n10=("StringConcatenate", {"string_a": ["11", 0], "string_b": "at night", "delimiter": ", "}),
    n11=("PrimitiveString", {"value": "提灯 in the rain"}),
    n12=("VAEDecode", {"samples": ["1", 0], "vae": ["21", 0]}),
    n13=("SaveImage", {"images": ["12", 0]}),
)


def _editor_graph() -> str:
    """Return a graph as the editor keeps it: links by number, values of widgets by their place."""
    inputs = [
        *({"name": name, "type": "X", "link": link} for name, link in (("model", 1), ("positive", 4), ("negative", 6))),
        {"name": "latent_image", "type": "LATENT", "link": 2},
        {"name": "seed", "type": "INT", "link": 9, "widget": {"name": "seed"}},
    ]
    nodes: list[dict[str, Any]] = [
        {
            "id": 3,
            "type": "KSampler",
            "mode": 0,
            "inputs": inputs,
            "widgets_values": [1, "fixed", 15, 6.5, "heun", "simple", 1],
        },
        {
            "id": 4,
            "type": "CheckpointLoaderSimple",
            "mode": 0,
            "inputs": [],
            "widgets_values": ["dreamshaper_8.safetensors"],
        },
        {"id": 5, "type": "EmptyLatentImage", "mode": 0, "inputs": [], "widgets_values": [448, 704, 1]},
        {"id": 6, "type": "CLIPTextEncode", "mode": 0, "inputs": [], "widgets_values": ["a fox in snow"]},
        {"id": 7, "type": "CLIPTextEncode", "mode": 0, "inputs": [], "widgets_values": ["dog"]},
        {"id": 8, "type": "PrimitiveNode", "mode": 0, "widgets_values": [77, "randomize"]},
    ]
    links = [
        [1, 4, 0, 3, 0, "MODEL"],
        [2, 5, 0, 3, 3, "LATENT"],
        [4, 6, 0, 3, 1, "CONDITIONING"],
        [6, 7, 0, 3, 2, "CONDITIONING"],
        [9, 8, 0, 3, 4, "INT"],
    ]
    return json.dumps({"last_node_id": 8, "last_link_id": 9, "nodes": nodes, "links": links, "version": 0.4})


COMFYUI = (
    Fixture(
        "simple.png",
        _written(prompt=_SIMPLE, workflow="{}"),
        {
            "prompt": "a galaxy in a bottle",
            "negative_prompt": "watermark",
            "model": "sd_xl_base_1.0",
            "seed": "156680208700286",
            "width": 512,
            "height": 640,
            "steps": 20,
            "sampler": "euler normal",
            "guidance": 8.0,
        },
    ),
    Fixture(
        "joined.png",
        _written(prompt=_JOINED),
        {
            "prompt": "red sandstone\nblue sky",
            "negative_prompt": "people",
            "model": "sd_xl_base_1.0",
            "seed": "42",
            "width": 896,
            "height": 768,
        },
    ),
    Fixture(
        "refined.png",
        _written(prompt=_REFINED),
        {
            "prompt": "a harbour\noil painting",
            "negative_prompt": "ugly",
            "model": "sd_xl_base_1.0",
            "seed": str(LARGEST),
            "width": 1024,
        },
    ),
    Fixture(
        "parts.png",
        _written(prompt=_PARTS),
        {
            "prompt": "提灯 in the rain, at night",
            "negative_prompt": "",
            "model": "flux1-schnell",
            "seed": "5",
            "steps": 4,
            "sampler": "euler simple",
            "width": 768,
        },
    ),
    Fixture(
        "editor.png",
        _written(workflow=_editor_graph()),
        {
            "prompt": "a fox in snow",
            "negative_prompt": "dog",
            "model": "dreamshaper_8",
            "seed": "77",
            "width": 448,
            "height": 704,
            "steps": 15,
            "sampler": "heun simple",
        },
    ),
)

_INVOKE = {
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "a bridge of glass",
    "negative_prompt": "rust",
    "width": 1024,
    "height": 832,
    "seed": 3210987654,
    "cfg_scale": 6.5,
    "steps": 35,
    "scheduler": "dpmpp_2m_k",
}
_MODEL = {"key": "5f3c", "hash": "blake3:00", "name": "Juggernaut XL v9", "base": "sdxl", "type": "main"}
_OLD_MODEL = {"model_name": "stable-diffusion-xl-base-1-0", "base_model": "sdxl", "model_type": "main"}


def _sd_metadata(prompt: Any) -> str:
    image = {
        "prompt": prompt,
        "steps": 50,
        "cfg_scale": 7.5,
        "height": 512,
        "width": 640,
        "seed": 1234567,
        "type": "txt2img",
        "sampler": "k_lms",
    }
    return json.dumps({"model": "stable diffusion", "model_weights": "stable-diffusion-1.5", "image": image})


INVOKEAI = (
    Fixture(
        "metadata-4.png",
        _written(invokeai_metadata=json.dumps(_INVOKE | {"model": _MODEL, "app_version": "4.2.9"})),
        {
            "prompt": "a bridge of glass",
            "negative_prompt": "rust",
            "model": "Juggernaut XL v9",
            "seed": "3210987654",
            "width": 1024,
            "height": 832,
            "steps": 35,
            "sampler": "dpmpp_2m_k",
            "guidance": 6.5,
        },
    ),
    Fixture(
        "metadata-3.png",
        _written(
            invokeai_metadata=json.dumps(
                _INVOKE | {"model": _OLD_MODEL, "positive_style_prompt": "etching", "seed": 0}, ensure_ascii=False
            )
        ),
        {
            "prompt": "a bridge of glass\netching",
            "model": "stable-diffusion-xl-base-1-0",
            "seed": "0",
            "guidance": 6.5,
        },
    ),
    Fixture(
        "sd-metadata-weighted.png",
        _written(
            **{
                "sd__metadata": _sd_metadata(
                    [{"prompt": "a barn", "weight": 1.0}, {"prompt": "[cow] hay", "weight": 0.5}]
                )
            }
        ),
        {
            "prompt": "a barn hay",
            "negative_prompt": "cow",
            "model": "stable-diffusion-1.5",
            "seed": "1234567",
            "width": 640,
            "height": 512,
            "steps": 50,
            "sampler": "k_lms",
            "guidance": 7.5,
        },
    ),
    Fixture(
        "sd-metadata-text.png",
        _written(**{"sd__metadata": _sd_metadata("Zoe's café [blurry, text]")}),
        {"prompt": "Zoe's café", "negative_prompt": "blurry, text", "seed": "1234567"},
    ),
    Fixture(
        "dream.png",
        _written(Dream='"an \\"old\\" mill [people]" -s 50 -S 42 -W 512 -H 704 -C 7.5 -A k_euler_a'),
        {
            "prompt": 'an \\"old\\" mill',
            "negative_prompt": "people",
            "seed": "42",
            "width": 512,
            "height": 704,
            "steps": 50,
            "sampler": "k_euler_a",
            "guidance": 7.5,
        },
    ),
)

TOOLS: Mapping[str, tuple[Fixture, ...]] = {
    "automatic1111": AUTOMATIC1111,
    "comfyui": COMFYUI,
    "invokeai": INVOKEAI,
}


def write_gallery(folder: Path) -> dict[str, Fixture]:
    """Write every fixture into a folder of its tool. Returns them by their path in the gallery."""
    written: dict[str, Fixture] = {}
    for tool, fixtures in TOOLS.items():
        (folder / tool).mkdir(parents=True, exist_ok=True)
        for fixture in fixtures:
            name = f"{tool}/{fixture.name}"
            fixture.write(folder / name, 1 + len(written))
            written[name] = fixture
    return written


@dataclass
class Dump:
    """A dump of the seed's old tables, by name, that is written with `write`."""

    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, folder: Path, kind: str = "csv") -> None:
        """Write tables and files below a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            target = folder / f"{name}.{kind}"
            target.write_text(_csv(rows) if kind == "csv" else json.dumps(rows, ensure_ascii=False), "utf-8")
        for path, data in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)


def picture_bytes(shade: int) -> bytes:
    """Return a PNG whose bytes depend on the shade."""
    file = io.BytesIO()
    _picture(shade).save(file, "PNG")
    return file.getvalue()


def seed_dump(user: str = "11111111-1111-4111-8111-111111111111") -> Dump:
    """Return rows as the old tables kept them: paths, prefixed paths, addresses; settings in columns and in JSON."""
    dump = Dump()
    dump.tables["workspace_items"] = [
        {
            "id": "i1",
            "user_id": user,
            "prompt": "a red door",
            "model_type": "sdxl_image_high",
            "seed": "12",
            "bucket_name": "sdxl_image_high",
            "storage_path": f"{user}/door.png",
            "generation_params": json.dumps({"steps": 25, "guidance_scale": 7.5}),
            "created_at": "2025-08-01 10:00:00+00",
        },
        {
            "id": "i2",
            "user_id": user,
            "prompt": "the file of this row is gone",
            "model_type": "sdxl",
            "seed": "",
            "bucket_name": "sdxl_image_high",
            "storage_path": f"{user}/lost.png",
            "generation_params": "",
            "created_at": "",
        },
    ]
    dump.tables["workspace_assets"] = [
        {
            "id": "a1",
            "user_id": user,
            "asset_type": "image",
            "temp_storage_path": f"workspace-temp/{user}/job/0.png",
            "job_id": "j1",
            "asset_index": "0",
            "generation_seed": str(LARGEST),
            "original_prompt": "提灯, twice",
            "model_used": "sdxl",
            "generation_settings": json.dumps({"width": 1024, "height": 1024, "negative_prompt": "blurry"}),
            "created_at": "2025-08-02T10:00:00Z",
        }
    ]
    dump.tables["user_library"] = [
        {
            "id": "l1",
            "user_id": user,
            "asset_type": "image",
            "storage_path": f"https://old.example/storage/v1/object/sign/user-library/{user}/kept%20one.png?token=x",
            "original_prompt": "a kept picture",
            "model_used": "wan",
            "generation_seed": "0",
            "custom_title": "Café at dawn",
            "tags": '{dawn,"blue hour"}',
            "is_favorite": "true",
            "created_at": "2025-07-01T10:00:00Z",
        },
        {
            "id": "l2",
            "user_id": user,
            "asset_type": "image",
            "storage_path": "../../etc/passwd",
            "original_prompt": "a way out",
            "model_used": "wan",
            "generation_seed": "1",
            "custom_title": "",
            "tags": "",
            "is_favorite": "false",
            "created_at": "",
        },
    ]
    dump.files = {
        f"sdxl_image_high/{user}/door.png": picture_bytes(701),
        f"workspace-temp/{user}/job/0.png": picture_bytes(702),
        f"user-library/{user}/kept one.png": picture_bytes(703),
    }
    return dump


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    write_gallery(Path(sys.argv[1]))
