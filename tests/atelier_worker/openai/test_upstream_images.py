"""Pictures from an upstream: the shapes of requests, exact sizes, files and addresses, and what is refused by name."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from atelier_worker.engine import EngineError, Reference
from tests.atelier_worker.engines.listener import IMAGE
from tests.atelier_worker.openai.stand_in import (
    Answer,
    Exchange,
    StandIn,
    Time,
    encoded,
    engine_for,
    form_of,
    heard,
    picture,
    refuses,
    says,
)

_TASK = replace(IMAGE, width=64, height=48, quantity=2, indexes=(0, 1))
_SQUARE = replace(IMAGE, width=1024, height=1024, quality="high")


def draws(upstream: StandIn, **changes: Any) -> Any:
    model = {"name": "sdxl", "source": "some-model", "serves": ["images"], **changes.pop("model", {})}
    return engine_for(upstream, model=model, **changes)


def test_each_output_is_one_request_and_becomes_a_png_that_says_how(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(encoded(picture()), encoded(picture(kind="WEBP", colour="red")))
    context = heard(tmp_path)
    draws(upstream).run(_TASK, context)
    assert [one.path for one in upstream.asked] == ["/v1/images/generations"] * 2
    assert upstream.asked[0].json == {
        "model": "some-model",
        "prompt": "a kite over dunes",
        "n": 1,
        "size": "64x48",
        "response_format": "b64_json",
    }
    with Image.open(context.delivered[1]) as made:
        assert (made.format, made.size) == ("PNG", (64, 48))
        said = json.loads(made.info["atelier"])
    assert said["engine"] == "openai"
    assert said["settings"]["upstream_model"] == "some-model"
    assert context.warnings == ["The upstream takes no seed: the same seed does not give the same picture again."]


def test_a_request_that_takes_long_is_not_silent(upstream: StandIn, tmp_path: Path) -> None:
    class Hours(Time):
        def clock(self) -> float:
            self.now += 600.0
            return self.now

    upstream.answer(encoded(picture()))
    context = heard(tmp_path)
    draws(upstream, time=Hours()).run(replace(_TASK, indexes=(0,), quantity=1), context)
    # The worker's patience with silence begins anew each time; how long a request may take is the engine's to say.
    assert (None, 0, 1) in context.steps
    assert set(context.phases) == {"asking the upstream", "delivering"}
    assert context.delivered


def test_an_upstream_with_seeds_gets_the_seed_of_each_output(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(encoded(picture()))
    context = heard(tmp_path)
    draws(upstream, model={"seeds": True}).run(replace(_TASK, indexes=(1, 3), quantity=4), context)
    assert [one.json["seed"] for one in upstream.asked] == [8, 10]
    assert not context.warnings


def test_several_pictures_may_come_from_one_request(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(encoded(picture(), picture(colour="red")), encoded(picture()))
    context = heard(tmp_path)
    prices = {"images_per_request": 2, "cost_per_image": 0.04}
    draws(upstream, model=prices).run(replace(_TASK, indexes=(0, 1, 2, 3), quantity=4), context)
    assert [one.json["n"] for one in upstream.asked] == [2, 2]
    assert sorted(context.delivered) == [0, 1, 2]
    assert context.failed == {3: "The upstream made fewer pictures than it was asked for."}
    assert context.lines == [
        "The upstream's some-model made 2 of 2 pictures; cost 0.08.",
        "The upstream's some-model made 1 of 2 pictures; cost 0.04.",
    ]


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("gpt-image-1", {"quality": "high", "output_format": "png"}),
        ("dall-e-3", {"quality": "hd", "response_format": "b64_json"}),
        ("dall-e-2", {"response_format": "b64_json"}),
    ],
)
def test_known_models_are_asked_in_their_own_shape(
    source: str, fields: dict[str, str], upstream: StandIn, tmp_path: Path
) -> None:
    upstream.answer(encoded(picture(1024, 1024)))
    draws(upstream, model={"source": source}).run(_SQUARE, heard(tmp_path))
    common = {"model": source, "prompt": "a kite over dunes", "n": 1, "size": "1024x1024"}
    assert upstream.asked[0].json == common | fields


def test_a_size_that_a_model_does_not_make_is_refused_by_name(upstream: StandIn, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as failed:
        draws(upstream, model={"source": "dall-e-3"}).run(_TASK, heard(tmp_path))
    assert str(failed.value) == "The model 'sdxl' makes pictures of 1024x1024, 1792x1024, 1024x1792, and not of 64x48."
    assert not upstream.asked


def test_a_picture_of_another_size_is_not_delivered(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(encoded(picture(48, 64)))
    context = heard(tmp_path)
    with pytest.raises(EngineError, match="picture of 48x64 pixels where 64x48 was asked for"):
        draws(upstream).run(_TASK, context)
    assert not context.delivered


def test_a_mask_needs_a_picture_and_each_kind_comes_once(upstream: StandIn, tmp_path: Path) -> None:
    masked = replace(_TASK, references=(Reference("mask", 0.5, Path("x"), "image/png"),))
    with pytest.raises(EngineError, match="needs one of the kind init"):
        draws(upstream).run(masked, heard(tmp_path))
    with pytest.raises(EngineError, match="one reference of the kind mask, and not 2"):
        draws(upstream).run(replace(masked, references=masked.references * 2), heard(tmp_path))


def test_a_picture_is_changed_where_its_mask_is_white(upstream: StandIn, tmp_path: Path) -> None:
    (tmp_path / "init.png").write_bytes(picture(64, 48, colour="red"))
    mask = Image.new("L", (64, 48), 0)
    mask.paste(255, (0, 0, 32, 48))
    mask.save(tmp_path / "mask.png")
    references = tuple(Reference(kind, 0.5, tmp_path / f"{kind}.png", "image/png") for kind in ("init", "mask"))
    upstream.answer(encoded(picture()))
    draws(upstream).run(replace(_TASK, references=references, indexes=(0,)), heard(tmp_path))
    assert upstream.asked[0].path == "/v1/images/edits"
    form = form_of(upstream.asked[0])
    assert form["prompt"] == b"a kite over dunes"
    assert form["size"] == b"64x48"
    with Image.open(io.BytesIO(form["image"])) as sent:
        assert sent.getpixel((5, 5)) == (255, 0, 0)
    with Image.open(io.BytesIO(form["mask"])) as sent:
        left, right = sent.getpixel((5, 5)), sent.getpixel((60, 5))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert (left[3], right[3]) == (0, 255), "transparent is where it may change"


def test_an_address_of_the_upstream_itself_is_fetched(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(says(200, {"data": [{"url": upstream.url + "/files/1"}]}), _file(picture()))
    context = heard(tmp_path)
    draws(upstream).run(replace(_TASK, indexes=(0,)), context)
    assert sorted(context.delivered) == [0]
    assert "authorization" not in upstream.asked[1].headers


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.png", "https://10.0.0.1/a.png", "file:///etc/passwd"])
def test_an_address_within_this_network_is_not_fetched(url: str, upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(says(200, {"data": [{"url": url}]}))
    with pytest.raises(EngineError, match="may not fetch it"):
        draws(upstream).run(_TASK, heard(tmp_path))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (says(200, b"hello"), "not JSON"),
        (says(200, {"data": []}), "without a picture"),
        (says(200, {"error": {"message": "out of paint"}}), "without a picture: out of paint"),
        (says(200, {"data": [{"b64_json": "%%%"}]}), "not base64"),
        (says(200, {"data": [{"revised_prompt": "x"}]}), "neither a picture nor its address"),
        (encoded(b"GIF89a" + bytes(50)), "not a PNG, JPEG or WebP"),
        (encoded(picture()[:60]), "not a PNG, JPEG or WebP"),
        (says(200, {"data": [{"b64_json": "A" * (2 << 20)}]}), "more than"),
        (refuses(400, "your prompt was rejected", "content_policy_violation"), "your prompt was rejected"),
    ],
)
def test_an_answer_that_is_no_picture_fails_with_a_sentence(
    answer: Answer, words: str, upstream: StandIn, tmp_path: Path
) -> None:
    upstream.answer(answer)
    with pytest.raises(EngineError, match=words):
        draws(upstream).run(_TASK, heard(tmp_path))
    assert len(upstream.asked) == 1


def test_a_request_that_was_sent_is_not_sent_again(upstream: StandIn, tmp_path: Path) -> None:
    def breaks_off(exchange: Exchange) -> None:
        exchange.head(200, ("content-type", "application/json"), ("content-length", "1000"))
        exchange.piece(b'{"data":')

    upstream.answer(breaks_off)
    with pytest.raises(EngineError, match="broke off") as failed:
        draws(upstream).run(_TASK, heard(tmp_path))
    assert failed.value.retryable
    assert len(upstream.asked) == 1


def test_a_busy_upstream_is_asked_again(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(refuses(429, "later"), encoded(picture()))
    context = heard(tmp_path)
    draws(upstream).run(_TASK, context)
    assert sorted(context.delivered) == [0, 1]


def _file(data: bytes) -> Answer:
    def answer(exchange: Exchange) -> None:
        exchange.head(200, ("content-type", "image/png"), ("content-length", str(len(data))))
        exchange.piece(data)

    return answer
