"""The scenes, by the name that the lexicon gives them."""

from __future__ import annotations

from .base import Brief, Scene
from .bicycle import Bicycle
from .dunes import Dunes
from .heron import Heron
from .lighthouse import Lighthouse
from .mountain import Mountain
from .portrait import Portrait
from .room import Room
from .street import Street
from .terraces import Terraces

_SCENES: dict[str, type[Scene]] = {
    scene.name: scene
    for scene in (Bicycle, Dunes, Heron, Lighthouse, Mountain, Portrait, Room, Street, Terraces)
}


def scene_for(brief: Brief, w: float, h: float) -> Scene:
    """The composed scene of a brief; `w` and `h` are its sides in units of the shorter one."""
    return _SCENES.get(brief.reading.scene, Mountain)(brief, w, h)
