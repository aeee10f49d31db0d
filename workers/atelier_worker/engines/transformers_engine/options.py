"""The options of this engine, read and checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atelier_worker.engine_options import Options
from atelier_worker.engines.residency import DTYPES, Place, local_source, read_place
from service_kit.units import GIB

EVERY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """One `[[engine.models]]`: what jobs call it, and the hub id or folder that it comes from."""

    name: str
    source: str

    @property
    def folder(self) -> Path | None:
        """The folder, when the source names one and not an id of the hub."""
        return local_source(self.source)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The whole `[[engine]]` table. `cache_bytes` bounds the keys and values of all conversations of one model.

    `max_tokens` is how long an answer may be that was asked for without a limit. `enhancer` names the model that makes
    prompts richer, if it `enhances` any. `repeatable` has a seed give the same text whatever else runs.
    """

    models: tuple[ModelOptions, ...]
    enhancer: str
    enhances: bool
    place: Place
    dtype: str
    cache_bytes: int
    max_tokens: int
    slots: int
    repeatable: bool
    download: bool


def read_options(table: Mapping[str, object]) -> EngineOptions:
    """Read the table.

    Raises:
        OptionsError: an option is missing, unknown or cannot be used.
    """
    options = Options(table, where=f"[[engine]] {table.get('name', 'transformers')}")
    models = []
    for one in options.tables("models"):
        models.append(ModelOptions(one.text("name"), one.text("source")))
        one.done()
    if not models:
        raise options.wrong("models", 'is missing: add [[engine.models]] with name = "…" and source = "…".')
    names = [model.name for model in models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise options.wrong("models", f"names {twice} twice; each model needs a name of its own.")
    enhancer = options.text("enhancer", names[0])
    if enhancer not in names:
        raise options.wrong("enhancer", f"is {enhancer}, which is none of models: {', '.join(names)}.")
    read = EngineOptions(
        models=tuple(models),
        enhancer=enhancer,
        enhances=options.boolean("enhances", True),
        place=read_place(options),
        dtype=options.choice("dtype", DTYPES, "auto"),
        cache_bytes=options.size_bytes("cache_memory", 2 * GIB),
        max_tokens=options.integer("max_tokens", 2048, least=1),
        slots=options.integer("slots", 8, least=1, most=64),
        repeatable=options.boolean("repeatable", True),
        download=options.boolean("download", False),
    )
    options.done()
    return read
