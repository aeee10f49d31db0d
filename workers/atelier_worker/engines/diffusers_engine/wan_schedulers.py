"""How noise is taken away from videos: the schedulers that know the flow that Wan was trained with, by name."""

from __future__ import annotations

from typing import Any

from atelier_worker.engine import EngineError

NAMES = ("unipc", "euler", "dpmpp_2m")
_DEFAULT_SHIFT = 3.0


def scheduler_for(pipeline: Any, name: str, flow_shift: float | None) -> Any:
    """A scheduler without state of earlier videos: the pipeline's own kind, or the named one.

    `flow_shift` moves the steps towards the noise, the more the larger the video; None is what the weights say.

    Raises:
        EngineError: no scheduler for videos has that name.
    """
    own = pipeline.scheduler
    shift = flow_shift or own.config.get("flow_shift") or own.config.get("shift") or _DEFAULT_SHIFT
    if not name:
        # The multistep schedulers call it flow_shift, the one of flow matching shift; unknown names are left aside.
        changed = {} if flow_shift is None else {"flow_shift": shift, "shift": shift}
        return type(own).from_config(own.config, **{key: changed[key] for key in changed if key in own.config})
    if name not in NAMES:
        raise EngineError(f"This model has no scheduler {name}: choose one of {', '.join(NAMES)}.")
    import diffusers

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    match name:
        case "unipc":
            return diffusers.UniPCMultistepScheduler(**flow)
        case "dpmpp_2m":
            return diffusers.DPMSolverMultistepScheduler(**flow)
        case _:
            return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
