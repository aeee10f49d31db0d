"""`atelier worker init`: a commented worker.toml from what is on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from atelier_cli.context import Context
from atelier_cli.exits import OK, UsageError
from atelier_cli.finding import (
    COMFYUI,
    Model,
    Server,
    environ_cache,
    find_models,
    find_servers,
    finds_comfyui,
    local_client,
    roots_of,
)
from service_kit.devices import Gpu, find_gpus
from service_kit.units import sized

# Of each family: the engine, what it is called in the file, and how a row of the routing table is added.
_FAMILIES = {
    "sdxl": ("diffusers", "pictures", "--format image"),
    "wan": ("diffusers", "videos", "--format video --base-size 640 --deadline 1800"),
    "chat": ("transformers", "talk", "--stage chat"),
}
# What the routing table ships for the model `wan`.
_SHIPPED_FRAME_RATE = 16
# Of a kind: whoever has more knows what to write.
_MOST_LISTED = 50


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that was found."""

    gpus: Sequence[Gpu]
    models: Sequence[Model]
    servers: Sequence[Server]
    comfyui: bool


def init(context: Context) -> int:
    """Print a worker.toml, or write it; a file that is there is left alone unless --force is given."""
    arguments = context.arguments
    with local_client() as client:
        found = Found(
            find_gpus(),
            find_models(roots_of(arguments.models), environ_cache()),
            find_servers(client),
            finds_comfyui(client),
        )
    text = render(found, connect=arguments.connect or "127.0.0.1:7401", key_file=_key_file(context))
    if arguments.write is None:
        context.print(text.rstrip("\n"))
        return OK
    file = Path(arguments.write)
    if file.exists() and not arguments.force:
        raise UsageError(f"{file} is there already; --force writes over it.")
    file.write_text(text, encoding="utf-8")
    context.print(f"Wrote {file}. What it lacks says: atelier doctor --config {file}")
    return OK


def _key_file(context: Context) -> str:
    """The key that the first start of `atelier up` wrote on this machine, or a file beside worker.toml."""
    own = context.settings.keys_dir / "worker.key"
    return str(own.absolute()) if own.is_file() else "worker.key"


def render(found: Found, *, connect: str, key_file: str) -> str:
    """Return the file as text."""
    lines = [
        "# What this machine runs for Atelier: atelier worker --config worker.toml",
        "# Each [[engine]] is a worker of its own. docs/engines.md says what each engine takes.",
        "",
        "[worker]",
        f"connect = {_text(connect)}  # the router",
        f"key_file = {_text(key_file)}  # atelier keys create --kind worker --owner NAME --out worker.key",
        '# name = "attic"  # else the name of this machine',
        '# drain_grace = "30s"  # how long what runs may go on when the worker is told to end',
        '# status = "127.0.0.1:7490"  # liveness and metrics',
        "",
        *_devices(found.gpus),
    ]
    engines = [*_with_models(found), *_with_servers(found.servers)]
    lines += engines or [
        "# No model was found that an engine here runs: this one draws by rules, and needs nothing.",
        "[[engine]]",
        'engine = "sketch"',
        "",
    ]
    return "\n".join([*lines, *_comfyui(found.comfyui), *_others(found.models)]).rstrip("\n") + "\n"


def _devices(gpus: Sequence[Gpu]) -> Iterator[str]:
    for gpu in gpus:
        total, free = sized(gpu.total_bytes), sized(gpu.free_bytes)
        yield f"# {gpu.device}: {_comment(gpu.name)}, {total}, {free} of them free now"
    if not gpus:
        yield "# No GPU was found by nvidia-smi: the engines below would run on the CPU, which is slow for models."
    yield ""


def _with_models(found: Found) -> Iterator[str]:
    """Yield an engine for each family of models; with several GPUs they take turns."""
    families = [family for family in _FAMILIES if any(model.family == family for model in found.models)]
    for number, family in enumerate(families):
        engine, name, registering = _FAMILIES[family]
        device = found.gpus[number % len(found.gpus)].device if found.gpus else "cpu"
        yield f"# pip install 'atelier-media[{engine}]'"
        yield "[[engine]]"
        yield f"name = {_text(name)}"
        yield f"engine = {_text(engine)}"
        yield f"worker_types = {json.dumps([family])}"
        yield f"device = {_text(device)}"
        yield 'dtype = "auto"  # bfloat16, float16 or float32'
        yield '# memory_limit = "20GiB"  # the most that it keeps on the device; else what the device has'
        names: set[str] = set()
        models = [model for model in found.models if model.family == family]
        for model in models[:_MOST_LISTED]:
            called = _name_of(model, family, names)
            yield f"  [[engine.models]]  # {_comment(model.kind)}"
            rate = f" --frame-rate {model.frame_rate}" if model.frame_rate else ""
            if called == family and model.frame_rate in (0, _SHIPPED_FRAME_RATE):
                yield f"  name = {_text(called)}"
            else:
                added = f"atelier models add {called} --worker-type {family} {registering}{rate}"
                yield f"  name = {_text(called)}  # {added}"
            yield f"  source = {_text(model.source)}"
        if len(models) > _MOST_LISTED:
            yield f"  # and {len(models) - _MOST_LISTED} more"
        yield ""


def _name_of(model: Model, family: str, taken: set[str]) -> str:
    """What jobs call a model: the first of a family has its name, which the routing table knows."""
    own = re.sub(r"[^a-z0-9.-]+", "-", model.source.rpartition("/")[2].lower()).strip("-.") or family
    name = family if not taken else own
    number = 2
    while name in taken:
        name, number = f"{own}-{number}", number + 1
    taken.add(name)
    return name


def _with_servers(servers: Sequence[Server]) -> Iterator[str]:
    for server in servers:
        if not server.models:
            yield f"# {server.name} answers at {server.url}, and has no model yet."
            yield ""
            continue
        yield f"# {server.name} answers here."
        yield "[[engine]]"
        yield f"name = {_text('upstream-' + server.url.rpartition(':')[2].partition('/')[0])}"
        yield 'engine = "openai"'
        yield 'worker_types = ["chat"]'
        yield f"url = {_text(server.url)}"
        yield "  [[engine.models]]"
        yield '  name = "chat"'
        yield f"  source = {_text(server.models[0])}"
        for other in server.models[1:_MOST_LISTED]:
            yield f"  # it also has {_comment(other)}"
        yield ""


def _comfyui(answers: bool) -> Iterator[str]:
    if not answers:
        return
    yield f"# A ComfyUI answers at {COMFYUI}. Import a workflow, then take the marks off:"
    yield "#   atelier comfy import workflow_api.json"
    yield "# [[engine]]"
    yield '# name = "comfyui"'
    yield '# engine = "comfyui"'
    yield '# worker_types = ["sdxl"]'
    yield f"# url = {_text(COMFYUI)}"
    yield "#   [[engine.models]]"
    yield '#   name = "sdxl"'
    yield '#   template = "workflow.template.json"'
    yield ""


def _others(models: Sequence[Model]) -> Iterator[str]:
    others = [model for model in models if not model.family]
    if others:
        yield "# Also found, and taken by no engine as it is:"
    for model in others[:_MOST_LISTED]:
        yield f"#   {_comment(model.source)}: {_comment(model.kind)}"
    if len(others) > _MOST_LISTED:
        yield f"#   and {len(others) - _MOST_LISTED} more"


def _text(text: str) -> str:
    """A text as TOML writes it; its basic strings have the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    """A text in a comment, which ends with its line."""
    return "".join(character if character.isprintable() else "?" for character in text)
