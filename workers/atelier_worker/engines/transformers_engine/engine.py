"""The engine of language models: dispatches a task to a conversation or to a richer prompt."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atelier_worker.engine import Context, DeviceRoom, EngineError, LoadedModel, Task
from atelier_worker.engine_options import OptionsError
from atelier_worker.engines.features import no_model
from atelier_worker.engines.fetches import Fetches
from atelier_worker.engines.residency import Residency, memory_of

from . import chat, enhance
from .options import EVERY_MODEL, ModelOptions, read_options

if TYPE_CHECKING:
    from .decoder import Decoder
    from .loading import ChatFiles


class TransformersEngine:
    """Conversations and richer prompts from models of transformers, of which it keeps as many as memory allows.

    Options: `docs/engines.md`. Eight tasks run at once, and all that use one model share its steps.
    """

    name = "transformers"
    worker_types = ("chat",)

    def __init__(self, options: Mapping[str, object]) -> None:
        """Check the options and the files of models that are here; weights are loaded by the first task.

        Raises:
            OptionsError: an option or a model's folder cannot be used, or a library is missing.
        """
        self._options = read_options(options)
        self.concurrency = self._options.slots
        self.stages = ("enhance", "chat") if self._options.enhances else ("chat",)
        names = [model.name for model in self._options.models]
        self.models = () if EVERY_MODEL in names else tuple(names)
        try:
            from . import loading
        except ImportError as error:
            raise OptionsError(
                f"The engine transformers needs libraries that are not installed ({error.name}): "
                "pip install 'atelier-media[transformers]'"
            ) from error
        self._loading = loading
        try:
            self._device = self._options.place.chosen_device()
            self._residency: Residency[Decoder] = Residency(
                memory_of(self._device),
                self._device,
                self._options.place.memory_limit_bytes,
                memory_wait_s=self._options.place.memory_wait_s,
            )
            self._files: dict[str, ChatFiles] = {}
            self._files_lock = threading.Lock()
            self._fetches: Fetches[Path] = Fetches()
            for model in self._options.models:
                if not self._options.download:
                    self._read(model, self._find(model))
        except EngineError as error:
            raise OptionsError(str(error)) from error

    def run(self, task: Task, context: Context) -> None:
        """Run one stage to its end; see `Engine.run`."""
        if task.stage == "enhance":
            files = self._ready(self._model(self._options.enhancer), context)
            enhance.run(task, context, files, self._residency, self._options)
        elif task.stage == "chat":
            files = self._ready(self._model(task.model), context)
            chat.run(task, context, files, self._residency, self._options)
        else:
            raise EngineError("This engine makes texts; pictures and videos are made by others.")

    def loaded(self) -> Sequence[LoadedModel]:
        """Return the models in memory."""
        return self._residency.loaded()

    def device_room(self) -> DeviceRoom | None:
        """Return what the device has free, once a task wanted a model."""
        return self._residency.device_room()

    def give_room(self, device: str, wanted_bytes: int) -> int:
        """Evict models that no task uses; return the bytes freed."""
        return self._residency.give_room(device, wanted_bytes)

    def _model(self, name: str) -> ModelOptions:
        for called in (name, EVERY_MODEL):
            for model in self._options.models:
                if model.name == called:
                    return model
        raise no_model(name, (model.name for model in self._options.models))

    def _ready(self, model: ModelOptions, context: Context) -> ChatFiles:
        """Return the small files of a model; one that is not here yet is fetched."""
        if model.name in self._files:
            return self._files[model.name]
        return self._read(model, self._fetches.wait(model.name, lambda: self._find(model), context))

    def _find(self, model: ModelOptions) -> Path:
        return self._loading.find(model.name, model.source, model.folder, download=self._options.download)

    def _read(self, model: ModelOptions, folder: Path) -> ChatFiles:
        """Return the small files of a model, read once; its weights can be asked for from then on."""
        with self._files_lock:
            if model.name not in self._files:
                files = self._loading.ChatFiles(model.name, folder, device=self._device, dtype=self._options.dtype)
                self._residency.register(
                    model.name, load=lambda: self._decoder(files), weights_bytes=files.weights_bytes
                )
                self._files[model.name] = files
            return self._files[model.name]

    def _decoder(self, files: ChatFiles) -> Decoder:
        from .decoder import Decoder
        from .steady import make_steady

        model = files.load()
        return Decoder(
            model,
            files.shape,
            device=self._device,
            slots=self._options.slots,
            memory_bytes=self._options.cache_bytes,
            steady=self._options.repeatable and make_steady(model),
        )
