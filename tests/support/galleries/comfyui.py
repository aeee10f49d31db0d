"""Files as ComfyUI writes them, made from what its format's documentation says."""

from __future__ import annotations

import json
from typing import Any

from tests.support.galleries.pictures import LARGEST, Fixture, written


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
        written(prompt=_SIMPLE, workflow="{}"),
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
        written(prompt=_JOINED),
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
        written(prompt=_REFINED),
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
        written(prompt=_PARTS),
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
        written(workflow=_editor_graph()),
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
