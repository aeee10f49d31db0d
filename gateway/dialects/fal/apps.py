"""Apps of fal: the id in a path, and the model that it means.

`fal-ai/fast-sdxl/image-to-image` is the app `fal-ai/fast-sdxl`, used to make pictures of pictures. Its model is the one
whose name or alias is the whole id, or else its last part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atelier.router.v1 import job_pb2, model_pb2
from atelier.type.v1 import generation_pb2
from gateway.dialects.naming import find_model
from service_kit.errors import ErrorReason, InvalidArgument, NotFound

NAMESPACES = ("workflows", "comfy")
REQUESTS = "requests"
_IMAGE, _VIDEO = generation_pb2.FORMAT_IMAGE, generation_pb2.FORMAT_VIDEO


@dataclass(frozen=True, slots=True)
class Task:
    """What the last part of a path may ask for."""

    format: generation_pb2.Format.ValueType
    needs_picture: bool


TASKS = {
    "text-to-image": Task(_IMAGE, needs_picture=False),
    "image-to-image": Task(_IMAGE, needs_picture=True),
    "inpainting": Task(_IMAGE, needs_picture=True),
    "text-to-video": Task(_VIDEO, needs_picture=False),
    "image-to-video": Task(_VIDEO, needs_picture=True),
}


@dataclass(frozen=True, slots=True)
class App:
    """What a path names."""

    base: str
    """Owner and app, with the namespace if there is one: follow-up addresses have no more of the path."""
    names: tuple[str, ...]
    """What the model may be called, the best first."""
    task: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model that makes what an app is asked for. `format` is none for a model that writes text."""

    model: str
    format: generation_pb2.Format.ValueType | None


def parse_app(path: str) -> App:
    """Return the app that a path names. Raises NotFound for a path that can be none."""
    parts = path.strip("/").split("/")
    size = 3 if parts[0] in NAMESPACES else 2
    if len(parts) < size or not all(parts) or REQUESTS in parts:
        raise NotFound(f"{path[:200]} is no app: send <owner>/<app>[/<task>].", ErrorReason.UNKNOWN_ROUTE)
    base, rest = parts[:size], parts[size:]
    task = rest.pop() if rest and rest[-1] in TASKS else ""
    whole = "/".join([*base, *rest])
    return App("/".join(base), (whole, (rest or base)[-1]), task)


def choose(app: App, rows: Sequence[model_pb2.Model]) -> Chosen:
    """Return what makes the outputs of an app.

    Raises:
        NotFound: no model has its name.
        InvalidArgument: the model does not do what the path asks for.
    """
    found = find_model(rows, app.names)
    if found is None:
        said = " or ".join(repr(name[:100]) for name in app.names)
        raise NotFound(f"There is no app {app.names[0][:100]}: no model is called {said}.", ErrorReason.UNKNOWN_MODEL)
    name, row = found
    if row.stage == job_pb2.STAGE_KIND_CHAT:
        if app.task:
            raise InvalidArgument(f"{name} writes text: it does not do {app.task}.")
        return Chosen(name, None)
    if not app.task:
        return Chosen(name, row.formats[0])
    wanted = TASKS[app.task].format
    if wanted not in row.formats:
        raise InvalidArgument(f"{name} does not do {app.task}.")
    return Chosen(name, wanted)
