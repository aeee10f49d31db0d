"""An engine that cannot be found or made is refused with the remedy."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint, PathDistribution
from pathlib import Path

import pytest

from atelier_worker import engine_loader
from atelier_worker.engine import ENTRY_POINT_GROUP
from atelier_worker.engine_loader import EngineNotUsable, load_engine
from tests.docs.blocks import ROOT

NEEDY = """
import gpu_library_that_nobody_has.cuda
"""
STRICT = """
from atelier_worker.engine_options import Options

class Strict:
    name, concurrency = "strict", 1

    def __init__(self, options):
        given = Options(options, where="[[engine]] pictures")
        given.text("device", "auto")
        given.done()

    def run(self, task, context):
        pass
"""


OWN = """
class Own:
    name, concurrency = "own", 1

    def __init__(self, options):
        pass

    def run(self, task, context):
        pass

class WithoutOptions:
    name, concurrency = "own", 1

    def run(self, task, context):
        pass
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_engine.py").write_text(NEEDY)
    (tmp_path / "strict_engine.py").write_text(STRICT)
    (tmp_path / "own_engine.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))


def refusal(name: str, options: dict[str, object] | None = None) -> str:
    with pytest.raises(EngineNotUsable) as caught:
        load_engine(name, options or {})
    return str(caught.value)


def test_a_library_of_an_extra_is_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "atelier_media-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: atelier-media\nVersion: 1\nProvides-Extra: diffusers\n")
    (folder / "entry_points.txt").write_text("[atelier.engines]\ndiffusers = needy_engine:Engine\n")
    (entry,) = PathDistribution(folder).entry_points
    monkeypatch.setattr(engine_loader, "_entries", lambda: {"diffusers": entry})
    assert refusal("diffusers") == (
        "The engine 'diffusers' needs gpu_library_that_nobody_has, which is not installed: "
        "pip install 'atelier-media[diffusers]'."
    )


def test_a_library_of_an_engine_of_ones_own_is_named() -> None:
    assert refusal("needy_engine:Engine") == (
        "The engine 'needy_engine:Engine' needs the module gpu_library_that_nobody_has, which is not installed."
    )


def test_a_module_that_is_not_there() -> None:
    assert refusal("gradiant:GradientEngine") == (
        "There is no module 'gradiant' for the engine 'gradiant:GradientEngine': start the worker in its folder, or "
        "install it."
    )


def test_an_engine_that_nobody_installed() -> None:
    assert refusal("skech").startswith("There is no engine 'skech'. Installed: ")


def test_a_wrong_option_is_said_as_the_engine_says_it() -> None:
    assert load_engine("strict_engine:Strict", {"device": "cpu"}).name == "strict"
    sentence = "[[engine]] pictures: devise is not known. Did you mean device?"
    assert refusal("strict_engine:Strict", {"devise": "cpu"}) == sentence


def test_a_class_that_is_not_there_or_takes_no_options() -> None:
    assert refusal("own_engine:Owm") == "There is no 'Owm' in the module 'own_engine': an engine is named module:Class."
    assert refusal("own_engine:WithoutOptions") == (
        "The engine 'own_engine:WithoutOptions' cannot be made: it is given one argument, its options. "
        "Write `def __init__(self, options)`."
    )


@pytest.mark.parametrize(
    ("part", "said", "sentence"),
    [
        ("worker_types", "sdxl", "has worker_types = 'sdxl'; they are texts in a tuple, such as (\"sdxl\",)."),
        ("models", ["mine", 7], "has models = ['mine', 7]; they are texts in a tuple, such as (\"sdxl\",)."),
        ("stages", "generate", "has stages = 'generate'; they are texts in a tuple, such as (\"generate\",)."),
        (
            "stages",
            ("generate", "talk"),
            "has the stage 'talk', which nobody asks for; there are generate, enhance, chat.",
        ),
        ("concurrency", 0, "has concurrency = 0; it is a number from 1."),
        ("concurrency", "2", "has concurrency = '2'; it is a number from 1."),
    ],
)
def test_what_an_engine_says_wrongly_of_itself_is_refused(
    part: str, said: object, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_engine("own_engine:Own", {}).name == "own"
    monkeypatch.setattr(f"own_engine.Own.{part}", said, raising=False)
    assert refusal("own_engine:Own") == f"The engine 'own_engine:Own' {sentence}"


def test_the_entry_points_are_those_of_the_environment() -> None:
    assert isinstance(engine_loader._entries()["sketch"], EntryPoint)


def test_every_entry_point_is_an_engine_of_that_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    named = project["project"]["entry-points"][ENTRY_POINT_GROUP]
    assert {name: engine_loader._find_class(value).name for name, value in named.items()} == {
        name: name for name in named
    }
    assert named.keys() == {"comfyui", "diffusers", "openai", "sketch", "transformers"}
