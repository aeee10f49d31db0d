"""Which public methods the storages have, and which of them a test called, on which database.

Only what a test calls itself counts, and only when it returns: a method that another one uses is not thereby tested.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import TypeDecorator

from service_kit.events.log import EventLog

BACKENDS = ("sqlite", "postgresql")
PACKAGES = ("router_service.storage", "asset_service.storage", "library_service.storage")
Call = tuple[str, type, str]
"""A database, a class, the name of one of its methods."""

_inside: ContextVar[bool] = ContextVar("inside_a_storage_method", default=False)


def storage_classes() -> list[type]:
    """Return every class of the storage packages that has public methods, and the kit's event log."""
    found: dict[type, None] = {}
    for name in PACKAGES:
        package = importlib.import_module(name)
        names = [name, *(f"{name}.{module.name}" for module in pkgutil.iter_modules(package.__path__))]
        for module in map(importlib.import_module, names):
            found |= dict.fromkeys(_classes_of(module))
    return [*found, EventLog]


def _classes_of(module: Any) -> Iterator[type]:
    for thing in vars(module).values():
        if not inspect.isclass(thing) or thing.__module__ != module.__name__:
            continue
        is_value = dataclasses.is_dataclass(thing) or issubclass(thing, (enum.Enum, Exception, TypeDecorator))
        if not is_value and methods_of(thing):
            yield thing


def methods_of(owner: type) -> list[str]:
    """Return the names of the public methods of a class, inherited ones included."""
    return sorted(name for name, _ in inspect.getmembers(owner, inspect.isfunction) if not name.startswith("_"))


class Recorder:
    """Notes calls of storage methods while its `recording` lasts."""

    def __init__(self) -> None:
        self.backend = ""
        self.calls: set[Call] = set()

    @contextmanager
    def recording(self, classes: Iterable[type]) -> Iterator[None]:
        """Wrap the methods of these classes, wherever in their families they are defined."""
        with pytest.MonkeyPatch.context() as patch:
            for base in dict.fromkeys(base for owner in classes for base in owner.__mro__ if base is not object):
                for name, method in list(vars(base).items()):
                    if inspect.isfunction(method) and not name.startswith("_"):
                        patch.setattr(base, name, self._wrapped(name, method))
            yield

    def missing(self, owner: type, backend: str) -> list[str]:
        """Return the methods of a class that no test called on a database."""
        return [name for name in methods_of(owner) if (backend, owner, name) not in self.calls]

    def _wrapped(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def call_later(self_: Any, *arguments: Any, **named: Any) -> Any:
                with self._noting(type(self_), name):
                    return await method(self_, *arguments, **named)

            return call_later

        @functools.wraps(method)
        def call(self_: Any, *arguments: Any, **named: Any) -> Any:
            with self._noting(type(self_), name):
                return method(self_, *arguments, **named)

        return call

    @contextmanager
    def _noting(self, owner: type, name: str) -> Iterator[None]:
        outermost = not _inside.get()
        token = _inside.set(True)
        try:
            yield
        finally:
            _inside.reset(token)
        if outermost:
            self.calls.add((self.backend, owner, name))


def left_out(items: Iterable[pytest.Item], folder: Path) -> set[str]:
    """Return the tests that stand in the files of a folder and are not among those to be run."""
    chosen = {(item.path, getattr(item, "originalname", item.name)) for item in items}
    written = {
        (path, node.name)
        for path in folder.glob("test_*.py")
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }
    return {f"{path.name}::{name}" for path, name in written - chosen}
