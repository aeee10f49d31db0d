"""How noise is taken away, by the short names that jobs and settings use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from atelier_worker.engine import EngineError

_DPM = "DPMSolverMultistepScheduler"

SCHEDULERS: Mapping[str, tuple[str, Mapping[str, object]]] = MappingProxyType(
    {
        "ddim": ("DDIMScheduler", {}),
        "dpmpp_2m": (_DPM, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}),
        "dpmpp_2m_karras": (
            _DPM,
            {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
        ),
        "dpmpp_2m_sde": (_DPM, {"algorithm_type": "sde-dpmsolver++"}),
        "euler": ("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
        "euler_a": ("EulerAncestralDiscreteScheduler", {}),
        "euler_karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        "lcm": ("LCMScheduler", {}),
        "unipc": ("UniPCMultistepScheduler", {}),
    }
)
"""Short name → class of diffusers, and what its configuration differs in from the model's own."""


def check_scheduler(name: str) -> None:
    """Refuse a name that is not in the table; the empty name is the model's own scheduler.

    Raises:
        EngineError: there is no such scheduler.
    """
    if name and name not in SCHEDULERS:
        raise EngineError(f"scheduler {name!r} is not known; choose one of {', '.join(SCHEDULERS)}, or leave it out.")


def new_scheduler(name: str, own: Any) -> Any:
    """A scheduler for one task, configured like the model's `own`, which is never stepped itself."""
    import diffusers

    if not name:
        return type(own).from_config(own.config)
    kind, differs = SCHEDULERS[name]
    return getattr(diffusers, kind).from_config(own.config, **differs)
