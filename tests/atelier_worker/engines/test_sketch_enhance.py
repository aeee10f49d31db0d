"""What the enhancement promises: the prompt's words kept, 15 to 60 added that fit and repeat nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from atelier_worker.engine import Cancelled, EngineError
from atelier_worker.engines.sketch import SketchEngine, enhance, vocabulary
from atelier_worker.engines.sketch.language import is_english
from atelier_worker.engines.sketch.lexicon import SCENES
from atelier_worker.engines.sketch.reading import read, words_of
from tests.atelier_worker.engines.listener import ENHANCE, Listener

PROMPTS = (
    "cat on a roof",
    "harbour at night",
    "a lighthouse on a basalt cliff in a storm, long exposure, teal and slate",
    "a red bicycle leaning on a whitewashed wall, noon light",
    "studies of a heron taking off, charcoal on toned paper",
    "portrait of an old clockmaker in his workshop, rim light, 85mm",
    "paper boats drifting down a gutter in spring rain, close to the water",
    "An intricate ink and watercolour illustration of a travelling library housed in a converted railway carriage "
    "standing on an abandoned viaduct, its windows lit from inside, shelves of mismatched books visible behind lace "
    "curtains, a cat asleep on the step, autumn ivy climbing over the wheels, distant mountains under a lemon sky.",
    "something without a name",
)


def added(prompt: str, seed: int) -> str:
    text = enhance.enhanced(prompt, seed)
    assert text.startswith(prompt)
    return text[len(prompt) :]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_fifteen_to_sixty_words_come_after_the_prompts_own_and_repeat_none(prompt: str) -> None:
    said = {enhance.stem(word) for word in words_of(prompt)}
    for seed in range(30):
        words = words_of(added(prompt, seed))
        assert 15 <= len(words) <= 60, (seed, words)
        content = [enhance.stem(word) for word in words if word not in enhance.GRAMMAR]
        assert not said & set(content), (seed, said & set(content))
        assert [word for word, times in Counter(content).items() if times > 1] == [], seed


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_richer_prompt_still_means_the_same_picture(prompt: str) -> None:
    before = read(prompt)
    for seed in range(10):
        after = read(enhance.enhanced(prompt, seed))
        assert (after.scene, after.hour, after.weathers) == (before.scene, before.hour, before.weathers)
        if before.hues:
            assert after.hues == before.hues


def test_it_speaks_of_composition_light_palette_medium_and_a_detail() -> None:
    text = added("cat on a roof", 3).lower()
    for table in (vocabulary.COMPOSITION, vocabulary.LIGHT, vocabulary.PALETTE, vocabulary.MEDIUM, vocabulary.DETAIL):
        assert any(phrase in text for phrases in table.values() for phrase in phrases)


def test_a_medium_that_the_prompt_names_is_described_and_not_replaced() -> None:
    for seed in range(12):
        text = added("studies of a heron taking off, charcoal on toned paper", seed).lower()
        assert any(phrase in text for phrase in vocabulary.TECHNIQUE["charcoal"])
        assert not any(phrase in text for phrases in vocabulary.MEDIUM.values() for phrase in phrases)


def test_seeds_and_subjects_get_texts_of_their_own() -> None:
    assert len({added("cat on a roof", seed) for seed in range(20)}) >= 18
    assert added("cat on a roof", 5) == added("cat on a roof", 5)
    assert len({added(f"a {subject}", 1) for subject in ("castle", "robot", "forest", "teapot", "tram")}) == 5
    joints = {"." in added("a castle", seed)[:1] for seed in range(20)}
    assert joints == {True, False}, "the grammar varies"


def test_every_scene_has_phrases_and_no_phrase_repeats_itself() -> None:
    scenes = {scene for entries in SCENES.values() for scene, _ in entries}
    assert scenes <= set(vocabulary.FAMILIES)
    assert scenes <= set(vocabulary.DETAIL)
    tables = (vocabulary.COMPOSITION, vocabulary.LIGHT, vocabulary.PALETTE, vocabulary.MEDIUM, vocabulary.TECHNIQUE)
    phrases = [phrase for table in (*tables, vocabulary.DETAIL) for pool in table.values() for phrase in pool]
    for phrase in phrases:
        content = [enhance.stem(word) for word in words_of(phrase) if word not in enhance.GRAMMAR]
        assert len(set(content)) == len(content), phrase


@pytest.mark.parametrize(
    "prompt",
    (
        "雨の夜の横丁、提灯の明かりと水たまりの反射 — café “Zoë”, naïve style, 🌧️",
        "سوق قديم عند الغروب، أقمشة ملوّنة وضوء ذهبي",
        "un phare dans la tempête",
        "un gato en un tejado",
        "Leuchtturm im Sturm",
        "kočka na střeše",
        "🌧️",
    ),
)
def test_a_language_that_it_cannot_write_comes_back_unchanged_with_a_warning(prompt: str, tmp_path: Path) -> None:
    heard = Listener(tmp_path)
    SketchEngine({"step_delay": "0"}).run(replace(ENHANCE, prompt=prompt), heard)
    assert "".join(heard.text) == prompt
    assert len(heard.warnings) == 1
    assert "English" in heard.warnings[0]


@pytest.mark.parametrize("prompt", (*PROMPTS, "café terrace at night", "portrait of Vincent van Gogh", "dragon"))
def test_english_is_known_for_english(prompt: str) -> None:
    assert is_english(prompt)


def test_the_text_streams_word_by_word_with_progress(tmp_path: Path) -> None:
    heard = Listener(tmp_path)
    SketchEngine({"step_delay": "0"}).run(replace(ENHANCE, prompt="cat on a roof"), heard)
    assert "".join(heard.text) == enhance.enhanced("cat on a roof", ENHANCE.seed)
    assert all(len(delta.split()) == 1 for delta in heard.text)
    assert heard.steps == [(None, step, 12) for step in range(1, 13)]
    assert heard.warnings == []


def test_a_cancelled_enhancement_ends_at_the_next_word(tmp_path: Path) -> None:
    heard = Listener(tmp_path, cancel_when=lambda listener: len(listener.text) >= 6)
    with pytest.raises(Cancelled):
        SketchEngine({"step_delay": "0"}).run(replace(ENHANCE, prompt="cat on a roof"), heard)
    assert len(heard.text) == 6


def test_a_prompt_keeps_its_own_spacing_and_full_stop() -> None:
    assert "".join(enhance.tokens_of("  two  spaces \n")) == "  two  spaces \n"
    assert added("A cat sleeps on the roof.", 4)[:2].strip().isupper()


def test_a_blank_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="blank"):
        SketchEngine({"step_delay": "0"}).run(replace(ENHANCE, prompt=" "), Listener(tmp_path))
