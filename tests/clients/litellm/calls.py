"""LiteLLM as a client: images, edits, videos, text. It rewrites ids of videos, and sends every image as `image[]`."""

from __future__ import annotations

import base64
import time
from typing import Any

import litellm
from runner import FAULTY_URL, KEY, ONCE, URL, call, main

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a bird."}]


def told(url: str = URL) -> dict[str, Any]:
    return {"api_base": f"{url}/openai/v1", "api_key": KEY}


def png(text: str | None) -> bytes:
    content = base64.b64decode(text or "")
    assert content.startswith(b"\x89PNG"), content[:20]
    return content


def picture() -> bytes:
    answer = litellm.image_generation("a heron", "openai/sdxl", size="256x256", **told())
    return png(answer.data[0].b64_json)


@call("image_generation")
def generation() -> None:
    answer = litellm.image_generation("a heron", "openai/sdxl", n=2, size="256x256", quality="low", **told())
    assert len([png(image.b64_json) for image in answer.data]) == 2


@call("image_edit")
def edit() -> None:
    answer = litellm.image_edit(image=[picture()], prompt="a crane", model="openai/sdxl", size="256x256", **told())
    png(answer.data[0].b64_json)


@call("image_generation after a 500")
def after_500() -> None:
    answer = litellm.image_generation(ONCE, "openai/sdxl", size="256x256", max_retries=2, **told(FAULTY_URL))
    png(answer.data[0].b64_json)


@call("video_generation, video_status, video_content and video_remix")
def videos() -> None:
    made = litellm.video_generation("a heron", "openai/wan", seconds="1", size="256x144", **told())
    end = time.monotonic() + 60
    while (found := litellm.video_status(made.id, **told())).status in ("queued", "in_progress"):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    assert found.status == "completed", found
    assert litellm.video_content(made.id, **told())[4:8] == b"ftyp"
    assert litellm.video_remix(made.id, "a crane", **told()).status in ("queued", "in_progress")


@call("video_list")
def video_list() -> None:
    answer = litellm.video_list(limit=1, custom_llm_provider="openai", **told())
    assert answer, answer


@call("completion")
def completion() -> None:
    answer = litellm.completion("openai/chat", MESSAGES, **told())
    assert answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0


@call("completion streamed, with usage")
def completion_streamed() -> None:
    chunks = list(
        litellm.completion("openai/chat", MESSAGES, stream=True, stream_options={"include_usage": True}, **told())
    )
    written = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert written
    whole = litellm.stream_chunk_builder(chunks)
    assert whole.choices[0].message.content == written and whole.usage.completion_tokens > 0


@call("completion after a 500")
def completion_after_500() -> None:
    messages = [{"role": "user", "content": ONCE}]
    answer = litellm.completion("openai/chat", messages, max_retries=2, **told(FAULTY_URL))
    assert answer.choices[0].message.content


@call("responses")
def responses() -> None:
    answer = litellm.responses("Name a bird.", "openai/chat", instructions="Be brief.", **told())
    assert answer.status == "completed" and answer.error is None, answer
    assert answer.output_text and answer.usage.output_tokens > 0


@call("responses streamed")
def responses_streamed() -> None:
    events = list(litellm.responses("Name a bird.", "openai/chat", stream=True, **told()))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed"), events
    written = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert written and events[-1].response.output_text == written


@call("responses after a 500, which it does not repeat; once more with the same key")
def responses_after_500() -> None:
    ways = {**told(FAULTY_URL), "max_retries": 2, "extra_headers": {"Idempotency-Key": "heron-2"}}
    try:
        litellm.responses(ONCE, "openai/chat", **ways)
    except litellm.InternalServerError:
        assert litellm.responses(ONCE, "openai/chat", **ways).output_text
        return
    raise AssertionError("it was repeated")


@call("errors")
def errors() -> None:
    try:
        litellm.image_generation("a heron", "openai/sdxl", size="100x100", **told())
    except litellm.BadRequestError as error:
        assert "size" in str(error), error
        return
    raise AssertionError("a size that is no multiple of 8 was taken")


if __name__ == "__main__":
    main()
