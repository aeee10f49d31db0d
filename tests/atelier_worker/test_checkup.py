"""What `atelier doctor --config` finds, against a real router: one sentence for each fault, with what to do."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from atelier_worker import checkup, greeting
from atelier_worker.checkup import Finding, check_up
from atelier_worker.plans import EnginePlan
from atelier_worker.weight_files import BrokenFile, memory_bytes, safetensors_in
from service_kit.devices import Gpu
from tests.support.system import System, running_system

# One system for all: it lives in the event loop of the module.
pytestmark = pytest.mark.asyncio(loop_scope="module")

_SKETCH = '[[engine]]\nname = "e"\nengine = "sketch"\n'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with running_system(tmp_path_factory.mktemp("system"), worker=False) as running:
        yield running


async def found(
    folder: Path,
    engines: str,
    *,
    connect: str = "127.0.0.1:9",
    key: str = "k",
) -> dict[str, Finding]:
    file = folder / "worker.toml"
    file.write_text(f'[worker]\nconnect = "{connect}"\n{engines}')
    variables = {"ATELIER_WORKER_KEY": key, "ATELIER_DATA_DIR": str(folder)}
    return {one.check: one async for one in check_up(file, variables)}


def safetensors(file: Path, elements: int = 1000, dtype: str = "F32", *, missing: int = 0) -> Path:
    size = elements * (4 if dtype == "F32" else 2)
    tensors = {"__metadata__": {"format": "pt"}, "w": {"dtype": dtype, "shape": [elements], "data_offsets": [0, size]}}
    header = json.dumps(tensors).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size - missing))
    return file


async def test_what_is_well_is_said_so(system: System, tmp_path: Path) -> None:
    connect = system.settings.worker.connect
    all_of_it = await found(tmp_path, _SKETCH, connect=connect, key=system.key("worker"))
    assert [one.ok for one in all_of_it.values()] == [True, True, True]
    assert all_of_it["engine e"].seen == "sketch for chat, sdxl, wan: every model"
    async with system.client() as client:
        assert not any(model.connected_workers for model in await client.models()), "it did not stay"


async def test_a_wrong_key(system: System, tmp_path: Path) -> None:
    bad = (await found(tmp_path, _SKETCH, connect=system.settings.worker.connect, key="atl_nobody"))["router for e"]
    assert bad.seen.endswith("does not know the worker's key")
    assert "atelier keys create --kind worker" in bad.remedy


async def test_a_router_that_is_not_there_and_something_else_that_is(system: System, tmp_path: Path) -> None:
    nobody = (await found(tmp_path, _SKETCH))["router for e"]
    assert nobody.seen == "no router answers at 127.0.0.1:9"
    assert "atelier up" in nobody.remedy
    url = await found(tmp_path, _SKETCH, connect="http://127.0.0.1:8400")
    assert not url["worker.toml"].ok
    assert "127.0.0.1:8400" in url["worker.toml"].seen


async def test_a_release_that_is_too_old(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "__version__", "0.0.1")
    bad = await found(tmp_path, _SKETCH, connect=system.settings.worker.connect, key=system.key("worker"))
    assert "is of release 0.0.1" in bad["router for e"].seen
    assert "pip install --upgrade atelier-media" in bad["router for e"].seen


async def test_a_type_that_the_key_is_not_for(system: System, tmp_path: Path) -> None:
    async with system.client() as client:
        created = await client.create_key(owner_id="attic", kind="worker", worker_types=["wan"])
    engines = _SKETCH + 'worker_types = ["sdxl"]\n'
    bad = (await found(tmp_path, engines, connect=system.settings.worker.connect, key=created.secret))["router for e"]
    assert "is for the worker types wan, not for sdxl" in bad.seen
    assert "atelier keys create" in bad.seen


async def test_a_model_that_no_row_leads_to(system: System, tmp_path: Path) -> None:
    engines = (
        '[[engine]]\nname = "e"\nengine = "atelier_worker.engines.openai_engine:OpenAIEngine"\n'
        'worker_types = ["sdxl"]\nurl = "http://127.0.0.1:9/v1"\n'
        '[[engine.models]]\nname = "my-own"\nsource = "x"\nserves = ["images"]\n'
    )
    sketch = '[[engine]]\nname = "s"\nengine = "sketch"\nworker_types = ["sdxl"]\n[[engine.models]]\nname = "its-own"\n'
    bad = await found(tmp_path, engines + sketch, connect=system.settings.worker.connect, key=system.key("worker"))
    assert bad["engine e"].ok
    assert "atelier models add its-own " in bad["router for s"].seen, "also of an engine that says nothing of models"
    assert "atelier models add my-own --worker-type sdxl --format image" in bad["router for e"].seen


async def test_an_engine_that_cannot_be_made(tmp_path: Path) -> None:
    engines = '[[engine]]\nname = "e"\nengine = "atelier_worker.engines.openai_engine:OpenAIEngine"\n'
    assert "url is missing" in (await found(tmp_path, engines))["engine e"].seen
    unknown = (await found(tmp_path, '[[engine]]\nname = "e"\nengine = "paintbrush"\n'))["engine e"]
    assert unknown.seen.startswith("There is no engine 'paintbrush'. Installed: ")
    module = (await found(tmp_path, '[[engine]]\nname = "e"\nengine = "no_such_module:Engine"\n'))["engine e"]
    assert "no_such_module" in module.seen


async def test_a_router_that_does_not_answer_is_said_once(tmp_path: Path) -> None:
    all_of_it = await found(tmp_path, _SKETCH + _SKETCH.replace('"e"', '"f"'))
    assert [(one.check, one.ok) for one in all_of_it.values()] == [
        ("worker.toml", True),
        ("engine e", True),
        ("router for e", False),
        ("engine f", True),
    ]


def weights(folder: Path, *names: str, engine: str = "sketch", **options: object) -> dict[str, Finding]:
    models = [{"name": name, "source": str(folder / name)} for name in names]
    plan = EnginePlan("e", engine, {"models": models, **options}, "attic-e")
    return {one.check: one for one in checkup.look_at_weights(plan)}


async def test_weights_that_are_broken_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors(tmp_path / "fine" / "unet" / "w.safetensors", 1 << 20)
    safetensors(tmp_path / "cut" / "w.safetensors", missing=1)
    monkeypatch.setattr(checkup, "find_gpus", lambda: [Gpu("cuda:0", "tiny", 3 << 20, 3 << 20)])
    bad = weights(tmp_path, "fine", "cut", "an-id-of-a-hub", device="cuda:0")
    assert bad["weights of e, cut"].seen.endswith("it is cut off")
    assert "download it again" in bad["weights of e, cut"].remedy
    assert bad["weights of e, fine"].ok
    assert not bad["memory for e"].ok
    assert bad["memory for e"].seen == "fine needs about 4 MiB, and cuda:0 has 3 MiB free"
    assert 'dtype = "bfloat16"' in bad["memory for e"].remedy
    assert weights(tmp_path, "fine", dtype="bfloat16")["memory for e"].ok, "in half precision it fits"
    assert weights(tmp_path, "fine", engine="diffusers")["memory for e"].ok, "its auto is half precision on a GPU"
    assert "and cpu has" in weights(tmp_path, "fine", engine="diffusers", device="cpu")["memory for e"].seen
    gone = weights(tmp_path, "fine", device="cuda:3")["memory for e"]
    assert (gone.seen, gone.remedy) == ("there is no cuda:3 on this machine", "Name another device: cuda:0.")
    assert "and cpu has" in weights(tmp_path, "fine", device="cpu")["memory for e"].seen


async def test_weights_that_cannot_be_looked_at_do_not_end_the_check(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "up").symlink_to("..")
    safetensors(tmp_path / "again" / "w.safetensors")
    seen = weights(tmp_path, "loop", "again", "x" * 300)
    assert "weights of e, loop" not in seen, "the engine says that it is not there"
    assert seen["weights of e, again"].seen == "1 files, 0 MiB in memory"
    assert "cannot be read: File name too long" in seen[f"weights of e, {'x' * 300}"].seen


async def test_files_are_measured_by_their_headers(tmp_path: Path) -> None:
    safetensors(tmp_path / "a" / "w.safetensors", 1000)
    safetensors(tmp_path / "a" / "w.fp16.safetensors", 1000, "F16")
    files = safetensors_in(tmp_path / "a")
    assert [file.name for file in files] == ["w.safetensors"]
    assert (memory_bytes(files, "auto"), memory_bytes(files, "bfloat16")) == (4000, 2000)
    assert safetensors_in(files[0]) == files
    assert safetensors_in(tmp_path / "nothing") == []


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"<html>not found</html>", struct.pack("<Q", 4) + b"[1]]" * 3])
async def test_what_is_no_safetensors_file_is_said_so(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    with pytest.raises(BrokenFile, match="is no safetensors file"):
        memory_bytes([file], "auto")
