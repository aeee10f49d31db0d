"""Files as InvokeAI writes them, made from what its formats' documentation says."""

from __future__ import annotations

import json
from typing import Any

from tests.support.galleries.pictures import Fixture, written

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
        written(invokeai_metadata=json.dumps(_INVOKE | {"model": _MODEL, "app_version": "4.2.9"})),
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
        written(
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
        written(
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
        written(**{"sd__metadata": _sd_metadata("Zoe's café [blurry, text]")}),
        {"prompt": "Zoe's café", "negative_prompt": "blurry, text", "seed": "1234567"},
    ),
    Fixture(
        "dream.png",
        written(Dream='"an \\"old\\" mill [people]" -s 50 -S 42 -W 512 -H 704 -C 7.5 -A k_euler_a'),
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
