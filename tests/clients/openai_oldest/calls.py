"""The oldest OpenAI client that is supported: images, models, errors. It has neither streamed images nor videos."""

from __future__ import annotations

import base64

import openai
from openai import OpenAI
from runner import FAULTY_URL, KEY, ONCE, TLS_URL, URL, call, main


def client(url: str = URL, retries: int = 0) -> OpenAI:
    return OpenAI(base_url=f"{url}/openai/v1", api_key=KEY, max_retries=retries, _strict_response_validation=True)


def png(text: str | None) -> bytes:
    content = base64.b64decode(text or "")
    assert content.startswith(b"\x89PNG"), content[:20]
    return content


@call("images.generate")
def generate() -> None:
    answer = client().images.generate(prompt="a heron", model="sdxl", size="512x512", n=2, response_format="b64_json")
    assert len([png(image.b64_json) for image in answer.data]) == 2


@call("images.generate as URL, by TLS")
def by_tls() -> None:
    answer = client(TLS_URL).images.generate(prompt="a heron", model="sdxl", size="256x256", response_format="url")
    assert (answer.data[0].url or "").startswith("http")


@call("images.edit")
def edit() -> None:
    made = client().images.generate(prompt="a heron", model="sdxl", size="256x256", response_format="b64_json")
    picture = ("a.png", png(made.data[0].b64_json), "image/png")
    answer = client().images.edit(
        image=picture, prompt="a crane", model="sdxl", size="256x256", response_format="b64_json"
    )
    png(answer.data[0].b64_json)


@call("images.generate after a 500")
def after_500() -> None:
    answer = client(FAULTY_URL, 2).images.generate(prompt=ONCE, model="sdxl", size="256x256")
    png(answer.data[0].b64_json)


@call("models.list and models.retrieve")
def models() -> None:
    assert "sdxl" in [model.id for model in client().models.list()]
    assert client().models.retrieve("sdxl").id == "sdxl"


@call("errors")
def errors() -> None:
    try:
        client().images.generate(prompt="a heron", model="sdxl", style="vivid")
    except openai.BadRequestError as error:
        assert error.param == "style", error
        return
    raise AssertionError("style was taken")


if __name__ == "__main__":
    main()
