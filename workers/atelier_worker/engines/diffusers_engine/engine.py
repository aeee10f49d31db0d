"""The engine: reads its options, finds its models, keeps them in memory, and gives each task to what makes it."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from atelier_worker.engine import Context, DeviceRoom, EngineError, LoadedModel, Task
from atelier_worker.engine_options import OptionsError
from atelier_worker.engines.diffusers_engine.footage import check
from atelier_worker.engines.diffusers_engine.models import Model, Use, effective_dtype, load, weights_bytes
from atelier_worker.engines.diffusers_engine.settings import ModelSettings, read_settings
from atelier_worker.engines.diffusers_engine.wan_features import FEATURES, name_in
from atelier_worker.engines.diffusers_engine.weights import Weights, WeightsError, download, find
from atelier_worker.engines.features import NO_TEXTS, no_model, refuse
from atelier_worker.engines.fetches import Fetches
from atelier_worker.engines.residency import Residency, memory_of

_log = logging.getLogger(__name__)
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "ftfy")
_LOOK_AGAIN_S = 0.1  # a context cannot wake a thread when its job is cancelled


class DiffusersEngine:
    """Pictures with SDXL and videos with Wan, by diffusers. docs/engines.md has its options.

    Nothing of the libraries is imported before the first task, so that the process starts at once; what the options
    name is looked at before, so that it does not start when a model is missing or broken.
    """

    name = "diffusers"
    stages = ("generate",)

    def __init__(self, options: Mapping[str, object]) -> None:
        """Read the options and look at the weights.

        Raises:
            OptionsError: an option cannot be used, a library is not installed, or weights are missing or broken.
        """
        missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
        if missing:
            raise OptionsError(
                f"The engine diffusers needs {', '.join(missing)}: install them with "
                "pip install 'atelier-media[diffusers]'."
            )
        self._settings = read_settings(options)
        self.concurrency = self._settings.concurrency
        self.models = tuple(self._settings.models)
        self._found = {name: find(model) for name, model in self._settings.models.items()}
        families = sorted({found.family for found in self._found.values() if found is not None})
        self.worker_types = self._settings.worker_types or tuple(families)
        # What "auto" is, torch says, which the first task loads.
        self._device = self._settings.place.device
        self._lock = threading.Lock()
        self._fetches: Fetches[Weights] = Fetches()
        self._residency: Residency[Model] | None = None
        self._registered: set[str] = set()

    def run(self, task: Task, context: Context) -> None:
        """Run one stage to its end; see `Engine.run`."""
        if task.stage != "generate":
            raise EngineError(NO_TEXTS["chat"])
        settings = self._settings.models.get(task.model) or self._settings.models.get("*")
        if settings is None:
            raise no_model(task.model, self.models)
        context.progress(0, max(1, task.steps), phase="starting")
        weights = self._weights(settings, context)
        residency = self._kept(settings, weights)
        use = partial(self._use, residency, settings, context)
        if weights.family == "sdxl":
            from atelier_worker.engines.diffusers_engine import images

            images.run(task, context, settings, self._device, use)
        else:
            self._video(task, context, settings, weights, use)

    def loaded(self) -> Sequence[LoadedModel]:
        """Return the models in memory."""
        return self._residency.loaded() if self._residency is not None else ()

    def device_room(self) -> DeviceRoom | None:
        """Return what the device has free, once a task wanted a model."""
        return self._residency.device_room() if self._residency is not None else None

    def give_room(self, device: str, wanted_bytes: int) -> int:
        """Evict models that no task uses; return the bytes that they took."""
        return self._residency.give_room(device, wanted_bytes) if self._residency is not None else 0

    def _weights(self, settings: ModelSettings, context: Context) -> Weights:
        found = self._found[settings.name]
        if found is None:
            try:
                found = self._fetches.wait(settings.name, partial(download, settings), context)
            except WeightsError as error:
                _log.error("model_not_downloaded model=%s error=%s", settings.name, error)
                raise EngineError(
                    f"The weights of the model {settings.name} cannot be downloaded; the worker's log says why.",
                    retryable=True,
                ) from error
            self._found[settings.name] = found
        return found

    def _kept(self, settings: ModelSettings, weights: Weights) -> Residency[Model]:
        """The models in memory, with this one among those that can be."""
        with self._lock:
            if self._residency is None:
                self._device = self._settings.place.chosen_device()
                self._residency = Residency(
                    memory_of(self._device),
                    self._device,
                    self._settings.place.memory_limit_bytes,
                    memory_wait_s=self._settings.place.memory_wait_s,
                )
            if settings.name not in self._registered:
                dtype = effective_dtype(settings.dtype, self._device)
                self._residency.register(
                    settings.name,
                    load=partial(load, settings, weights, self._device),
                    weights_bytes=weights_bytes(weights, dtype, offload=settings.offload),
                )
                self._registered.add(settings.name)
            return self._residency

    @contextmanager
    def _use(
        self, residency: Residency[Model], settings: ModelSettings, context: Context, working_bytes: int
    ) -> Iterator[Model]:
        with residency.use(settings.name, context, working_bytes=working_bytes) as model:
            # LoRAs change the weights that tasks share: one task at a time.
            while not model.lock.acquire(timeout=_LOOK_AGAIN_S):
                context.progress(0, 1, phase="waiting for the model")
            try:
                yield model
            finally:
                model.lock.release()

    def _video(self, task: Task, context: Context, settings: ModelSettings, weights: Weights, use: Use) -> None:
        # Before the weights are loaded, which takes minutes.
        if (name := name_in(weights.folder)) is not None:
            refuse(FEATURES[name], task)
        check(task)
        from atelier_worker.engines.diffusers_engine import video

        video.run_model(task, context, settings, self._device, use)
