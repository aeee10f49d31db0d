"""The scenes, by the name that the lexicon gives them."""

from __future__ import annotations

from .abstract import Abstract
from .alley import Alley
from .balloon import Balloon
from .base import Brief, Scene
from .bicycle import Bicycle
from .car import Car
from .castle import Castle
from .cat import Cat
from .dunes import Dunes
from .fish import Fish
from .forest import Forest
from .harbour import Harbour
from .heron import Heron
from .house import House
from .lighthouse import Lighthouse
from .market import Market
from .mountain import Mountain
from .ocean import Ocean
from .paperboats import PaperBoats
from .portrait import Portrait
from .railway import Railway
from .robot import Robot
from .room import Room
from .skyline import Skyline
from .space import Space
from .stilllife import StillLife
from .street import Street
from .sunflower import Sunflower
from .terraces import Terraces

SCENES: dict[str, type[Scene]] = {
    scene.name: scene
    for scene in (
        Abstract,
        Alley,
        Balloon,
        Bicycle,
        Car,
        Castle,
        Cat,
        Dunes,
        Fish,
        Forest,
        Harbour,
        Heron,
        House,
        Lighthouse,
        Market,
        Mountain,
        Ocean,
        PaperBoats,
        Portrait,
        Railway,
        Robot,
        Room,
        Skyline,
        Space,
        StillLife,
        Street,
        Sunflower,
        Terraces,
    )
}


def scene_for(brief: Brief, w: float, h: float) -> Scene:
    """The composed scene of a brief; `w` and `h` are its sides in units of the shorter one."""
    return SCENES.get(brief.reading.scene, Abstract)(brief, w, h)
