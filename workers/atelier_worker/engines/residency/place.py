"""Where an engine keeps its models, as its table says it: the same keys for every engine that holds some."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from atelier_worker.engine_options import Options
from atelier_worker.engines.residency.device_memory import whole_name
from atelier_worker.engines.residency.residency import MEMORY_WAIT_S

DTYPES = ("auto", "bfloat16", "float16", "float32")
"""What `dtype` takes. `auto` is what an engine's weights want: those of pictures and videos half precision on a GPU
(`diffusers_engine.models.effective_dtype`), those of conversations what they were saved as (`transformers_engine`)."""

_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Place:
    """A device and how much of it: `device` is `auto`, `cpu` or `cuda:N`; `memory_limit_bytes` is the most kept there.

    A task waits at most `memory_wait_s` for memory that somebody else holds.
    """

    device: str
    memory_limit_bytes: int | None
    memory_wait_s: float

    def chosen_device(self) -> str:
        """Return the device; of `auto`, the first GPU that torch sees, else the CPU."""
        if self.device != "auto":
            return whole_name(self.device)
        import torch

        return "cuda:0" if torch.cuda.is_available() else "cpu"


def read_place(options: Options) -> Place:
    """Read `device`, `memory_limit` and `memory_wait`.

    Raises:
        OptionsError: one of them cannot be used.
    """
    device = options.text("device", "auto")
    if not _DEVICE.fullmatch(device):
        raise options.wrong("device", f'takes "auto", "cpu" or "cuda:N", got {device[:60]!r}.')
    limit = options.size_bytes("memory_limit", None)
    return Place(device, limit, options.duration_s("memory_wait", MEMORY_WAIT_S))


def local_source(source: str) -> Path | None:
    """Return the path that a model's `source` names; None of an id of the hub (`owner/name`)."""
    try:
        path = Path(source).expanduser()
        return path if source.startswith((".", "/", "~")) or path.exists() else None
    except (OSError, RuntimeError):
        # No home of that name, or longer than any path: whoever opens it says so.
        return Path(source) if source.startswith((".", "/", "~")) else None
