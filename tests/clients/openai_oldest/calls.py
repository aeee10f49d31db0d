"""The oldest OpenAI client that is supported: images, text, models, errors. It has no streamed images, no videos."""

from __future__ import annotations

import base64
from typing import Any

import openai
from openai import OpenAI
from runner import FAULTY_URL, KEY, ONCE, TLS_URL, URL, call, main

MESSAGES: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a bird."}]


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


@call("chat.completions.create")
def complete() -> None:
    answer = client().chat.completions.create(model="chat", messages=MESSAGES, max_completion_tokens=500)
    (choice,) = answer.choices
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop") and choice.message.content
    assert answer.usage is not None and answer.usage.total_tokens > answer.usage.prompt_tokens > 0


@call("chat.completions.create streamed, with usage")
def complete_streamed() -> None:
    chunks = list(
        client().chat.completions.create(
            model="chat", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    *pieces, last = chunks
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens > 0
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [piece.choices[0].finish_reason for piece in pieces][-1] == "stop"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces)


@call("chat.completions.create after a 500")
def complete_after_500() -> None:
    messages: list[Any] = [{"role": "user", "content": ONCE}]
    answer = client(FAULTY_URL, 2).chat.completions.create(model="chat", messages=messages)
    assert answer.choices[0].message.content


@call("responses.create, and streamed")
def respond() -> None:
    answer = client().responses.create(model="chat", input="Name a bird.", instructions="Be brief.")
    assert (answer.status, answer.error) == ("completed", None) and answer.output_text
    events = list(client().responses.create(model="chat", input="Name a bird.", stream=True))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    written = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert written and events[-1].response.output_text == written


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
