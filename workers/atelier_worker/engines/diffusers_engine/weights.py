"""Finds the weights of a model on this machine and looks at them without loading: folder, kind, sizes, what is broken.

Only safetensors are taken: other formats can run code while they are read. Needs no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from atelier_worker.engine_options import OptionsError
from atelier_worker.engines.diffusers_engine.schedulers import SCHEDULERS
from atelier_worker.engines.diffusers_engine.settings import IpAdapter, ModelSettings
from atelier_worker.engines.diffusers_engine.wan_schedulers import NAMES as VIDEO_SCHEDULERS
from atelier_worker.engines.residency import local_source
from atelier_worker.weight_files import BrokenFile, can_run_code, check_configs, elements_in, named_in

PIPELINES: Mapping[str, str] = MappingProxyType(
    {
        "StableDiffusionXLPipeline": "sdxl",
        "StableDiffusionXLImg2ImgPipeline": "sdxl",
        "StableDiffusionXLInpaintPipeline": "sdxl",
        "WanPipeline": "wan",
        "WanImageToVideoPipeline": "wan",
    }
)
"""The classes of pipelines that the engine runs → their family."""

_MOST_TIMESTEPS = 100_000
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_EXAMPLES = {"sdxl": "stabilityai/stable-diffusion-xl-base-1.0", "wan": "Wan-AI/Wan2.2-TI2V-5B-Diffusers"}
_WITHOUT_WEIGHTS = (
    "Tokenizer",
    "TokenizerFast",
    "Scheduler",
    "Processor",
    "ProcessorFast",
    "ProcessorPil",
    "FeatureExtractor",
)


class WeightsError(OptionsError):
    """The weights are missing or cannot be used; the message is for the operator and may name folders."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What was found in a folder: the class of the pipeline, its family, and the elements of each component.

    `file` is a checkpoint that has all of them; `folder` then only has the configuration. `beside` are the elements of
    what the settings add to it: an IP-Adapter, a ControlNet.
    """

    folder: Path
    pipeline: str
    family: str
    elements: Mapping[str, int]
    beside: int = 0
    file: Path | None = None


def find(settings: ModelSettings) -> Weights | None:
    """Find the weights of a model; None when they are in no cache yet and may be downloaded.

    Raises:
        WeightsError: they are missing, in another format, cut off, or of a pipeline that is not known.
    """
    folder = local_source(settings.source)
    if folder is not None:
        if folder.suffix == ".safetensors" and folder.is_file():
            return _look_at_file(folder, settings)
        if can_run_code(folder) and folder.is_file():
            raise WeightsError(
                f"model {settings.name}: {folder.name} is of a format that can run code while it is read; name a "
                "folder, or a file, with safetensors."
            )
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            raise WeightsError(
                f"model {settings.name}: the folder {folder} {what}; get the weights with "
                f"`hf download {_EXAMPLES.get(settings.name, 'OWNER/NAME')} --local-dir {folder}`."
            )
        return look(folder, settings)
    if not _HUB_ID.fullmatch(settings.source):
        raise WeightsError(
            f"model {settings.name}: source {settings.source!r} is neither a folder of this machine nor OWNER/NAME."
        )
    cached = _from_hub(settings, local_only=True)
    if cached is None and not settings.download:
        raise WeightsError(
            f"model {settings.name}: the weights of {settings.source} are not on this machine; get them with "
            f"`hf download {settings.source}`, or say download = true."
        )
    return None if cached is None else look(cached, settings)


def download(settings: ModelSettings) -> Weights:
    """Download the weights of a model into the local cache of the hub, and look at them.

    Raises:
        WeightsError: they cannot be downloaded, or what was downloaded cannot be used.
    """
    folder = _from_hub(settings, local_only=False)
    if folder is None:
        raise WeightsError(f"model {settings.name}: {settings.source} cannot be downloaded.")
    return look(folder, settings)


def _from_hub(settings: ModelSettings, *, local_only: bool) -> Path | None:
    """The folder of a repository in the local cache; None when it is not there and is not to be downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    weights = "*.safetensors" if settings.variant is None else f"*.{settings.variant}*.safetensors"
    try:
        folder = snapshot_download(
            settings.source,
            revision=settings.revision,
            local_files_only=local_only,
            allow_patterns=["*.json", "*.txt", "*.model", weights],
        )
    except Exception as error:  # whatever the network and the hub can answer
        if local_only and isinstance(error, LocalEntryNotFoundError):
            return None
        raise WeightsError(f"model {settings.name}: {settings.source} cannot be downloaded: {error}") from error
    return Path(folder)


def look(folder: Path, settings: ModelSettings) -> Weights:
    """Look at a folder as diffusers saves them.

    Raises:
        WeightsError: it is none, or something in it is missing, broken or not known.
    """
    index = _index(folder, settings)
    pipeline = str(index.get("_class_name"))
    if pipeline not in PIPELINES:
        raise WeightsError(
            f"model {settings.name}: {folder} holds a {pipeline}; this engine runs {', '.join(PIPELINES)}."
        )
    parts = {
        name: str(kind[1]) for name, kind in index.items() if isinstance(kind, list) and len(kind) == 2 and kind[1]
    }
    _check_scheduler(folder / "scheduler" / "scheduler_config.json", settings)
    for name, kind in parts.items():
        _check_part(folder / name, settings, may_be_missing=not kind.endswith(_WITHOUT_WEIGHTS))
    elements = {
        name: _elements(folder / name, settings) for name, kind in parts.items() if not kind.endswith(_WITHOUT_WEIGHTS)
    }
    family = PIPELINES[pipeline]
    _check_settings(family, settings)
    return Weights(folder, pipeline, family, MappingProxyType(elements), _beside(settings))


def _check_scheduler(file: Path, settings: ModelSettings) -> None:
    """Refuse a scheduler that was trained with no steps: it fails in the midst of a job, with numbers of its own."""
    try:
        read = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"model {settings.name}: {file} cannot be read; download it again. ({error})") from error
    count = read.get("num_train_timesteps", 1) if isinstance(read, dict) else None
    if type(count) is not int or not 1 <= count <= _MOST_TIMESTEPS:
        raise WeightsError(
            f"model {settings.name}: {file} must have num_train_timesteps from 1 to {_MOST_TIMESTEPS}, got "
            f"{count!r:.40}; download it again."
        )


def _look_at_file(file: Path, settings: ModelSettings) -> Weights:
    """Look at a checkpoint in one file, and at the folder with its configuration."""
    if settings.config is None:
        raise WeightsError(
            f"model {settings.name}: {file.name} has weights but no configuration; get it with `hf download "
            f"{_EXAMPLES['sdxl']} --include '*.json' '*.txt' --local-dir sdxl`, and say config = \"sdxl\"."
        )
    folder = Path(settings.config).expanduser()
    pipeline = str(_index(folder, settings).get("_class_name"))
    if PIPELINES.get(pipeline) != "sdxl":
        raise WeightsError(
            f"model {settings.name}: {folder} configures a {pipeline}; checkpoints in one file are read of SDXL only."
        )
    _check_settings("sdxl", settings)
    _check_scheduler(folder / "scheduler" / "scheduler_config.json", settings)
    elements = MappingProxyType({"checkpoint": _elements_in(file, settings)})
    return Weights(folder, pipeline, "sdxl", elements, _beside(settings), file)


def _check_settings(family: str, settings: ModelSettings) -> None:
    """Refuse settings that are for another family."""
    names = SCHEDULERS if family == "sdxl" else VIDEO_SCHEDULERS
    if settings.scheduler and settings.scheduler not in names:
        raise WeightsError(
            f"model {settings.name}: scheduler {settings.scheduler!r} is not known; choose one of {', '.join(names)}."
        )
    if family == "sdxl" and settings.flow_shift is not None:
        raise WeightsError(f"model {settings.name}: flow_shift is for videos; leave it out.")
    if family != "sdxl" and (settings.ip_adapter or settings.controlnet):
        raise WeightsError(f"model {settings.name}: ip_adapter and controlnet are for pictures; leave them out.")


def adapter_file(settings: IpAdapter) -> Path:
    """The file of an IP-Adapter: the one that is named, or the only one in its folder; it may not be there."""
    folder = Path(settings.source).expanduser()
    found = sorted(folder.glob("*.safetensors"))
    return folder / (settings.weights or (found[0].name if len(found) == 1 else "ip-adapter.safetensors"))


def _beside(settings: ModelSettings) -> int:
    """The elements of what is added to a model; its LoRAs are only looked at: they are small."""
    total = 0
    for name, path in settings.loras.items():
        _there(Path(path), f"the LoRA {name}", settings)
        _elements_in(Path(path), settings)
    if settings.ip_adapter is not None:
        file = adapter_file(settings.ip_adapter)
        _there(file, "the ip_adapter", settings)
        total += _elements_in(file, settings) + _elements(file.parent / "image_encoder", settings)
    if settings.controlnet is not None:
        folder = Path(settings.controlnet.source).expanduser()
        _there(folder / "config.json", "the controlnet", settings)
        total += _elements(folder, settings)
    return total


def _there(path: Path, what: str, settings: ModelSettings) -> None:
    if not path.is_file():
        raise WeightsError(f"model {settings.name}: {what} is not there: {path} does not exist.")


def _index(folder: Path, settings: ModelSettings) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.is_file():
        inner = sorted(found.parent for found in folder.glob("*/model_index.json"))
        remedy = f"did you mean {inner[0]}?" if inner else "give the folder that save_pretrained of diffusers wrote."
        raise WeightsError(
            f"model {settings.name}: {folder} is no folder of a pipeline (it has no model_index.json); {remedy}"
        )
    try:
        index = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"model {settings.name}: {path} cannot be read; download it again. ({error})") from error
    if not isinstance(index, dict):
        raise WeightsError(f"model {settings.name}: {path} is not what diffusers writes; download it again.")
    return index


def _check_part(folder: Path, settings: ModelSettings, *, may_be_missing: bool) -> None:
    """Look at what of a part is read before its weights.

    A tokenizer that is not there is made anew by the libraries, empty, and fails in the midst of a job.
    """
    if not may_be_missing and not (folder.is_dir() and any(folder.iterdir())):
        raise WeightsError(f"model {settings.name}: {folder} is not there or empty; download the model again.")
    try:
        check_configs(folder)
    except (BrokenFile, OSError) as error:
        raise WeightsError(f"model {settings.name}: {error}; download it again.") from error


def _elements(folder: Path, settings: ModelSettings) -> int:
    """How many numbers the weights of one component are."""
    files = _weight_files(folder, settings)
    if not files:
        others = sorted(path.name for path in folder.glob("*") if can_run_code(path))
        if others:
            raise WeightsError(
                f"model {settings.name}: {folder} has {others[0]} but no safetensors, and other formats can run code "
                "while they are read; download the safetensors."
            )
        kind = f" of the variant {settings.variant}" if settings.variant else ""
        raise WeightsError(
            f"model {settings.name}: {folder} has no weights{kind} (*.safetensors); download the model again."
        )
    return sum(_elements_in(path, settings) for path in files)


def _weight_files(folder: Path, settings: ModelSettings) -> list[Path]:
    """The files that are loaded of a component: those of the variant where there are some, else those of none."""
    plain = [path for path in sorted(folder.glob("*.safetensors")) if not _variant_of(path)]
    found = [path for path in sorted(folder.glob("*.safetensors")) if _variant_of(path) == settings.variant]
    for index in folder.glob("*.safetensors.index.json"):
        for name in _named_in(index, settings):
            if not (folder / name).is_file() and _variant_of(folder / name) == settings.variant:
                raise WeightsError(f"model {settings.name}: {folder / name} is missing; download the model again.")
    return found or plain


def _named_in(index: Path, settings: ModelSettings) -> set[str]:
    """The files that an index names."""
    try:
        return named_in(index)
    except BrokenFile as error:
        raise WeightsError(f"model {settings.name}: {error}; download it again.") from error


def _variant_of(path: Path) -> str | None:
    """`fp16` of `model.fp16.safetensors` and `model.fp16-00001-of-00002.safetensors`; None of `model.safetensors`."""
    match = re.fullmatch(r"[^.]+\.([^.]+?)(-\d+-of-\d+)?\.safetensors", path.name)
    return match[1] if match else None


def _elements_in(path: Path, settings: ModelSettings) -> int:
    """How many numbers the weights in a file are."""
    try:
        return elements_in(path)
    except BrokenFile as error:
        raise WeightsError(f"model {settings.name}: {error}; download it again.") from error
