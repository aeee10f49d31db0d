"""The engine of language models where its libraries are not installed, and its options."""

from __future__ import annotations

import importlib.util

import pytest

from atelier_worker.engine_options import OptionsError
from atelier_worker.engines.transformers_engine import TransformersEngine
from atelier_worker.engines.transformers_engine.options import read_options

MODELS = [{"name": "talk", "source": "some/model"}, {"name": "poet", "source": "/models/poet"}]


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="the libraries are installed")
def test_missing_libraries_are_named_with_how_to_get_them() -> None:
    with pytest.raises(OptionsError, match=r"not installed \(\w+\): pip install 'atelier-media\[transformers\]'"):
        TransformersEngine({"engine": "transformers", "models": MODELS})


def test_options_have_defaults() -> None:
    options = read_options({"engine": "transformers", "models": MODELS})

    assert (options.enhancer, options.enhances, options.slots, options.repeatable) == ("talk", True, 8, True)
    assert [model.folder is not None for model in options.models] == [False, True]
    assert not options.download


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"models": []}, "models is missing: add"),
        ({"models": [*MODELS, MODELS[0]]}, "models names talk twice"),
        ({"enhancer": "nobody"}, "enhancer is nobody, which is none of models: talk, poet"),
        ({"dtype": "int8"}, "dtype takes one of auto, bfloat16"),
        ({"device": "gpu"}, 'device takes "auto", "cpu" or "cuda:N", got \'gpu\''),
        ({"memory_limit": "much"}, "memory_limit takes a size such as 20GiB, got 'much'"),
        ({"enhances": ["sdxl"]}, "enhances takes true or false"),
        ({"slots": 0}, "slots takes a whole number from 1 to 64"),
        ({"temperatur": 1}, "temperatur is not known"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_by_name(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(OptionsError, match=sentence):
        read_options({"engine": "transformers", "name": "words", "models": MODELS, **given})
