"""What all dialects have from the kit: paths, and bodies as values."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gateway.dialects import forms
from gateway.dialects.dialect import Endpoint
from gateway.dialects.fields import Upload
from gateway.http import Exchange, Limits
from service_kit.errors import InvalidArgument, ResourceExhausted

JSON = {"content-type": "application/json"}


async def nothing(call: object) -> None:
    return None


def test_a_path_is_matched_segment_by_segment() -> None:
    endpoint = Endpoint("GET", "/fal/queue/{owner}/{app...}", nothing)
    assert endpoint.match(["fal", "queue", "a", "b", "c"]) == {"owner": "a", "app": "b/c"}
    assert endpoint.match(["fal", "queue", "a", ""]) is None
    assert endpoint.match(["fal", "queue", "a"]) is None
    assert Endpoint("GET", "/a/{b}", nothing).match(["a", "b", "c"]) is None


def exchange_of(content: httpx.Request) -> Exchange:
    body = content.read()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: object) -> None:
        return None

    headers = [(name.lower(), value) for name, value in content.headers.raw]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    return Exchange(scope, receive, send, request_id="r", limits=Limits())


def form(data: dict[str, Any], files: Any = ()) -> Exchange:
    return exchange_of(httpx.Request("POST", "http://x/", data=data, files=[*files, ("padding", (None, ""))]))


async def test_a_form_is_read_as_its_names_say() -> None:
    files = [("image[]", ("a.png", b"1", "image/png")), ("image[]", ("b.png", b"2", "image/png"))]
    found = await forms.read_form(
        form({"prompt": "x", "ref[image_url]": "https://x", "loras[]": "a", "tags[0]": "t", "n": "2"}, files)
    )
    assert found["image"] == [Upload("a.png", "image/png", b"1"), Upload("b.png", "image/png", b"2")]
    assert (found["ref"], found["loras"], found["tags"]) == ({"image_url": "https://x"}, ["a"], ["t"])
    assert (found["prompt"], found["n"]) == ("x", "2")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"a": "\\ud800"}', "a"),
        (b'{"a": {"b": ["\\uDC00"]}}', "a"),
        (b'{"a": {"b\\ud83d": 1}}', "a"),
        (b'{"x\\ud800": 1}', "x?"),
    ],
)
async def test_half_a_character_is_refused_wherever_it_stands(body: bytes, field: str) -> None:
    with pytest.raises(InvalidArgument, match="half of a surrogate pair") as caught:
        await forms.read_json(exchange_of(httpx.Request("POST", "http://x/", content=body, headers=JSON)), 1000)
    assert [problem.field for problem in caught.value.fields] == [field]


async def test_a_large_body_is_one_of_large_values() -> None:
    texts = b'{"a": "' + b"x" * (2 << 20) + b'"}'
    read = await forms.read_json(exchange_of(httpx.Request("POST", "http://x/", content=texts, headers=JSON)), 3 << 20)
    assert len(read["a"]) == 2 << 20
    values = b'{"a": [' + b"{}," * (2 << 18) + b"1]}"
    with pytest.raises(InvalidArgument, match="more than 200000 values"):
        await forms.read_json(exchange_of(httpx.Request("POST", "http://x/", content=values, headers=JSON)), 3 << 20)


async def test_a_character_of_two_halves_is_one() -> None:
    body = b'{"a": "\\ud83d\\ude00"}'
    found = await forms.read_json(exchange_of(httpx.Request("POST", "http://x/", content=body, headers=JSON)), 1000)
    assert found == {"a": "\N{GRINNING FACE}"}


@pytest.mark.parametrize("name", ["a[b", "[x]", "a[b][c][d][e][f]", "a[][b]"])
async def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        await forms.read_form(form({name: "x"}))


async def test_a_name_cannot_be_a_value_and_a_group() -> None:
    with pytest.raises(InvalidArgument):
        await forms.read_form(form({"a": "x", "a[b]": "y"}))
    with pytest.raises(InvalidArgument):
        await forms.read_form(form({"a[b]": "y", "a": "x"}))


async def test_a_form_that_is_cut_or_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = httpx.Request(
        "POST", "http://x/", content=b"--x\r\nnonsense", headers={"content-type": "multipart/form-data"}
    )
    with pytest.raises(InvalidArgument):
        await forms.read_form(exchange_of(broken))
    monkeypatch.setattr(forms, "MAX_FORM_BYTES", 100)
    with pytest.raises(ResourceExhausted):
        await forms.read_form(form({"a": "x" * 200}))


async def test_the_same_form_has_the_same_digest_whatever_its_boundary() -> None:
    async def digest(content: bytes) -> str:
        return await forms.digest_of("r", await forms.read_form(form({"a": "b"}, [("f", ("f", content))])))

    assert await digest(b"1") == await digest(b"1")
    assert await digest(b"1") != await digest(b"2")
