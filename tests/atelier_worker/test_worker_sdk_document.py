"""The engine in docs/worker-sdk.md works, and is as short as promised."""

from __future__ import annotations

import json
import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from atelier.router.v1 import chat_pb2
from atelier_worker.engine_options import OptionsError
from atelier_worker.member import _DEFAULT_WORKER_TYPES
from tests.atelier_worker.conftest import ROOT, StartWorker
from tests.atelier_worker.engines.listener import IMAGE
from tests.atelier_worker.fake_router import FakeRouter
from tests.atelier_worker.leases import REFERENCE, chat_lease, lease, with_reference

DOCUMENT = ROOT / "docs" / "worker-sdk.md"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put the document's engine where it can be imported, and return its name."""
    found = re.search(r"```python\n# (\w+)\.py\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert found is not None
    module, source = found.groups()
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT / "workers")]))
    named = re.search(r"atelier worker --engine (\S+)", DOCUMENT.read_text("utf-8"))
    assert named is not None
    assert len(source.strip().splitlines()) < 40
    return named[1]


async def test_the_engine_of_the_document_works(router: FakeRouter, start_worker: StartWorker, engine: str) -> None:
    await start_worker(worker__engine=engine)
    session = await router.session()
    assert (list(session.hello.worker_types), session.hello.slots) == (["sdxl"], 2)
    await session.say(lease=lease("anything", quantity=2))
    outcome = await session.expect("outcome")
    assert [entry.receipt for entry in outcome.outputs.outputs] == ["receipt-0", "receipt-1"]
    assert router.assets.content(0).startswith(PNG)
    assert router.assets.content(0) != router.assets.content(1)
    # It made no renditions itself.
    assert [len(renditions) for _, renditions in router.assets.finished] == [2, 2]
    assert any(report.HasField("progress") for report in session.reports())


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put every engine of the document that is a file where it can be imported."""
    for module, source in re.findall(r"```python\n# (\w+)\.py\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL):
        (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT / "workers"), str(ROOT)]))


@pytest.mark.usefixtures("own")
async def test_the_engine_of_texts_of_the_document_works(router: FakeRouter, start_worker: StartWorker) -> None:
    await start_worker(worker__engine="echo:EchoEngine")
    session = await router.session()
    assert (list(session.hello.worker_types), list(session.hello.models)) == (["chat"], ["echo-1"])
    await session.say(lease=lease("a red kite", enhance=True))
    outcome = await session.expect("outcome")
    assert outcome.text == "a red kite, in the light of the morning"
    by = outcome.enhanced_by
    assert (by.model, by.template, by.template_version) == ("echo-1", "morning", "v1")
    sent = chat_lease("hello there you", max_tokens=4)
    sent.ref.job_id = "another"
    await session.say(lease=sent)
    outcome = await session.expect("outcome")
    assert (outcome.text, outcome.finish_reason) == ("You said: hello there", chat_pb2.FINISH_REASON_LENGTH)
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (4, 4)


@pytest.mark.usefixtures("own")
async def test_the_engine_with_references_of_the_document_works(router: FakeRouter, start_worker: StartWorker) -> None:
    picture = Image.new("RGB", (64, 64), "red")
    picture.paste("blue", (0, 0, 32, 64))
    written = BytesIO()
    picture.save(written, "PNG")
    await start_worker(worker__engine="mirror:MirrorEngine")
    session = await router.session()
    router.assets.references[REFERENCE] = written.getvalue()
    await session.say(lease=with_reference(written.getvalue(), "turned round"))
    assert (await session.expect("outcome")).outputs.outputs[0].receipt
    with Image.open(BytesIO(router.assets.content(0))) as made:
        assert made.getpixel((0, 0)) == (255, 0, 0)
        assert json.loads(made.text["atelier"])["engine"] == "mirror"  # type: ignore[attr-defined]
    await session.say(lease=lease("turned round", job_id="another"))
    failure = (await session.expect("outcome")).failure.failure
    assert failure.message == "The mirror takes one picture, of the kind init."


def test_what_a_class_need_not_say_is_as_the_document_has_it() -> None:
    types = ", ".join(f'"{each}"' for each in _DEFAULT_WORKER_TYPES)
    assert f"| `({types})` |" in DOCUMENT.read_text("utf-8")


def test_a_file_says_how_it_was_made_as_the_document_has_it(tmp_path: Path) -> None:
    pattern = r"## Files that say how they were made\n.*?```python\n(.*?)```"
    found = re.search(pattern, DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    names["save"](IMAGE, 1, Image.new("RGB", (8, 8)), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        made = json.loads(picture.text["atelier"])  # type: ignore[attr-defined]
    assert (made["seed"], made["engine"], made["settings"]["guidance"]) == (IMAGE.seed + 1, "gradient", 7.0)


def test_the_engine_with_options_of_the_document_reads_them_strictly() -> None:
    found = re.search(r"## Options, read strictly\n\n```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    table = {"name": "tuned", "engine": "tuned:TunedEngine", "models": [{"name": "a", "source": "b/c"}]}
    assert names["TunedEngine"](table | {"memory_limit": "20GiB"}).limit_bytes == 20 << 30
    with pytest.raises(OptionsError) as caught:
        names["TunedEngine"](table | {"memory_limt": "20GiB"})
    assert str(caught.value) in DOCUMENT.read_text("utf-8")
