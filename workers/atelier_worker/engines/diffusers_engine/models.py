"""Models in memory: from a folder to a pipeline on a device."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from atelier_worker.engine import EngineError
from atelier_worker.engines.diffusers_engine.settings import ModelSettings
from atelier_worker.engines.diffusers_engine.weights import Weights
from atelier_worker.engines.residency import is_out_of_memory, tell_part
from atelier_worker.engines.residency.out_of_memory import asks_for_more
from atelier_worker.weight_files import DTYPE_BYTES

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Model:
    """A model in memory. `pipeline` is the one that the folder names, with all its components on `device`.

    Tasks make pipelines of their own from its components and never step its scheduler; one task at a time holds `lock`.
    `adapters` are the names of the LoRAs that are in it now, `misfits` of those which are in only in part: how many
    weights had no place, and of how many. `styled` tells whether its IP-Adapter is in.
    """

    settings: ModelSettings
    weights: Weights
    pipeline: Any
    device: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    adapters: tuple[str, ...] = ()
    misfits: dict[str, tuple[int, int]] = field(default_factory=dict)
    styled: bool = False
    controlnet: Any = None


class Use(Protocol):
    """Holds the model of a task, with so many bytes of memory beside its weights; see `Residency.use`."""

    def __call__(self, working_bytes: int) -> AbstractContextManager[Model]: ...


def effective_dtype(dtype: str, device: str) -> str:
    """The type of numbers that `auto` stands for: `bfloat16` on a GPU, `float32` on the CPU."""
    if dtype != "auto":
        return dtype
    return "float32" if device == "cpu" else "bfloat16"


def dtypes_of(weights: Weights, dtype: str) -> Mapping[str, str]:
    """The type of each component's numbers. The decoder of Wan has lines in half precision, so it stays whole."""
    whole = ("vae",) if weights.family == "wan" else ()
    return {name: "float32" if name in whole else dtype for name in weights.elements}


def weights_bytes(weights: Weights, dtype: str, *, offload: bool) -> int:
    """What the weights take on the device; with `offload` that is the largest component."""
    sizes = [weights.elements[name] * DTYPE_BYTES[kind] for name, kind in dtypes_of(weights, dtype).items()]
    return (max(sizes, default=0) if offload else sum(sizes)) + weights.beside * DTYPE_BYTES[dtype]


def load(settings: ModelSettings, weights: Weights, device: str) -> Model:
    """Load a model onto `device` (`cpu`, `cuda:0`).

    Raises:
        EngineError: the weights cannot be loaded; why is in the worker's log.
    """
    import diffusers
    import torch

    _quieten()
    dtype = effective_dtype(settings.dtype, device)
    kinds = {name: getattr(torch, kind) for name, kind in dtypes_of(weights, dtype).items()}
    tell_part(0, 2)
    try:
        kind = getattr(diffusers, weights.pipeline)
        if weights.file is not None:
            pipeline = kind.from_single_file(
                str(weights.file),
                config=str(weights.folder),
                dtype=getattr(torch, dtype),
                local_files_only=True,
            )
        else:
            pipeline = kind.from_pretrained(
                weights.folder,
                dtype=kinds | {"default": getattr(torch, dtype)},
                variant=settings.variant,
                use_safetensors=True,
                local_files_only=True,
            )
    except Exception as error:  # whatever the libraries make of files that are not what they should be
        if is_out_of_memory(error) and not asks_for_more(error, weights_bytes(weights, "float32", offload=False)):
            raise
        raise _cannot_load(settings, error) from error
    _check_whole(settings, weights, pipeline)
    tell_part(1, 2)
    pipeline.set_progress_bar_config(disable=True)
    place(pipeline, settings, device)
    return Model(settings, weights, pipeline, device)


def _check_whole(settings: ModelSettings, weights: Weights, pipeline: Any) -> None:
    """Refuse components with more numbers than their files: the libraries fill up what is missing at random."""
    for name, elements in weights.elements.items():
        there = sum(values.numel() for values in getattr(pipeline, name).parameters()) if weights.file is None else 0
        if there > elements:
            _log.error("model_incomplete model=%s part=%s has=%d needs=%d", settings.name, name, elements, there)
            raise EngineError(
                f"The weights of the model {settings.name} are incomplete: its {name} needs {there} numbers, and its "
                f"files have {elements}. Download the model again."
            )


def _quieten() -> None:
    """Keep the libraries' bars and hints out of the worker's log; what they raise is said in sentences."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def place(pipeline: Any, settings: ModelSettings, device: str) -> None:
    """Put a pipeline where its settings want it: on the device, or in the main memory until a component is needed."""
    if settings.offload and device != "cpu":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)


@contextmanager
def offloaded(model: Model, wanted: bool) -> Iterator[None]:
    """Keep a model's weights in the main memory while this lasts, each on the device only while it works."""
    if not wanted or model.settings.offload or model.device == "cpu":
        yield
        return
    model.pipeline.enable_model_cpu_offload(device=model.device)
    try:
        yield
    finally:
        model.pipeline.remove_all_hooks()
        model.pipeline.to(model.device)


def _cannot_load(settings: ModelSettings, error: Exception) -> EngineError:
    _log.error("model_not_loaded model=%s error=%s", settings.name, error)
    return EngineError(
        f"The weights of the model {settings.name} cannot be loaded ({type(error).__name__}); "
        "the operator of the worker finds why in its log."
    )
