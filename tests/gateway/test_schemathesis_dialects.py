"""schemathesis against the dialects of the real system, with a worker: some of their requests wait for the result."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from gateway import examples
from gateway.dialects.registry import DIALECTS
from gateway.openapi_dialects import example_of_endpoint, operation_id
from tests.gateway.fuzzing import explore_all
from tests.support.system import UpProcess, up_process

EXAMPLES_EACH = int(os.environ.get("FUZZ_EXAMPLES", "0")) or 3
WANTED = 0.9
EXAMPLE = {
    operation_id(dialect, endpoint): example_of_endpoint(dialect, endpoint)
    for dialect in DIALECTS
    for endpoint in dialect.endpoints
}
NEVER = {
    operation_id(dialect, each)
    for dialect in DIALECTS
    for each in dialect.endpoints
    if each.serve.__name__.startswith("refuse")
}
MODELS = {"Images": "sdxl", "Videos": "wan", "Chat": "chat", "Responses": "chat"}
PIXELS = base64.b64encode(examples.PICTURE).decode()


class Things:
    """Makes what a dialect's operation needs to exist: a video that has ended, a request that waits, a file."""

    def __init__(self, up: UpProcess) -> None:
        self.up = up
        self.http = requests.Session()
        self.http.headers["authorization"] = f"Bearer {up.key}"
        self.ended_video = ""

    def _post(self, path: str, **body: Any) -> Any:
        answer = self.http.post(self.up.url + path, timeout=20, **body)
        answer.raise_for_status()
        return answer.json()

    def job_id(self) -> str:
        body = {"prompt": "a heron", "model": "sdxl", "format": "image", "width": 64, "height": 64}
        return str(self._post("/v1/generate-content", json=body)["job_id"])

    def video_id(self, *, ended: bool) -> str:
        if ended and self.ended_video:
            return self.ended_video
        video = {"prompt": "a heron", "model": "wan", "seconds": "1", "size": "64x64"}
        video_id = str(self._post("/openai/v1/videos", json=video)["id"])
        if ended:
            self.ended_video = video_id
            url = f"{self.up.url}/v1/jobs/{video_id}/events"
            with self.http.get(url, stream=True, timeout=20) as events:
                # The stream of a job ends with it.
                for _ in events.iter_lines():
                    pass
        return video_id

    def file_id(self) -> str:
        file = {"content": ("a.png", examples.PICTURE, "image/png")}
        return str(self._post("/replicate/v1/files", files=file)["id"])

    def grant(self, route: str = "initiate") -> str:
        told = self._post(f"/fal/storage/upload/{route}", json={})
        return str(told["upload_url"]).partition("grant=")[2]

    def part(self, grant: str) -> dict[str, Any]:
        url = f"{self.up.url}/fal/storage/parts/1?grant={grant}"
        answer = self.http.put(url, data=examples.PICTURE, timeout=20)
        answer.raise_for_status()
        return dict(answer.json())

    def tidy(self) -> None:
        """Cancel what waits, so that nothing waits behind it."""
        waiting = self.http.get(f"{self.up.url}/v1/jobs", params={"state": "queued"}, timeout=20).json()["jobs"]
        for job in waiting:
            self.http.post(f"{self.up.url}/v1/jobs/{job['job_id']}/cancel", json={}, timeout=20)

    def make_real(self, case: Any) -> None:
        """Let a case ask for something that can be made, of things that are there."""
        name = case.operation.definition.raw["operationId"]
        example = EXAMPLE[name]
        path = case.path_parameters or {}
        for field in path:
            path[field] = example.path[field]
        if "video_id" in path:
            path["video_id"] = self.video_id(ended=not name.startswith("OpenaiDelete"))
        elif "request_id" in path:
            path["request_id"] = self.job_id()
        elif "Files" in name and "id" in path:
            path["id"] = self.file_id()
        elif "id" in path:
            path["id"] = self.job_id()
        elif "version" in path:
            found = self.http.get(f"{self.up.url}/replicate/v1/models/a/sdxl/versions", timeout=20).json()
            path["version"] = found["results"][0]["id"]
        if name == "FalPutStorageUpload":
            case.query, case.body = {"grant": self.grant()}, examples.PICTURE
        elif "StorageParts" in name:
            case.query = {"grant": self.grant("initiate-multipart")}
            case.body = {"parts": [self.part(case.query["grant"])]} if "part" not in path else examples.PICTURE
        elif name.endswith("Proxy"):
            self._call_through(case, name)
        elif example.body is not None:
            case.body = self._small(name, dict(example.body))
        case.query = {} if "cursor" in (case.query or {}) else case.query

    def _small(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        model = next((model for word, model in MODELS.items() if word in name), None)
        if model in ("sdxl", "wan"):
            body["size"] = "64x64"
        if "model" in body and model:
            body["model"] = model
        if "image" in body:
            body["image"] = f"data:image/png;base64,{PIXELS}"
        if "version" in body:
            body["version"] = "sdxl"
        if name.startswith("FalPost") and "Storage" not in name:
            body["image_size"] = {"width": 64, "height": 64}
        return body

    def _call_through(self, case: Any, name: str) -> None:
        url = f"https://queue.fal.run/fal-ai/sdxl/requests/{self.job_id()}"
        case.headers["x-fal-target-url"] = {
            "FalGetProxy": f"{url}/status",
            "FalPutProxy": f"{url}/cancel",
            "FalPostProxy": "https://rest.fal.ai/storage/upload/initiate",
        }[name]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    with up_process(tmp_path_factory.mktemp("fuzzed")) as process:
        process.wait_for_workers()
        yield process


def test_every_operation_of_a_dialect_answers_as_the_document_says(up: UpProcess) -> None:
    statuses = explore_all(
        up.url,
        EXAMPLE,
        Things(up),
        headers={"authorization": f"Bearer {up.key}"},
        # In a form every value is a text, whatever it was meant to be.
        may_take=lambda case: "form-data" in (case.media_type or ""),
        examples_each=EXAMPLES_EACH,
    )
    reached = {name for name, seen in statuses.items() if any(200 <= status < 300 for status in seen)}
    assert len(reached) >= WANTED * (len(EXAMPLE) - len(NEVER)), set(EXAMPLE) - reached - NEVER
