"""Folding: what is written and what is asked meet in the same tokens, and no token can be syntax."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from library_service.domain.words import (
    LONGEST_WORD,
    Facts,
    Labels,
    asked,
    fold,
    fold_label,
    owner_tag,
    tokens_of,
    words_of,
)
from service_kit.identity import Owner

ADA = Owner("default", "ada")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Café ZOË straße ŁÓDŹ smørrebrød", ["cafe", "zoe", "strasse", "lodz", "smorrebrod"]),
        ("L'été, don’t 85mm f/2.8", ["l", "ete", "don", "t", "85mm", "f", "2", "8"]),
        ("提灯", ["提", "灯", "提灯"]),
        ("4k映像", ["4k", "映", "像", "映像"]),
        ("カフェ ｶﾌｪ", ["カ", "フ", "ェ", "カフ", "フェ"] * 2),
        ("أقمشة مُلوّنة ـــ كتـــاب", ["اقمشة", "ملونة", "كتاب"]),
        ("हिन्दी", ["हिन्दी"]),
        ("ﬁre ½ Ⅳ", ["fire", "1", "2", "iv"]),
        ("🌧️ rain", ["🌧", "rain"]),
        ("“” — …", []),
    ],
)
def test_a_text_becomes_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_voiced_kana_stay_apart_and_halves_meet() -> None:
    assert fold("が") != fold("か")
    assert fold("ガ") == fold("ｶﾞ")


def test_labels_are_compared_without_case_marks_and_spaces() -> None:
    assert fold_label("  Été\t à\n Paris ") == fold_label("ete a paris") == "ete a paris"


def test_the_words_of_two_owners_are_never_the_same() -> None:
    bob = Owner("default", "bob")
    facts = Facts(("a heron",), "m", 7, "image")
    mine, theirs = (set(tokens_of(owner, facts, Labels(tags=("x",))).split()) for owner in (ADA, bob))
    assert not mine & theirs
    assert len(mine) == len(theirs)


def ask(text: str) -> tuple[set[str], str | None] | None:
    found = asked(ADA, text, format=None, model=None, seed=None, labels=Labels())
    return None if found is None else (set(found.tokens), found.prefix)


def test_the_last_word_is_a_beginning_and_a_blank_text_asks_nothing() -> None:
    tag = owner_tag(ADA)
    assert ask("heron Tak") == ({f"{tag}wheron"}, f"{tag}wtak")
    assert ask("heron 提灯") == ({f"{tag}wheron", f"{tag}w提灯"}, None)
    assert ask(" \n ") == (set(), None)
    assert ask("?!") is None


@given(st.text(max_size=200))
def test_whatever_was_written_is_found_by_itself_and_is_no_syntax(text: str) -> None:
    tokens = tokens_of(ADA, Facts((text,), "m", None, "image"), Labels())
    assert re.fullmatch(r"( [^\s'\"\\:&|!()<>*%]+)+ ", tokens)
    found = asked(ADA, text, format="image", model="M", seed=None, labels=Labels())
    if found is None:
        assert words_of(text) == []
        return
    assert all(f" {token} " in tokens for token in found.tokens)
    assert found.prefix is None or f" {found.prefix}" in tokens


def test_a_word_without_end_is_cut_alike_on_both_sides() -> None:
    tokens = tokens_of(ADA, Facts(("x" * 999,), "", None, "image"), Labels())
    found = ask("x" * 500)
    assert found is not None
    assert f" {found[1]} " in tokens
    assert len(str(found[1])) == len(owner_tag(ADA)) + 1 + LONGEST_WORD
