"""The engine diffusers on a device that runs out of memory: once, in a step, in the first task that asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

from atelier_worker.engine import Context, Task
from atelier_worker.engines.diffusers_engine import DiffusersEngine


class ShortEngine(DiffusersEngine):
    """A task whose prompt begins with `shortage` runs out of memory in its second step, once; the next ones do not."""

    def __init__(self, options: Mapping[str, object]) -> None:
        super().__init__(options)
        self._left = 1

    def run(self, task: Task, context: Context) -> None:
        if not task.prompt.startswith("shortage") or not self._left:
            super().run(task, context)
            return
        self._left -= 1
        import torch
        from diffusers import UNet2DConditionModel

        forward, calls = UNet2DConditionModel.forward, 0

        def short(module: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return forward(module, *args, **kwargs)

        with mock.patch.object(UNet2DConditionModel, "forward", short):
            super().run(task, context)
