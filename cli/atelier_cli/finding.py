"""What is on this machine that a worker could use: models in folders and in the hub's cache, and servers that answer.

Nothing is loaded and nothing is imported for it: a model is known by the JSON that lies beside its weights.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from atelier_cli.exits import UsageError

_DEPTH = 3
_MOST_FOLDERS = 2000
_LARGEST_JSON_BYTES = 1 << 20
# A server of this machine that has not said a byte within the one, or all within the other, is none to work with.
_SILENCE_SECONDS = 1.0
_ANSWER_SECONDS = 3.0
_HUB_PREFIX = "models--"
# How the class of a pipeline begins → the worker type that it is of.
_PIPELINES = {"StableDiffusionXL": "sdxl", "Wan": "wan"}
COMFYUI = "http://127.0.0.1:8188"
# What answers with a list of models at its usual port, as an OpenAI-compatible server does.
UPSTREAMS = {"Ollama": "http://127.0.0.1:11434/v1", "vLLM or transformers serve": "http://127.0.0.1:8000/v1"}


@dataclass(frozen=True, slots=True)
class Model:
    """A model: `source` is what a worker.toml says, `kind` what it says of itself.

    `family` is `sdxl`, `wan`, `chat`, or empty for one that no engine here runs. `frame_rate`: of the videos that it
    learnt from; 0 for one that makes none.
    """

    source: str
    family: str
    kind: str
    frame_rate: int = 0


@dataclass(frozen=True, slots=True)
class Server:
    """A server of models that answers on this machine, and what it calls its models."""

    name: str
    url: str
    models: tuple[str, ...]


def find_models(roots: Sequence[Path], hub: Path) -> list[Model]:
    """Return the models in folders and in the cache of the hub, in the order of their names, each once."""
    walk = _Walk()
    found = [model for root in roots for model in walk.below(root, _DEPTH)]
    # No file can name a folder whose name is no text, and names on a disk are any bytes.
    found = [model if _is_text(model.source) else replace(model, family="") for model in found]
    return list(dict.fromkeys([*found, *_in_hub(hub)]))


def hub_cache(environ: Mapping[str, str]) -> Path:
    """Return where the hub's client keeps what it has downloaded."""
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"])
    home = environ.get("HF_HOME") or Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def find_servers(client: httpx.Client) -> list[Server]:
    """Return the OpenAI-compatible servers that answer at their usual ports."""
    servers = []
    for name, url in UPSTREAMS.items():
        answer = _get(client, f"{url}/models")
        listed = answer.get("data") if isinstance(answer, dict) else None
        if isinstance(listed, list):
            ids = [str(one["id"]) for one in listed if isinstance(one, dict) and one.get("id")]
            servers.append(Server(name, url, tuple(ids)))
    return servers


def finds_comfyui(client: httpx.Client) -> bool:
    """Tell whether a ComfyUI answers at its usual port."""
    answer = _get(client, f"{COMFYUI}/system_stats")
    return isinstance(answer, dict) and isinstance(answer.get("system"), dict)


def local_client() -> httpx.Client:
    """Return a client for servers of this machine, which are asked shortly and without a proxy."""
    return httpx.Client(timeout=_SILENCE_SECONDS, trust_env=False)


def _get(client: httpx.Client, url: str) -> object:
    """Return what a server answers; None when that is no JSON, too much of it, or takes too long."""
    deadline, content = time.monotonic() + _ANSWER_SECONDS, b""
    try:
        with client.stream("GET", url) as answer:
            if answer.status_code != httpx.codes.OK:
                return None
            for part in answer.iter_bytes(1 << 16):
                content += part
                if len(content) > _LARGEST_JSON_BYTES or time.monotonic() > deadline:
                    return None
        return json.loads(content)
    except (httpx.HTTPError, ValueError, RecursionError):
        return None


class _Walk:
    """A walk through folders, into each once however many links lead there."""

    def __init__(self) -> None:
        self._been: set[tuple[int, int]] = set()

    def below(self, folder: Path, depth: int) -> Iterator[Model]:
        """Yield the models below a folder, not deeper than `depth`. What cannot be read holds none."""
        if not self._enters(folder):
            return
        model = _model(folder, str(folder.absolute()))
        if model is not None:
            yield model
            return
        for path in _inside(folder):
            if path.suffix == ".safetensors" and _is_file(path):
                yield Model(str(path.absolute()), "", "a checkpoint in one file")
            elif depth and not path.name.startswith("."):
                yield from self.below(path, depth - 1)

    def _enters(self, folder: Path) -> bool:
        try:
            told = folder.stat()
        except OSError:
            return False
        here = (told.st_dev, told.st_ino)
        if not stat.S_ISDIR(told.st_mode) or here in self._been or len(self._been) >= _MOST_FOLDERS:
            return False
        self._been.add(here)
        return True


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _in_hub(hub: Path) -> Iterator[Model]:
    """Yield what the cache of the hub holds: each is named by its id, as the hub names it."""
    for folder in _inside(hub):
        if not folder.name.startswith(_HUB_PREFIX):
            continue
        owner, _, name = folder.name.removeprefix(_HUB_PREFIX).partition("--")
        snapshots = _inside(folder / "snapshots")
        model = _model(snapshots[-1], f"{owner}/{name}" if name else owner) if snapshots else None
        if model is not None:
            yield model


def _model(folder: Path, source: str) -> Model | None:
    """What a folder says of itself; None when it holds no model."""
    index = _json(folder / "model_index.json")
    if index is not None:
        kind = str(index.get("_class_name", "a pipeline"))
        family = next((family for start, family in _PIPELINES.items() if kind.startswith(start)), "")
        # Of the models of Wan only the small one of 2.2, which alone spreads its steps over frames, learnt 24 a second.
        frame_rate = (24 if index.get("expand_timesteps") else 16) if family == "wan" else 0
        return Model(source, family, kind, frame_rate)
    config = _json(folder / "config.json")
    architectures = config.get("architectures") if config is not None else None
    if isinstance(architectures, list) and architectures:
        kind = str(architectures[0])
        return Model(source, "chat" if kind.endswith("ForCausalLM") else "", kind)
    return None


def _is_text(source: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in source)


def _json(file: Path) -> dict[str, object] | None:
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST_JSON_BYTES:
            return None
        read = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def roots_of(named: Sequence[str]) -> list[Path]:
    """Return the folders to look through: those that were named, and `models` in this one.

    Raises:
        UsageError: a folder that was named cannot be read.
    """
    folders = []
    for name in named:
        try:
            folder = Path(name).expanduser()
            os.scandir(folder).close()
        except (OSError, RuntimeError) as error:
            why = error.strerror if isinstance(error, OSError) else "nobody has such a home"
            raise UsageError(f"--models {name[:100]} cannot be read: {why}.") from None
        folders.append(folder)
    return [*folders, Path("models")]


def environ_cache() -> Path:
    """Return the hub's cache of whoever runs this."""
    return hub_cache(os.environ)
