"""Models in memory, and what every engine with a model of its own needs: admission, previews, failures of memory.

Nothing here imports torch by itself, so that it can be read and tested without.
"""

from __future__ import annotations

from atelier_worker.engines.residency.device_memory import DeviceMemory, free_unused, memory_of
from atelier_worker.engines.residency.errors import NotEnoughMemory
from atelier_worker.engines.residency.estimates import (
    image_working_bytes,
    video_working_bytes,
    weights_bytes_of,
)
from atelier_worker.engines.residency.out_of_memory import (
    Attempt,
    is_out_of_memory,
    let_go,
    survive_out_of_memory,
)
from atelier_worker.engines.residency.pictures import check_finite, check_picture
from atelier_worker.engines.residency.place import DTYPES, Place, local_source, read_place
from atelier_worker.engines.residency.previews import PreviewClock, latent_preview, show_previews
from atelier_worker.engines.residency.residency import MEMORY_WAIT_S, Residency, tell_part
from service_kit.units import sized

__all__ = [
    "DTYPES",
    "MEMORY_WAIT_S",
    "Attempt",
    "DeviceMemory",
    "NotEnoughMemory",
    "Place",
    "PreviewClock",
    "Residency",
    "check_finite",
    "check_picture",
    "free_unused",
    "image_working_bytes",
    "is_out_of_memory",
    "latent_preview",
    "let_go",
    "local_source",
    "memory_of",
    "read_place",
    "show_previews",
    "sized",
    "survive_out_of_memory",
    "tell_part",
    "video_working_bytes",
    "weights_bytes_of",
]
