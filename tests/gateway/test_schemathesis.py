"""schemathesis against the real system: what the document allows is taken, what is refused is refused as documented.

Nothing here is left to chance: hypothesis is derandomized (tests/conftest.py), and there is no worker, so that no job
moves while it is looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests

from gateway import examples
from gateway.examples import EXAMPLES
from tests.gateway.fuzzing import explore_all
from tests.support.system import UpProcess, up_process

EXAMPLES_EACH = 12
WANTED = 0.9


class Things:
    """Makes what an operation needs to exist: a job, an asset, an item, an upload, a key, a code, a signed address."""

    def __init__(self, up: UpProcess) -> None:
        self.up = up
        self.count = itertools.count()
        self.upload = "none"
        self.http = requests.Session()
        self.http.headers["x-api-key"] = up.key

    def _post(self, path: str, **body: Any) -> Any:
        answer = self.http.post(self.up.url + path, timeout=20, **body)
        answer.raise_for_status()
        return answer.json()

    def asset(self) -> Any:
        return self._post("/v1/uploads", data=examples.PICTURE)["asset"]

    def job_id(self) -> str:
        return str(self._post("/v1/generate-content", json=EXAMPLES["GenerateContent"].body)["job_id"])

    def delivery_id(self) -> str:
        """Return the delivery of a job that has ended."""
        body = {**EXAMPLES["GenerateContent"].body, "webhook": {"url": "https://hooks.invalid/"}}
        job_id = self._post("/v1/generate-content", json=body)["job_id"]
        self._post(f"/v1/jobs/{job_id}/cancel", json={})
        answer = self.http.get(f"{self.up.url}/v1/webhooks/deliveries", params={"job_id": job_id}, timeout=20)
        return str(answer.json()["deliveries"][0]["delivery_id"])

    def asset_id(self) -> str:
        return str(self.asset()["asset_id"])

    def item_id(self) -> str:
        saved = self._post("/v1/save-to-library", json={"asset_ids": [self.asset_id()]})
        return str(saved["results"][0]["item"]["item_id"])

    def upload_id(self, *, whole: bool) -> str:
        """Return an upload that has begun, or of which all is there; the one before is given up, for they are few."""
        self.http.delete(f"{self.up.url}/v1/uploads/{self.upload}", timeout=20)
        begun = self._post("/v1/uploads/resumable", json=EXAMPLES["BeginUpload"].body)
        self.upload = str(begun["upload"]["upload_id"])
        if whole:
            url = f"{self.up.url}/v1/uploads/{self.upload}?offset=0"
            self.http.patch(url, data=examples.PICTURE, timeout=20).raise_for_status()
        return self.upload

    def collection_id(self) -> str:
        made = self._post("/v1/collections", json={"name": f"fuzzed {next(self.count)}"})
        return str(made["collection"]["collection_id"])

    def key(self) -> Any:
        return self._post("/v1/keys", json=EXAMPLES["CreateKey"].body)

    def model(self) -> str:
        name = f"row-{next(self.count)}"
        body = {"stage": "generate", "worker_type": "sdxl", "formats": ["image"]}
        self.http.put(f"{self.up.url}/v1/models/{name}", json=body, timeout=20).raise_for_status()
        return name

    def media(self) -> tuple[dict[str, str], dict[str, str]]:
        url = urlsplit(self.asset()["url"])
        _, _, bucket, key = url.path.split("/", 3)
        return {"bucket": bucket, "key": key}, dict(parse_qsl(url.query))

    def tidy(self) -> None:
        """Leave everything: without a worker nothing goes on."""

    def make_real(self, case: Any) -> None:
        """Let a case name things that are there."""
        name = case.operation.definition.raw["operationId"]
        makers: dict[str, Callable[[], str]] = {
            "job_id": self.job_id,
            "asset_id": self.asset_id,
            "delivery_id": self.delivery_id,
            "item_id": self.item_id,
            "collection_id": self.collection_id,
            "upload_id": lambda: self.upload_id(whole=name == "CompleteUpload"),
            "key_id": lambda: str(self.key()["key"]["key_id"]),
            "owner_id": lambda: "ada",
        }
        for field in case.path_parameters or {}:
            if field in makers:
                case.path_parameters[field] = makers[field]()
        if name == "DeleteModel":
            case.path_parameters["name"] = self.model()
        elif name == "AppendUpload":
            case.query, case.body = {"offset": 0}, examples.PICTURE
        elif name == "GetMedia":
            case.path_parameters, case.query = self.media()
        elif name == "ExchangeKey":
            case.body = {"secret": self.key()["secret"]}
        elif name == "ExchangeSignInCode":
            case.body = {"code": self._post("/v1/sign-in-codes", json={})["code"]}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    with up_process(tmp_path_factory.mktemp("fuzzed"), "--no-worker") as process:
        yield process


# Some thousand requests: with the cores taken by others they last longer than any other test.
@pytest.mark.timeout(220)
def test_every_operation_answers_as_the_document_says(up: UpProcess) -> None:
    statuses = explore_all(
        up.url,
        EXAMPLES,
        Things(up),
        headers={"x-api-key": up.key},
        # Of a cursor in the query and one in the header the header wins, and the other is not looked at. An empty
        # parameter is one that is not set.
        may_take=lambda case: "Last-Event-ID" in case.headers or "" in (case.query or {}).values(),
        examples_each=EXAMPLES_EACH,
    )
    reached = [name for name, found in statuses.items() if any(200 <= status < 300 for status in found)]
    assert len(reached) >= WANTED * len(EXAMPLES), set(statuses) - set(reached)
