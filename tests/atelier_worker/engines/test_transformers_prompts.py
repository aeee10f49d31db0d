"""What is kept of what a language model makes of a prompt: no wrapping, no more than the budget, nothing taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier_worker.engines.transformers_engine.budget import Budget, tokens_of
from atelier_worker.engines.transformers_engine.cleaning import Cleaner
from atelier_worker.engines.transformers_engine.templates import TEMPLATES, template_for

PROMPT = "A red fox in fresh snow, low morning light, long blue shadows. Shot on 35mm film."


def cleaned(text: str, size: int) -> str:
    cleaner = Cleaner()
    pieces = [cleaner.feed(text[at : at + size]) for at in range(0, len(text), size)]
    return "".join(pieces) + cleaner.end()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    "text",
    [
        PROMPT,
        f'"{PROMPT}"',
        f"“{PROMPT}”\n",
        f"\n\n  {PROMPT}  \n",
        f"Here is the enhanced prompt:\n\n{PROMPT}",
        f"Here's a more detailed version of your prompt: {PROMPT}",
        f'Sure! Here is an enhanced prompt for you:\n\n"{PROMPT}"\n\nI hope this helps!',
        f"Certainly, here's the rewritten prompt:\n{PROMPT}",
        f"Okay.\n{PROMPT}",
        f"**Enhanced Prompt:** {PROMPT}",
        f"**{PROMPT}**",
        f"Prompt: {PROMPT}",
        f"### Improved prompt:\n{PROMPT}\n\nThis version adds light and a medium.",
        PROMPT.replace("snow, low", "snow,\nlow"),
        f"`{PROMPT}`",
    ],
)
def test_what_is_wrapped_around_a_prompt_is_taken_off(text: str, size: int) -> None:
    assert cleaned(text, size) == PROMPT


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    "text",
    [
        'A neon sign that says "open: all night", rain on the street.',
        '"Open" in red letters on a wall, "closed" below it.',
        "Great waves at night: foam, a small boat, woodcut.",
        "Here a fox sits in the snow: red on white.",
        "Prompt delivery of parcels by a courier on a bicycle.",
        "Sure-footed goats on a cliff.",
        "Okay",
        "A fox's den, the vixen's cubs.",
        "'Tis the season, lanterns in a garden.",
    ],
)
def test_a_prompt_is_left_as_it_is(text: str, size: int) -> None:
    assert cleaned(text, size) == text


def test_a_prompt_streams_before_it_is_whole() -> None:
    cleaner = Cleaner()

    assert cleaner.feed("A red fox ") == "A red fox"
    assert cleaner.feed("in snow") == " in snow"


def test_the_paragraph_is_over_at_an_empty_line() -> None:
    cleaner = Cleaner()
    cleaner.feed("A red fox.\n")
    after_a_line = cleaner.ended
    cleaner.feed("\nI added a colour.")

    assert (after_a_line, cleaner.ended) == (False, True)
    assert cleaner.feed("More.") == cleaner.end() == ""


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("a red fox", 3), ("a red fox, 35mm", 7), ("chiaroscuro", 2), ("", 0), ("狐", 2), ("don't", 3)],
)
def test_tokens_are_counted_on_the_safe_side(text: str, tokens: int) -> None:
    assert tokens_of(text) == tokens


def within(text: str, tokens: int, size: int = 3) -> tuple[str, bool]:
    budget = Budget(tokens)
    pieces = [budget.feed(text[at : at + size]) for at in range(0, len(text), size)]
    return "".join(pieces) + budget.end(), budget.cut


def test_a_text_within_its_budget_is_not_touched() -> None:
    assert within(PROMPT, tokens_of(PROMPT)) == (PROMPT, False)


def test_a_text_is_cut_at_the_end_of_a_clause() -> None:
    assert within("A red fox in fresh snow, low morning light, and a very long tail", 13) == (
        "A red fox in fresh snow, low morning light",
        True,
    )


def test_a_text_without_clauses_is_cut_between_words() -> None:
    assert within("one two three four five six seven eight nine ten", 6) == ("one two three four five six", True)


def test_a_text_that_was_broken_off_loses_its_last_clause() -> None:
    budget = Budget(10)
    given_out = budget.feed("A red fox in fresh snow, low mor")

    assert given_out + budget.end(complete=False) == "A red fox in fresh snow"
    assert budget.cut


@given(st.text(alphabet="ab .,;é1\n", max_size=120), st.integers(1, 20), st.integers(1, 9))
def test_never_more_than_the_budget_and_never_half_a_word(text: str, tokens: int, size: int) -> None:
    kept, cut = within(text, tokens, size)

    assert tokens_of(kept) <= tokens
    assert text.startswith(kept)
    if cut:
        assert tokens_of(text) > tokens
    else:
        assert kept == text.rstrip()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("sdxl", "enhance/sdxl v1"),
        ("Juggernaut-XL", "enhance/sdxl v1"),
        ("wan2.2-t2v", "enhance/wan v1"),
        ("flux-dev", "enhance/flux v1"),
        ("stable-diffusion-3.5", "enhance/flux v1"),
        ("stable-diffusion-xl", "enhance/sdxl v1"),
        ("sketch", "enhance/default v1"),
        ("", "enhance/default v1"),
    ],
)
def test_a_model_has_the_template_of_its_family(model: str, name: str) -> None:
    assert template_for(model).name == name


def test_templates_have_names_of_their_own_and_budgets() -> None:
    assert len({one.name for one in TEMPLATES}) == len(TEMPLATES)
    assert all(
        one.name == f"{one.title} {one.version}" and one.version and one.budget > 0 and one.system for one in TEMPLATES
    )
    assert template_for("sdxl").budget == 75
