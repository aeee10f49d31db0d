"""What galleries say of their files: as each tool writes it, and as no tool would."""

from __future__ import annotations

import io
import json
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_kit.descriptions import automatic1111, comfyui, every_tool, invokeai, texts
from service_kit.descriptions.described import MAX_TEXT, Described, whole
from tests.support.gallery_fixtures import TOOLS, Fixture

CASES = [(tool, fixture) for tool, fixtures in TOOLS.items() for fixture in fixtures]
QUICK = settings(max_examples=80, deadline=None, database=None)
TEXT = st.text(max_size=300)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT


def test_there_are_five_of_each() -> None:
    assert {tool: len(fixtures) for tool, fixtures in TOOLS.items()} == dict.fromkeys(TOOLS, 5)


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


@QUICK
@given(TEXT)
def test_any_text_is_read_as_automatic1111(text: str) -> None:
    for given_text in (text, f"{text}\nNegative prompt: {text}\nSteps: 1, Seed: 2, x: {text}"):
        automatic1111.parse(given_text)


def test_a_line_of_many_quotation_marks_takes_no_time() -> None:
    automatic1111.settings("a: " + '"\\' * 200_000)
    automatic1111.settings("a:" * 200_000)


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
    comfyui.parse(json.dumps(graph), json.dumps(workflow))
    editor = {"nodes": workflow if isinstance(workflow, list) else [workflow], "links": [[1, 2, 0], workflow]}
    comfyui.parse("", json.dumps(editor))


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
        parse(given_text)


@QUICK
@given(st.binary(max_size=400), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"RIFF\0\0\0\0WEBPEXIF"]))
def test_any_bytes_are_read_as_a_picture(data: bytes, start: bytes) -> None:
    with suppress(texts.TooLong):
        texts.texts_of(io.BytesIO(start + data))
    texts._exif(b"II*\0" + data)
    texts._exif(b"MM\0*\0\0\0\x08" + data)


@QUICK
@given(st.binary(max_size=300), st.sampled_from([b"tEXt", b"zTXt", b"iTXt"]))
def test_any_chunk_is_read_as_a_text(data: bytes, kind: bytes) -> None:
    chunk = len(data).to_bytes(4, "big") + kind + data + b"\0\0\0\0"
    texts.texts_of(io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk))
