"""LoRAs by name: put into a model's weights for a task, and taken out for the next one that wants others."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from atelier_worker.engine import EngineError, Lora
from atelier_worker.engines.diffusers_engine.models import Model
from atelier_worker.engines.diffusers_engine.settings import ModelSettings

_log = logging.getLogger(__name__)
# The weights of LoRAs and LoKrs, as trainers and libraries call them; what else is in a file are numbers beside them.
_WEIGHT = re.compile(r"lora[._](A|B|up|down|mid)\b|lokr_w")


def check_loras(loras: Sequence[Lora], settings: ModelSettings) -> None:
    """Refuse a name that the model's settings do not have, or one that is there twice.

    Raises:
        EngineError: a LoRA cannot be used.
    """
    for number, lora in enumerate(loras):
        if lora.name not in settings.loras:
            listed = ", ".join(sorted(settings.loras)) or "none"
            raise EngineError(f"There is no LoRA {lora.name!r} for this model on this worker; there are: {listed}.")
        if any(other.name == lora.name for other in loras[:number]):
            raise EngineError(f"The LoRA {lora.name!r} is named twice; name it once, with the weight that you want.")


def apply_loras(model: Model, loras: Sequence[Lora], warn: Callable[[str], None]) -> None:
    """Make a model be what a task wants: with exactly these LoRAs at their weights. The caller holds its lock.

    LoRAs stay in until a task wants others, so that a series of tasks with the same ones reads them once. `warn` is
    told which of them are in only in part.

    Raises:
        EngineError: a file is missing, or does not fit the model; the model is then without LoRAs.
    """
    wanted = tuple(sorted(lora.name for lora in loras))
    if wanted != model.adapters:
        _take_out(model)
        try:
            for name in wanted:
                _put_in(model, name)
        except BaseException:
            _take_out(model)
            raise
    if loras:
        # Always in the same order: what they add is added up, and another order rounds otherwise.
        ordered = sorted(loras, key=lambda lora: lora.name)
        model.pipeline.set_adapters([_adapter(lora.name) for lora in ordered], [lora.weight for lora in ordered])
    for name, (left_out, there) in sorted(model.misfits.items()):
        warn(
            f"{left_out} of the {there} weights of the LoRA {name!r} do not fit this model and were left out: was "
            "it made for another one?"
        )


def _put_in(model: Model, name: str) -> None:
    from safetensors import SafetensorError

    pipeline, path = model.pipeline, Path(model.settings.loras[name])
    unusable = EngineError(f"The LoRA {name!r} cannot be used with this model; the worker's log says why.")
    if not path.is_file():
        _log.error("lora_missing lora=%s path=%s", name, path)
        raise unusable
    # Before the attempt: what is half in must be taken out as well.
    model.adapters = tuple(sorted((*model.adapters, name)))
    try:
        pipeline.load_lora_weights(
            str(path.parent), weight_name=path.name, adapter_name=_adapter(name), use_safetensors=True,
            local_files_only=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, SafetensorError) as error:
        if "out of memory" in str(error).lower():
            raise
        _log.exception("lora_not_loaded lora=%s path=%s", name, path)
        raise unusable from error
    if not any(_adapter(name) in names for names in pipeline.get_list_adapters().values()):
        _log.error("lora_has_nothing_for_model lora=%s path=%s", name, path)
        raise unusable
    there, taken = _weights_in(path), _weights_of(pipeline, _adapter(name))
    if taken < there:
        _log.warning("lora_fits_in_part lora=%s left_out=%d of=%d", name, there - taken, there)
        model.misfits[name] = there - taken, there


def _weights_in(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        names = opened.keys()
    return sum(_WEIGHT.search(name) is not None for name in names)


def _weights_of(pipeline: Any, adapter: str) -> int:
    """How many weights an adapter has in all components: the libraries leave out, unsaid, what has no place there."""
    parts = (part for part in pipeline.components.values() if hasattr(part, "named_parameters"))
    names = (name for part in parts for name, _ in part.named_parameters())
    ends = (f".{adapter}", f".{adapter}.weight", f".{adapter}.bias")
    return sum(name.endswith(ends) and _WEIGHT.search(name) is not None for name in names)


def _take_out(model: Model) -> None:
    if model.adapters:
        model.pipeline.unload_lora_weights()
        model.adapters = ()
        model.misfits.clear()


def _adapter(name: str) -> str:
    """The name inside of the libraries, where dots part the names of modules."""
    return "lora_" + "".join(letter if letter.isalnum() else f"_{ord(letter):x}_" for letter in name)
