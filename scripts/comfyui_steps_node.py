"""A node for ComfyUI that takes steps with previews and needs no weights: for recording what it says meanwhile.

Copy it into `custom_nodes` of the ComfyUI that `scripts/record_comfyui.py` talks to. It sends its progress through the
same hook as a sampler does.
"""

from __future__ import annotations

import time
from typing import Any


class AtelierSteps:
    """Hands on its pictures after `steps` steps of `milliseconds` each, with a preview at every step."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "atelier"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Say what it takes."""
        return {
            "required": {
                "image": ("IMAGE",),
                "seed": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF}),
                "steps": ("INT", {"default": 4, "min": 1, "max": 1000}),
                "milliseconds": ("INT", {"default": 10, "min": 0, "max": 10000}),
            }
        }

    def run(self, image: Any, seed: int, steps: int, milliseconds: int) -> tuple[Any]:
        """Take the steps."""
        from comfy.utils import ProgressBar
        from PIL import Image

        bar = ProgressBar(steps)
        for step in range(1, steps + 1):
            time.sleep(milliseconds / 1000)
            shade = (255 * step // steps, seed % 256, 0)
            bar.update_absolute(step, steps, ("JPEG", Image.new("RGB", (64, 64), shade), 512))
        return (image,)


NODE_CLASS_MAPPINGS = {"AtelierSteps": AtelierSteps}
