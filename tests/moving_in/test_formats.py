"""What galleries say of their files: as each tool writes it, and as no tool would."""

from __future__ import annotations

import io
import json
import tracemalloc
import zlib
from contextlib import suppress
from json import dumps
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_kit.descriptions import automatic1111, comfyui, every_tool, invokeai, texts
from service_kit.descriptions.described import MAX_TEXT, Described, clean, model_name, whole
from tests.support.galleries.gallery import TOOLS
from tests.support.galleries.pictures import Fixture

CASES = [(tool, fixture) for tool, fixtures in TOOLS.items() for fixture in fixtures]
QUICK = settings(max_examples=80, deadline=None, database=None)
TEXT = st.text(max_size=300)
# Words of any script, without what has a meaning in one of the formats.
WORDS = st.text(st.characters(categories=["L", "N"], include_characters=" .!'-"), max_size=200).map(
    lambda text: " ".join(f"a {clean(text)} z".split())
)
SEEDS = st.integers(0, 2**64)
SIDES = st.integers(1, 999_999)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT


def test_there_are_five_of_each() -> None:
    assert {tool: len(fixtures) for tool, fixtures in TOOLS.items()} == dict.fromkeys(TOOLS, 5)


def test_texts_that_unpack_to_much_are_read_within_bounds_and_those_before_count(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(4 << 20))
    bombs = b"".join(chunk(b"zTXt", b"%d\0\0" % number + bomb) for number in range(200))
    said = chunk(b"tEXt", b"parameters\0a lamp\nSteps: 4, Sampler: Euler, Seed: 3")
    path = tmp_path / "bombs.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + said + bombs)
    tracemalloc.start()
    found = every_tool.describe_file(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.prompt, found.seed) == ("a lamp", "3")
    assert "more than 8388608 bytes when they are unpacked" in found.notes[0]
    assert most < 48 << 20


def test_a_text_that_is_joined_with_itself_again_and_again_stays_short() -> None:
    graph: dict[str, Any] = {
        str(n): {"class_type": "Join", "inputs": {"string_a": [str(n + 1), 0], "string_b": [str(n + 1), 0]}}
        for n in range(40)
    }
    graph["40"] = {"class_type": "Text", "inputs": {"value": "lamp " * 100_000}}
    graph["text"] = {"class_type": "CLIPTextEncode", "inputs": {"text": ["0", 0]}}
    graph["sampler"] = {
        "class_type": "KSampler",
        "inputs": {"positive": ["text", 0], "negative": ["text", 0], "latent_image": ["none", 0], "seed": 7},
    }
    tracemalloc.start()
    found = comfyui.parse(dumps(graph))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None and found.seed == "7"
    assert len(found.prompt) <= 4 * MAX_TEXT
    assert most < 32 << 20


@pytest.mark.parametrize(("tool", "fixture"), CASES, ids=[f"{tool}/{fixture.name}" for tool, fixture in CASES])
def test_what_a_tool_wrote_is_found(tool: str, fixture: Fixture, tmp_path: Path) -> None:
    path = tmp_path / fixture.name
    fixture.write(path, 1)
    with path.open("rb") as file:
        found = every_tool.describe(texts.texts_of(file))
    assert found.tool == tool
    assert {name: getattr(found, name) for name in fixture.expected} == fixture.expected
    assert found.notes == ()


def test_a_text_beside_a_video_says_how_it_was_made() -> None:
    found = every_tool.describe({}, "a wave\nSteps: 4, Sampler: Euler, CFG scale: 1, Seed: 3, Size: 832x480")
    assert (found.prompt, found.seed, found.width) == ("a wave", "3", 832)


def test_what_is_too_long_is_cut_and_said() -> None:
    found = every_tool.describe({"parameters": "x" * (MAX_TEXT + 5) + "\nSteps: 1, Sampler: a, Seed: 1"})
    assert len(found.prompt) == MAX_TEXT
    assert found.notes == (f"prompt has {MAX_TEXT + 5} characters; only the first {MAX_TEXT} were taken over",)


def test_what_cannot_be_read_is_said_and_the_next_text_counts() -> None:
    found = every_tool.describe({"invokeai_metadata": "{", "Dream": '"a mill" -S 1'})
    assert (found.prompt, found.seed) == ("a mill", "1")
    assert len(found.notes) == 1
    deep = every_tool.describe({"prompt": "[" * 200_000})
    assert deep.tool == ""
    assert "nested too deeply" in deep.notes[0]


def test_a_circle_of_nodes_ends() -> None:
    node = {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["2", 0], "conditioning_2": ["3", 0]}}
    strings = {"class_type": "StringConcatenate", "inputs": {"string_a": ["5", 0], "string_b": ["5", 0]}}
    graph = {
        "1": {
            "class_type": "KSampler",
            "inputs": {"seed": ["4", 0], "positive": ["2", 0], "negative": ["6", 0], "latent_image": ["1", 0]},
        },
        "2": node,
        "3": node,
        "4": {"class_type": "PrimitiveInt", "inputs": {"value": ["4", 0]}},
        "5": strings,
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["5", 0]}},
    }
    assert comfyui.parse(json.dumps(graph)) == Described(tool="comfyui")


def test_a_text_of_ten_megabytes_is_refused_packed_or_not(tmp_path: Path) -> None:
    big = b"a" * (10 << 20)
    for kind, body in ((b"tEXt", b"parameters\0" + big), (b"zTXt", b"parameters\0\0" + zlib.compress(big))):
        chunk = len(body).to_bytes(4, "big") + kind + body + b"\0\0\0\0"
        with pytest.raises(texts.TooLong):
            texts.texts_of(io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (2**64, str(2**64)), ("007", "7"), (1.0, "1"), (True, ""), (1.5, ""), ("1e9", ""), (10**40, "")],
)
def test_seeds_are_whole_numbers_of_any_size(value: Any, text: str) -> None:
    assert whole(value) == text


def assert_takes_nothing_odd(found: Described | None, tool: str) -> None:
    """Check what holds of any description, whatever it was read from."""
    if found is None:
        return
    assert found.tool == tool
    for text in (found.prompt, found.negative_prompt, found.model, found.sampler):
        assert text == clean(text), "no control characters, no halves of surrogates"
    assert found.seed == "" or found.seed == str(int(found.seed))
    assert len(found.seed) <= 40
    assert all(0 <= number <= 1_000_000 for number in (found.width, found.height, found.steps))
    assert found.guidance is None or isfinite(found.guidance)


@QUICK
@given(TEXT)
def test_any_text_is_read_as_automatic1111(text: str) -> None:
    assert_takes_nothing_odd(automatic1111.parse(text), "automatic1111")
    found = automatic1111.parse(f"{text}\nNegative prompt: {text}\nSteps: 1, Seed: 2, x: {text}")
    if found is not None:
        assert_takes_nothing_odd(found, "automatic1111")


@QUICK
@given(WORDS, WORDS, SEEDS, SIDES, SIDES)
def test_what_automatic1111_wrote_is_read_whatever_the_words(
    prompt: str, negative: str, seed: int, width: int, height: int
) -> None:
    line = f"Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: {seed}, Size: {width}x{height}, Model: {dumps(prompt)}"
    assert automatic1111.parse(f"{prompt}\nNegative prompt: {negative}\n{line}") == Described(
        tool="automatic1111",
        prompt=prompt,
        negative_prompt=negative,
        model=model_name(prompt),
        seed=str(seed),
        width=width,
        height=height,
        steps=20,
        sampler="Euler a",
        guidance=7.5,
    )


def test_a_line_of_many_quotation_marks_takes_no_time() -> None:
    marks = '"\\' * 200_000
    assert automatic1111.settings(f"a: {marks}") == {"a": marks}
    assert automatic1111.settings("a:" * 200_000) == {"a": "a:" * 199_999}


LINKS = st.tuples(st.sampled_from([str(number) for number in range(8)]), st.integers(0, 2)).map(list)
NODES = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from(["KSampler", "CLIPTextEncode", "Reroute", "SaveImage", "ConditioningZeroOut"])
        | TEXT,
        "inputs": st.dictionaries(
            st.sampled_from(
                [
                    "",
                    "positive",
                    "negative",
                    "latent_image",
                    "seed",
                    "text",
                    "value",
                    "guider",
                    "noise",
                    "model",
                    "images",
                ]
            )
            | TEXT,
            LINKS | SCALARS,
            max_size=8,
        ),
    }
)
GRAPHS = st.dictionaries(st.sampled_from([str(number) for number in range(8)]), NODES | SCALARS, max_size=8)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))


@QUICK
@given(GRAPHS | ANYTHING, ANYTHING)
def test_any_graph_is_read_as_comfyui(graph: Any, workflow: Any) -> None:
    assert_takes_nothing_odd(comfyui.parse(json.dumps(graph), json.dumps(workflow)), "comfyui")
    editor = {"nodes": workflow if isinstance(workflow, list) else [workflow], "links": [[1, 2, 0], workflow]}
    assert_takes_nothing_odd(comfyui.parse("", json.dumps(editor)), "comfyui")


@QUICK
@given(WORDS, WORDS, SEEDS, SIDES, SIDES, st.integers(0, 20))
def test_the_links_of_comfyui_are_followed_however_long_they_are(
    prompt: str, negative: str, seed: int, width: int, height: int, reroutes: int
) -> None:
    chain = {f"r{place}": reroute(f"r{place + 1}" if place < reroutes else "text") for place in range(reroutes + 1)}
    inputs = {"positive": ["r0", 0], "negative": ["no", 0], "latent_image": ["latent", 0], "seed": seed, "steps": 9}
    graph = chain | {
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0]}},
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0]}},
        "sampler": {"class_type": "KSampler", "inputs": inputs},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt}},
        "no": {"class_type": "CLIPTextEncode", "inputs": {"text": negative}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": width, "height": height}},
    }
    assert comfyui.parse(json.dumps(graph)) == Described(
        tool="comfyui",
        prompt=prompt,
        negative_prompt=negative,
        seed=str(seed),
        width=width,
        height=height,
        steps=9,
    )


def reroute(to: str) -> dict[str, Any]:
    return {"class_type": "Reroute", "inputs": {"": [to, 0]}}


@QUICK
@given(ANYTHING, TEXT)
def test_any_json_is_read_as_invokeai(said: Any, text: str) -> None:
    for parse, given_text in (
        (invokeai.parse_metadata, json.dumps(said)),
        (invokeai.parse_metadata, json.dumps({"model": said, "positive_prompt": said, "seed": said})),
        (invokeai.parse_sd_metadata, json.dumps({"image": said})),
        (invokeai.parse_sd_metadata, json.dumps({"image": {"prompt": said, "steps": said}})),
        (invokeai.parse_dream, f'"{text}" {text} -S'),
    ):
        assert_takes_nothing_odd(parse(given_text), "invokeai")


@QUICK
@given(WORDS, WORDS, SEEDS, SIDES, SIDES)
def test_what_invokeai_wrote_is_read_whatever_the_words(
    prompt: str, negative: str, seed: int, width: int, height: int
) -> None:
    wanted = Described(
        tool="invokeai", prompt=prompt, negative_prompt=negative, seed=str(seed), width=width, height=height, steps=9
    )
    numbers = {"seed": seed, "width": width, "height": height, "steps": 9}
    new = {"positive_prompt": prompt, "negative_prompt": negative, **numbers}
    assert invokeai.parse_metadata(dumps(new)) == wanted
    old = {"image": {"prompt": f"{prompt} [{negative}]", **numbers}}
    assert invokeai.parse_sd_metadata(dumps(old)) == wanted
    dream = f'"{prompt} [{negative}]" -s 9 -S {seed} -W {width} -H {height}'
    assert invokeai.parse_dream(dream) == wanted


PICTURES = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"RIFF\0\0\0\0WEBPEXIF"]


@QUICK
@given(st.binary(max_size=400), st.sampled_from(PICTURES))
def test_any_bytes_are_read_as_a_picture(data: bytes, start: bytes) -> None:
    with suppress(texts.TooLong):
        found = texts.texts_of(io.BytesIO(start + data))
        assert found.keys() <= {"UserComment"} or start == PICTURES[0]
    for exif in (b"II*\0" + data, b"MM\0*\0\0\0\x08" + data):
        found = texts._exif(exif)
        assert found.keys() <= {"UserComment"}
        # No text is longer than the bytes that it was read from.
        assert all(len(text) <= len(exif) for text in found.values())


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG; nobody looks at its checksum."""
    return len(data).to_bytes(4, "big") + kind + data + b"\0\0\0\0"


@QUICK
@given(st.binary(max_size=300), st.sampled_from([b"tEXt", b"zTXt", b"iTXt"]), WORDS)
def test_any_chunk_is_read_as_a_text_and_the_next_one_counts(data: bytes, kind: bytes, words: str) -> None:
    behind = chunk(b"iTXt", b"known\0\0\0\0\0" + words.encode())
    picture = b"\x89PNG\r\n\x1a\n" + chunk(kind, data) + behind + chunk(b"IEND", b"")
    found = texts.texts_of(io.BytesIO(picture))
    assert found.pop("known") == words
    assert all(1 <= len(name) <= 79 for name in found)


@QUICK
@given(WORDS)
def test_a_text_is_read_from_every_kind_of_chunk(words: str) -> None:
    said = words.encode()
    for kind, body in (
        (b"tEXt", b"parameters\0" + said),
        (b"zTXt", b"parameters\0\0" + zlib.compress(said)),
        (b"iTXt", b"parameters\0\0\0en\0\0" + said),
        (b"iTXt", b"parameters\0\x01\0en\0Parameter\0" + zlib.compress(said)),
    ):
        picture = io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk(kind, body))
        assert texts.texts_of(picture) == {"parameters": words}
