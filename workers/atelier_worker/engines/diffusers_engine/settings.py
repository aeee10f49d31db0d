"""The options of the engine: what an operator says of it and of each model. Read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from atelier_worker.engine_options import Options
from atelier_worker.engines.residency import DTYPES, Place, read_place

FALLBACKS = ("smaller_batch", "tiling", "offload")
_NO_LORAS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class IpAdapter:
    """What follows `style` references: a folder with `weights` (None: its only safetensors) and `image_encoder/`."""

    source: str
    weights: str | None


@dataclass(frozen=True, slots=True)
class ControlNet:
    """What follows `composition` references: a folder, and what it `reads`: the picture's `edges`, or the `picture`."""

    source: str
    reads: str


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One model of the engine, called `name` in jobs; `*` is every name that no other model has.

    `source` is a folder as diffusers saves them, or the id of a repository that is in the local cache of the hub, or a
    checkpoint in one file; `config` is then a folder with the model's configuration and tokenizers.
    `max_batch` pictures are made in one pass when memory allows. `fallbacks` are what is tried, in this order, when
    memory runs out: `smaller_batch`, `tiling` (of the decoder), `offload` (weights wait in the main memory).
    """

    name: str
    source: str
    config: str | None = None
    variant: str | None = None
    revision: str | None = None
    download: bool = False
    dtype: str = "auto"
    scheduler: str = ""
    guidance: float | None = None
    flow_shift: float | None = None
    loras: Mapping[str, str] = field(default_factory=lambda: _NO_LORAS)
    ip_adapter: IpAdapter | None = None
    controlnet: ControlNet | None = None
    max_batch: int = 4
    tiling: bool = False
    offload: bool = False
    fallbacks: tuple[str, ...] = ("smaller_batch", "tiling")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The engine: where it keeps its models, and which these are."""

    place: Place
    concurrency: int
    worker_types: tuple[str, ...]
    models: Mapping[str, ModelSettings]


def read_settings(table: Mapping[str, object]) -> EngineSettings:
    """Read the engine's table.

    Raises:
        OptionsError: a key is unknown, missing or cannot be used; or there is no model.
    """
    options = Options(table, where=f"[[engine]] {table.get('name', 'diffusers')}")
    dtype = options.choice("dtype", DTYPES, "auto")
    models: dict[str, ModelSettings] = {}
    for each in options.tables("models"):
        model = _model(each, dtype)
        if model.name in models:
            raise each.wrong("name", f"is there twice: {model.name}.")
        models[model.name] = model
    if not models:
        raise options.wrong("models", "is missing: add [[engine.models]] with a name and a source.")
    read = EngineSettings(
        place=read_place(options),
        concurrency=options.integer("slots", 1, least=1, most=64),
        worker_types=options.texts("worker_types", ()),
        models=MappingProxyType(models),
    )
    options.done()
    return read


def _model(options: Options, dtype: str) -> ModelSettings:
    fallbacks = options.texts("fallbacks", ("smaller_batch", "tiling"))
    for name in fallbacks:
        if name not in FALLBACKS:
            raise options.wrong("fallbacks", f"takes any of {', '.join(FALLBACKS)}, got {name!r}.")
    read = ModelSettings(
        name=options.text("name"),
        source=options.text("source"),
        config=options.text("config", None),
        variant=options.text("variant", None),
        revision=options.text("revision", None),
        download=options.boolean("download", False),
        dtype=options.choice("dtype", DTYPES, dtype),
        scheduler=options.text("scheduler", ""),
        guidance=options.number("guidance", None, least=0, most=50),
        flow_shift=options.number("flow_shift", None, least=0, most=100),
        loras=MappingProxyType(options.text_table("loras")),
        ip_adapter=_ip_adapter(options),
        controlnet=_controlnet(options),
        max_batch=options.integer("max_batch", 4, least=1, most=64),
        tiling=options.boolean("tiling", False),
        offload=options.boolean("offload", False),
        fallbacks=fallbacks,
    )
    for name, path in read.loras.items():
        if not path.endswith(".safetensors"):
            raise options.wrong("loras", f"takes .safetensors files, got {name} = {path!r}.")
    options.done()
    return read


def _ip_adapter(options: Options) -> IpAdapter | None:
    table = options.table("ip_adapter")
    if not options.has("ip_adapter"):
        return None
    read = IpAdapter(table.text("source"), table.text("weights", None))
    table.done()
    return read


def _controlnet(options: Options) -> ControlNet | None:
    table = options.table("controlnet")
    if not options.has("controlnet"):
        return None
    read = ControlNet(table.text("source"), table.choice("reads", ("edges", "picture"), "edges"))
    table.done()
    return read
