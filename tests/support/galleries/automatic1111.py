"""Files as AUTOMATIC1111 writes them, made from what its format's documentation says."""

from __future__ import annotations

from tests.support.galleries.pictures import LARGEST, Fixture, commented, written

_A1111_SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: {seed}, Size: 512x768, Model hash: 6ce0161689"


AUTOMATIC1111 = (
    Fixture(
        "plain.png",
        written(
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
        written(
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
        commented("JPEG", "提灯 by the river\nNegative prompt: ぼやけた\n" + _A1111_SETTINGS.format(seed=7)),
        {"prompt": "提灯 by the river", "negative_prompt": "ぼやけた", "seed": "7", "steps": 20},
    ),
    Fixture(
        "comment.webp",
        commented("WEBP", "a café at dawn\n" + _A1111_SETTINGS.format(seed=8) + ", Model: sd_xl_base_1.0"),
        {"prompt": "a café at dawn", "negative_prompt": "", "seed": "8", "model": "sd_xl_base_1.0"},
    ),
    Fixture(
        "large-seed.png",
        written(parameters="ملونة tiles\n" + _A1111_SETTINGS.format(seed=LARGEST)),
        {"prompt": "ملونة tiles", "seed": str(LARGEST), "steps": 20},
    ),
)
