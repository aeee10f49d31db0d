"""How an engine is found: by the name of its entry point, or as `module:Class`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from atelier_worker.engine import ENTRY_POINT_GROUP, Engine
from atelier_worker.engine_options import OptionsError


class EngineNotUsable(Exception):
    """The engine cannot be made; the message is a sentence for the operator."""


def load_engine(name: str, options: Mapping[str, object]) -> Engine:
    """Make an engine.

    Raises:
        EngineNotUsable: there is none of that name, or it cannot be imported or constructed.
    """
    try:
        engine = _find_class(name)(options)
    except EngineNotUsable:
        raise
    except OptionsError as error:
        raise EngineNotUsable(str(error)) from error
    except ModuleNotFoundError as error:
        raise EngineNotUsable(_what_is_missing(name, error)) from error
    except Exception as error:
        raise EngineNotUsable(f"The engine {name!r} cannot be made: {type(error).__name__}: {error}.") from error
    missing = [part for part in ("name", "concurrency", "run") if not hasattr(engine, part)]
    if missing:
        raise EngineNotUsable(f"The engine {name!r} is incomplete: it has no {' and no '.join(missing)}.")
    if not isinstance(engine, Engine):
        raise EngineNotUsable(f"The engine {name!r} does not follow the engine protocol.")
    return engine


def _find_class(name: str) -> Any:
    if ":" in name:
        module, _, attribute = name.partition(":")
        return getattr(importlib.import_module(module), attribute)
    known = _entries()
    if name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise EngineNotUsable(
            f"There is no engine {name!r}. Installed: {listed}. One of your own is named as module:Class."
        )
    return known[name].load()


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _what_is_missing(name: str, error: ModuleNotFoundError) -> str:
    """Return a sentence with the remedy: the extra that is named like the engine, or the folder of its module."""
    missing = error.name or str(error)
    if missing == name.partition(":")[0]:
        return f"There is no module {missing!r} for the engine {name!r}: start the worker in its folder, or install it."
    entry = _entries().get(name)
    package = missing.partition(".")[0]
    if entry is not None and entry.dist is not None and name in (entry.dist.metadata.get_all("Provides-Extra") or ()):
        remedy = f"pip install '{entry.dist.name}[{name}]'"
        return f"The engine {name!r} needs {package}, which is not installed: {remedy}."
    return f"The engine {name!r} needs the module {missing}, which is not installed."
