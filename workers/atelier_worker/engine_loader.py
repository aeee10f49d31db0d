"""How an engine is found: by the name of its entry point, or as `module:Class`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
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
    known = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise EngineNotUsable(
            f"There is no engine {name!r}. Installed: {listed}. One of your own is named as module:Class."
        )
    return known[name].load()
