"""Ends work inside a model as soon as a job was cancelled: before each of its blocks, not only between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def before_each(modules: Iterable[Any], call: Callable[[], None]) -> Iterator[None]:
    """Call `call` before every run of each of the modules of torch; what it raises ends the run."""
    hooks: list[Any] = []
    try:
        for module in modules:
            hooks.append(module.register_forward_pre_hook(lambda *_: call()))
        yield
    finally:
        for hook in hooks:
            hook.remove()
