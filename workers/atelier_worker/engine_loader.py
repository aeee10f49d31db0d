"""How an engine is found: by the name of its entry point, or as `module:Class`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from atelier_worker.engine import ENTRY_POINT_GROUP, STAGES, Engine
from atelier_worker.engine_options import OptionsError


class EngineNotUsable(Exception):
    """The engine cannot be made; the message is a sentence for the operator."""


def load_engine(name: str, options: Mapping[str, object]) -> Engine:
    """Make an engine.

    Raises:
        EngineNotUsable: there is none of that name, it cannot be imported or constructed, or what it says of itself
            is not what the worker can tell the router.
    """
    try:
        found = _find_class(name)
        _check_that_it_takes_options(name, found)
        engine = found(options)
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
    _check_what_it_says(name, engine)
    return engine


def _check_that_it_takes_options(name: str, found: Any) -> None:
    """Refuse a class that is not made with its options: Python's own words for it name neither."""
    try:
        inspect.signature(found).bind({})
    except TypeError:
        raise EngineNotUsable(
            f"The engine {name!r} cannot be made: it is given one argument, its options. "
            "Write `def __init__(self, options)`."
        ) from None
    except ValueError:
        # What is not written in Python has no signature to look at.
        return


def _check_what_it_says(name: str, engine: Engine) -> None:
    """Refuse what would otherwise reach the router as something else: the letters of a text, an unknown stage."""
    for part in ("worker_types", "models", "stages"):
        said = getattr(engine, part, ())
        is_list = isinstance(said, Collection) and not isinstance(said, str | bytes)
        if not is_list or not all(isinstance(one, str) and one for one in said):
            example = STAGES[0] if part == "stages" else "sdxl"
            raise EngineNotUsable(
                f'The engine {name!r} has {part} = {said!r}; they are texts in a tuple, such as ("{example}",).'
            )
    unknown = [stage for stage in getattr(engine, "stages", ()) if stage not in STAGES]
    if unknown:
        raise EngineNotUsable(
            f"The engine {name!r} has the stage {unknown[0]!r}, which nobody asks for; there are {', '.join(STAGES)}."
        )
    concurrency: object = engine.concurrency
    if not isinstance(concurrency, int) or concurrency < 1:
        raise EngineNotUsable(f"The engine {name!r} has concurrency = {concurrency!r}; it is a number from 1.")


def _find_class(name: str) -> Any:
    if ":" in name:
        module, _, attribute = name.partition(":")
        found = importlib.import_module(module)
        if not hasattr(found, attribute):
            raise EngineNotUsable(
                f"There is no {attribute!r} in the module {module!r}: an engine is named module:Class."
            )
        return getattr(found, attribute)
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
