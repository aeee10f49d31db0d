"""`atelier worker init` and `atelier doctor --config`: a file from what is here, and what is said of it."""

from __future__ import annotations

import json
import struct
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from atelier_cli import finding
from atelier_cli.commands import worker_init
from atelier_cli.commands.worker_init import Found, render
from atelier_cli.finding import Model, Server
from atelier_worker.worker_file import read_worker_file
from service_kit.devices import Gpu, find_gpus
from service_kit.settings import for_tests
from tests.support.commands import Run

_GPUS = [Gpu("cuda:0", "RTX 4090", 24 << 30, 20 << 30), Gpu("cuda:1", "RTX 3090", 24 << 30, 24 << 30)]


def put(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with one model of each kind, and one in the cache of the hub."""
    root = tmp_path / "models"
    put(root / "sdxl" / "model_index.json", {"_class_name": "StableDiffusionXLPipeline"})
    put(root / "sdxl" / "text_encoder" / "config.json", {"architectures": ["CLIPTextModel"]})
    put(root / "video" / "wan" / "model_index.json", {"_class_name": "WanImageToVideoPipeline"})
    put(root / "qwen" / "config.json", {"architectures": ["Qwen3ForCausalLM"]})
    put(root / "flux" / "model_index.json", {"_class_name": "FluxPipeline"})
    (root / "old.safetensors").write_bytes(b"x")
    put(root / "broken" / "config.json", ["no object"])
    put(
        tmp_path / "hub" / "models--stabilityai--sdxl-turbo" / "snapshots" / "1" / "model_index.json",
        {"_class_name": "StableDiffusionXLPipeline"},
    )
    return root


def test_models_are_known_by_what_lies_beside_them(models: Path, tmp_path: Path) -> None:
    found = finding.find_models([models, tmp_path / "not-there"], tmp_path / "hub")
    assert [model.frame_rate for model in found if model.family] == [0, 0, 16, 0]
    index = models / "video" / "wan" / "model_index.json"
    put(index, {"_class_name": "WanPipeline", "expand_timesteps": True})
    assert [model.frame_rate for model in finding.find_models([models / "video"], tmp_path / "hub")][:1] == [24]
    assert [(model.source, model.family) for model in found] == [
        (str(models / "flux"), ""),
        (str(models / "old.safetensors"), ""),
        (str(models / "qwen"), "chat"),
        (str(models / "sdxl"), "sdxl"),
        (str(models / "video" / "wan"), "wan"),
        ("stabilityai/sdxl-turbo", "sdxl"),
    ]


def test_a_tree_that_leads_in_circles_and_holds_rubbish_is_walked_once(tmp_path: Path) -> None:
    root = tmp_path / "models"
    put(root / "sdxl" / "model_index.json", {"_class_name": "StableDiffusionXLPipeline"})
    put(root / "loop" / "again" / "note.json", {})
    (root / "loop" / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "deep").mkdir()
    (root / "deep" / "model_index.json").write_text("[" * 100_000)
    unnamed = root / "\udcff"
    put(unnamed / "model_index.json", {"_class_name": "StableDiffusionXLPipeline"})
    found = finding.find_models([root, root / "loop", root / ("x" * 300)], tmp_path / "hub")
    assert sorted((model.source, model.family) for model in found) == [(str(root / "sdxl"), "sdxl"), (str(unnamed), "")]
    render(Found([], found, [], comfyui=False), connect="127.0.0.1:7401", key_file="k").encode()


def test_a_folder_that_was_named_and_cannot_be_read_is_said_so(run: Run, tmp_path: Path) -> None:
    for name, why in (("none", "No such file or directory"), ("~nobody-here", "nobody has such a home")):
        refused = run("worker", "init", "--data-dir", str(tmp_path), "--models", name)
        assert (refused.code, refused.err) == (2, f"atelier: --models {name} cannot be read: {why}.\n")


def test_the_cache_of_the_hub_is_where_its_client_has_it() -> None:
    assert finding.hub_cache({"HF_HUB_CACHE": "/a"}) == Path("/a")
    assert finding.hub_cache({"HF_HOME": "/a"}) == Path("/a/hub")
    assert finding.hub_cache({"XDG_CACHE_HOME": "/a"}) == Path("/a/huggingface/hub")


@pytest.mark.parametrize(
    ("said", "gpus"),
    [
        (None, []),
        ("0, RTX 4090, 24564, 20000\n1, RTX 3090, 24576, 24000\n", ["cuda:0", "cuda:1"]),
        ("No devices were found\n", []),
        ("0, GRID, [N/A], [N/A]\n", []),
    ],
)
def test_gpus_are_what_the_driver_says(said: str | None, gpus: list[str]) -> None:
    assert [gpu.device for gpu in find_gpus(lambda _: said)] == gpus


@contextmanager
def answering(path: str, answer: object) -> Iterator[str]:
    """A server on a free port that answers one path, with JSON or the bytes that are given."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == path else 404)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_servers_are_asked_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        answering("/v1/models", {"data": [{"id": "qwen3:8b"}, {"id": "llama"}, {}]}) as ollama,
        answering("/system_stats", {"system": {"os": "posix"}}) as comfyui,
        finding.local_client() as client,
    ):
        upstreams = {"Ollama": f"{ollama}/v1", "vLLM": "http://127.0.0.1:9/v1", "other": f"{comfyui}/v1"}
        monkeypatch.setattr(finding, "UPSTREAMS", upstreams)
        assert finding.find_servers(client) == [Server("Ollama", f"{ollama}/v1", ("qwen3:8b", "llama"))]
        monkeypatch.setattr(finding, "COMFYUI", comfyui)
        assert finding.finds_comfyui(client)
        monkeypatch.setattr(finding, "COMFYUI", ollama)
        assert not finding.finds_comfyui(client)


@pytest.mark.parametrize("answer", [b"[" * 100_000, b" " * (2 << 20), b"<html>", {"data": [{"id": 3}, "x", None]}])
def test_a_server_that_says_anything_else_is_passed_over(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    with answering("/v1/models", answer) as url, finding.local_client() as client:
        monkeypatch.setattr(finding, "UPSTREAMS", {"Ollama": f"{url}/v1"})
        assert [one.models for one in finding.find_servers(client)] in ([], [("3",)])


def test_a_server_that_answers_a_byte_at_a_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "_ANSWER_SECONDS", 0.0)
    with answering("/system_stats", {"system": {}}) as url, finding.local_client() as client:
        monkeypatch.setattr(finding, "COMFYUI", url)
        assert not finding.finds_comfyui(client)


def test_more_than_anybody_reads_is_counted() -> None:
    checkpoints = [Model(f"/m/{number}.safetensors", "", "a checkpoint in one file") for number in range(60)]
    text = render(Found([], checkpoints, [], comfyui=False), connect="127.0.0.1:7401", key_file="k")
    assert text.count("checkpoint") == 50
    assert "#   and 10 more\n" in text


def test_what_was_found_becomes_a_file_that_the_worker_reads(tmp_path: Path) -> None:
    found = Found(
        _GPUS,
        [
            Model("stabilityai/sdxl", "sdxl", "StableDiffusionXLPipeline"),
            Model('/m/My "own" SDXL\n', "sdxl", "StableDiffusionXLPipeline"),
            Model("/m/wan", "wan", "WanPipeline", 16),
            Model("/m/wan-5b", "wan", "WanPipeline", 24),
            Model("/m/flux", "", "FluxPipeline"),
        ],
        [
            Server("Ollama", "http://127.0.0.1:11434/v1", ("qwen3:8b", "llama")),
            Server("vLLM", "http://127.0.0.1:8000/v1", ()),
        ],
        comfyui=True,
    )
    (tmp_path / "worker.key").write_text("k")
    (tmp_path / "worker.key").chmod(0o600)
    file = tmp_path / "worker.toml"
    text = render(found, connect="router:7401", key_file="worker.key")
    file.write_text(text)
    plan = read_worker_file(file, for_tests(tmp_path))
    assert plan.connect == "router:7401"
    assert [(one.name, one.engine, one.worker_types, one.options.get("device")) for one in plan.engines] == [
        ("pictures", "diffusers", ("sdxl",), "cuda:0"),
        ("videos", "diffusers", ("wan",), "cuda:1"),
        ("upstream-11434", "openai", ("chat",), None),
    ]
    tables: Any = tomllib.loads(text)["engine"]
    assert [model["name"] for model in tables[0]["models"]] == ["sdxl", "my-own-sdxl"]
    assert tables[0]["models"][1]["source"] == '/m/My "own" SDXL\n'
    assert "atelier models add my-own-sdxl --worker-type sdxl --format image" in text
    row = "atelier models add wan-5b --worker-type wan --format video --base-size 640 --deadline 1800 --frame-rate 24"
    assert row in text
    assert "atelier models add wan " not in text, "the shipped row is for such weights"
    assert "# cuda:0: RTX 4090, 24.0 GiB, 20.0 GiB of them free now" in text
    assert "A ComfyUI answers at http://127.0.0.1:8188" in text
    assert "#   /m/flux: FluxPipeline" in text


def test_where_nothing_is_found_the_file_still_runs(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    (tmp_path / "worker.key").write_text("k")
    file.write_text(render(Found([], [], [], comfyui=False), connect="127.0.0.1:7401", key_file="worker.key"))
    assert [one.engine for one in read_worker_file(file, for_tests(tmp_path)).engines] == ["sketch"]
    assert "No GPU was found" in file.read_text()


def test_a_file_that_is_there_is_not_written_over(
    run: Run, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_init, "find_gpus", lambda: [])
    monkeypatch.setattr(worker_init, "find_servers", lambda _: [])
    monkeypatch.setattr(worker_init, "finds_comfyui", lambda _: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    words = ("worker", "init", "--data-dir", str(tmp_path), "--connect", "router:7401")
    printed = run(*words)
    assert printed.code == 0
    assert f'source = "{models / "sdxl"}"' in printed.out
    assert not (tmp_path / "worker.toml").exists()
    assert run(*words, "--write").code == 0
    assert (tmp_path / "worker.toml").read_text() == printed.out
    (tmp_path / "worker.toml").write_text("mine")
    refused = run(*words, "--write")
    assert (refused.code, (tmp_path / "worker.toml").read_text()) == (2, "mine")
    assert "worker.toml is there already; --force writes over it." in refused.err
    assert run(*words, "--write", "--force").code == 0
    assert (tmp_path / "worker.toml").read_text() == printed.out


def test_the_doctor_reads_a_file_of_workers(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_WORKER_KEY", "k")
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "models" / "sdxl").mkdir(parents=True)
    (tmp_path / "models" / "sdxl" / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(7))
    file = tmp_path / "worker.toml"
    model = '  [[engine.models]]\n  name = "sdxl"\n  source = "./models/sdxl"\n'
    file.write_text(f'[worker]\nconnect = "127.0.0.1:9"\n[[engine]]\nengine = "sketch"\n{model}')
    done = run("doctor", "--config", str(file), "--data-dir", str(tmp_path), "--json")
    found = {one["check"]: one for one in done.json["findings"]}
    assert done.code == 1
    assert found["worker.toml"]["ok"]
    assert "w.safetensors has" in found["weights of sketch, sdxl"]["seen"]
    assert "it is cut off" in found["weights of sketch, sdxl"]["seen"]
    assert found["weights of sketch, sdxl"]["remedy"] == "Replace the file: delete it, and download it again."
    assert found["router for sketch"]["seen"] == "no router answers at 127.0.0.1:9"
    assert "Start it with `atelier up`" in found["router for sketch"]["remedy"]
    file.write_text("[worker]\nconnect = 7\n[[engine]]\nengine = 'sketch'\n")
    done = run("doctor", "--config", str(file), "--data-dir", str(tmp_path))
    assert done.code == 1
    assert (
        "BAD  worker.toml: worker.toml, [worker]: connect takes a text, got 7.\n       Correct worker.toml." in done.out
    )


def test_the_doctor_tells_what_was_found_before_its_time_was_over(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = b'{"check": "engine a", "ok": true, "seen": "it is made", "remedy": ""}\n'

    def hangs(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 600, line + b'{"check": "eng')

    monkeypatch.setattr(subprocess, "run", hangs)
    (tmp_path / "worker.toml").touch()
    done = run("doctor", "--config", str(tmp_path / "worker.toml"), "--data-dir", str(tmp_path))
    assert done.code == 1
    assert "ok   engine a: it is made\n" in done.out
    assert "BAD  worker.toml: not all of it was checked within 600 seconds\n" in done.out


def test_a_local_client_asks_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with answering("/system_stats", {"system": {}}) as url, finding.local_client() as client:
        assert client.get(f"{url}/system_stats").status_code == httpx.codes.OK
