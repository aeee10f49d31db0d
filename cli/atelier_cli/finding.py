"""What is on this machine that a worker could use: models in folders and in the hub's cache, and servers that answer.

Nothing is loaded and nothing is imported for it: a model is known by the JSON that lies beside its weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

_DEPTH = 3
_MOST_FOLDERS = 2000
_LARGEST_JSON_BYTES = 1 << 20
_ANSWER_SECONDS = 1.0
_HUB_PREFIX = "models--"
# How the class of a pipeline begins → the worker type that it is of.
_PIPELINES = {"StableDiffusionXL": "sdxl", "Wan": "wan"}
COMFYUI = "http://127.0.0.1:8188"
# What answers with a list of models at its usual port, as an OpenAI-compatible server does.
UPSTREAMS = {"Ollama": "http://127.0.0.1:11434/v1", "vLLM or transformers serve": "http://127.0.0.1:8000/v1"}


@dataclass(frozen=True, slots=True)
class Model:
    """A model: `source` is what a worker.toml says, `kind` what it says of itself.

    `family` is `sdxl`, `wan`, `chat`, or empty for one that no engine here runs.
    """

    source: str
    family: str
    kind: str


@dataclass(frozen=True, slots=True)
class Server:
    """A server of models that answers on this machine, and what it calls its models."""

    name: str
    url: str
    models: tuple[str, ...]


def find_models(roots: Sequence[Path], hub: Path) -> list[Model]:
    """Return the models in folders and in the cache of the hub, in the order of their names, each once."""
    found = [model for root in roots for model in _in_folder(root, _DEPTH, [_MOST_FOLDERS])]
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
    return httpx.Client(timeout=_ANSWER_SECONDS, trust_env=False)


def _get(client: httpx.Client, url: str) -> object:
    try:
        answer = client.get(url)
        return answer.json() if answer.status_code == httpx.codes.OK else None
    except (httpx.HTTPError, ValueError):
        return None


def _in_folder(folder: Path, depth: int, left: list[int]) -> Iterator[Model]:
    """Yield the models below a folder, not deeper than `depth` and in no more than `left[0]` folders."""
    if left[0] <= 0 or not folder.is_dir():
        return
    left[0] -= 1
    model = _model(folder, str(folder.absolute()))
    if model is not None:
        yield model
        return
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for path in inside:
        if path.suffix == ".safetensors" and path.is_file():
            yield Model(str(path.absolute()), "", "a checkpoint in one file")
        elif depth and path.is_dir() and not path.name.startswith("."):
            yield from _in_folder(path, depth - 1, left)


def _in_hub(hub: Path) -> Iterator[Model]:
    """Yield what the cache of the hub holds: each is named by its id, as the hub names it."""
    for folder in sorted(hub.glob(f"{_HUB_PREFIX}*")):
        owner, _, name = folder.name.removeprefix(_HUB_PREFIX).partition("--")
        snapshots = [path for path in sorted(folder.glob("snapshots/*")) if path.is_dir()]
        model = _model(snapshots[-1], f"{owner}/{name}" if name else owner) if snapshots else None
        if model is not None:
            yield model


def _model(folder: Path, source: str) -> Model | None:
    """What a folder says of itself; None when it holds no model."""
    index = _json(folder / "model_index.json")
    if index is not None:
        kind = str(index.get("_class_name", "a pipeline"))
        family = next((family for start, family in _PIPELINES.items() if kind.startswith(start)), "")
        return Model(source, family, kind)
    config = _json(folder / "config.json")
    architectures = config.get("architectures") if config is not None else None
    if isinstance(architectures, list) and architectures:
        kind = str(architectures[0])
        return Model(source, "chat" if kind.endswith("ForCausalLM") else "", kind)
    return None


def _json(file: Path) -> dict[str, object] | None:
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST_JSON_BYTES:
            return None
        read = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) else None


def roots_of(named: Sequence[str]) -> list[Path]:
    """Return the folders to look through: those that were named, and `models` in this one."""
    return [*(Path(name).expanduser() for name in named), Path("models")]


def environ_cache() -> Path:
    """Return the hub's cache of whoever runs this."""
    return hub_cache(os.environ)
