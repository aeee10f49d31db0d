"""Replicate's Python client of the 2.x series: predictions, files, models and errors."""

from __future__ import annotations

import io
import os
from typing import Any

import httpx
import replicate
from replicate.exceptions import ModelError
from runner import FAULTY_URL, KEY, ONCE, TLS_URL, URL, call, main

INPUT: dict[str, Any] = {"prompt": "a heron", "width": 128, "height": 128, "num_inference_steps": 2}
LONG: dict[str, Any] = {**INPUT, "width": 1024, "height": 1024, "num_inference_steps": 200, "num_outputs": 8}
SDXL = "stability-ai/sdxl"


def client(url: str = URL, key: str = KEY, retries: int = 0) -> replicate.Replicate:
    made = replicate.Replicate(
        bearer_token=key, base_url=f"{url}/replicate/v1", max_retries=retries, _strict_response_validation=True
    )
    made.poll_interval = 0.05
    return made


@call("run, by TLS")
def run() -> None:
    urls = client(TLS_URL).run(SDXL, input={**INPUT, "num_outputs": 2})
    assert len(urls) == 2
    assert httpx.get(urls[0]).headers["content-type"] == "image/png"


@call("run of a version, and use")
def run_of_a_version() -> None:
    made = client()
    model = made.models.get(model_owner="stability-ai", model_name="sdxl")
    assert len(made.run(f"{SDXL}:{model.latest_version.id}", input=INPUT)) == 1
    versions = made.models.versions.list(model_owner="stability-ai", model_name="sdxl")
    assert [version.id for version in versions.results] == [model.latest_version.id]
    assert [one.name for one in made.models.list()]


@call("predictions.create, get, wait and cancel")
def predictions() -> None:
    made = client()
    prediction = made.models.predictions.create(model_owner="stability-ai", model_name="sdxl", input=INPUT)
    assert prediction.input == INPUT
    assert made.predictions.wait(prediction.id).status == "succeeded"
    assert made.predictions.get(prediction_id=prediction.id).output
    prediction = made.models.predictions.create(model_owner="stability-ai", model_name="sdxl", input=LONG)
    assert made.predictions.cancel(prediction_id=prediction.id).status == "canceled"


@call("predictions.create with a wait that is over, and Cancel-After")
def waits() -> None:
    made = client()
    prediction = made.models.predictions.create(
        model_owner="stability-ai", model_name="sdxl", input=LONG, prefer="wait=1", cancel_after="5s"
    )
    assert prediction.status == "starting"
    assert made.predictions.wait(prediction.id).status == "canceled"


@call("predictions.list")
def listed() -> None:
    assert len([one.id for one in client().predictions.list()]) > 2


@call("use, streamed")
def stream() -> None:
    # It makes clients of its own for this, by the environment.
    os.environ |= {"REPLICATE_API_TOKEN": KEY, "REPLICATE_BASE_URL": f"{URL}/replicate/v1"}
    outputs = list(replicate.use(SDXL, streaming=True)(**INPUT))
    assert [output.startswith("http") for output in outputs] == [True], outputs


@call("files, and a file as input")
def files() -> None:
    made = client()
    content = httpx.get(made.run(SDXL, input=INPUT)[0]).content
    file = made.files.create(content=content, filename="heron.png", type="image/png")
    assert (file.content_type, file.size) == ("image/png", len(content))
    assert made.files.get(file_id=file.id).id == file.id
    assert file.id in [one.id for one in made.files.list()]
    assert len(made.run(SDXL, input={**INPUT, "image": io.BytesIO(content)})) == 1
    made.files.delete(file_id=file.id)


@call("webhooks.default.secret.get")
def secret() -> None:
    assert client().webhooks.default.secret.get().key.startswith("whsec_")


@call("predictions.create after a 500")
def once() -> None:
    made = client(FAULTY_URL, retries=2)
    prediction = made.models.predictions.create(
        model_owner="stability-ai", model_name="sdxl", input={**INPUT, "prompt": ONCE}
    )
    assert made.predictions.wait(prediction.id).status == "succeeded"


@call("errors")
def errors() -> None:
    made = client()
    for given, status in (({**INPUT, "nope": 1}, 422), ({**INPUT, "num_outputs": 9}, 422)):
        try:
            made.run(SDXL, input=given)
        except replicate.APIStatusError as error:
            assert error.status_code == status, error
        else:
            raise AssertionError("it was taken")
    try:
        made.run("a/nothing", input=INPUT)
    except replicate.NotFoundError:
        pass
    else:
        raise AssertionError("it was found")
    try:
        client(key="atl_wrong").predictions.list()
    except replicate.AuthenticationError:
        pass
    else:
        raise AssertionError("the key was taken")
    assert issubclass(ModelError, Exception)


main()
