"""Jobs as texts: what watchers are told, what the database keeps, and what of it is remembered."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from router_service.chat_domain import Chat, ChatMessage, ChatReply, ChatRole, FinishReason, TokenUsage
from router_service.domain import Failure, Job, JobState
from router_service.storage import codec, documents
from service_kit.errors import ErrorReason
from tests.storage.both import job

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CHAT = Chat((ChatMessage(ChatRole.USER, 'Hé \u2028 "?"'),), max_tokens=9, temperature=0.5, stop=("\n",))
TALK = job(
    *("j1", NOON),
    chat=CHAT,
    reply=ChatReply("Yes \U0001f985", FinishReason.STOP, TokenUsage(4, 1)),
    annotations=(("dialect", "openai"),),
    failure=Failure(ErrorReason.INTERNAL, "it broke: ' \" {}"),
)


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """Let each test begin as a process does."""
    documents._known.clear()
    yield
    documents._known.clear()


def kept(each: Job) -> str:
    return documents.document_of(each, documents.told_of(each))


def test_watchers_are_told_everything_but_the_conversation() -> None:
    assert codec.from_json(Job, json.loads(documents.told_of(TALK))) == dataclasses.replace(TALK, chat=None)
    plain = job("j2", NOON)
    assert kept(plain) == documents.told_of(plain)


@pytest.mark.parametrize("each", [TALK, job("j2", NOON)])
def test_a_text_is_the_same_job_whether_it_is_remembered_or_read(each: Job) -> None:
    document = kept(each)
    # Another process has read it from the database.
    same = document.encode().decode()
    assert documents.from_text(same) is each
    documents._known.clear()
    assert documents.from_text(same) == each


def test_what_has_ended_or_is_long_is_not_remembered_nor_more_than_so_many() -> None:
    for each in (
        dataclasses.replace(TALK, state=JobState.SUCCEEDED),
        dataclasses.replace(TALK, chat=Chat((ChatMessage(ChatRole.USER, "x" * documents.LONGEST_KNOWN),))),
    ):
        kept(each)
        assert not documents._known
    texts = [kept(job(f"j{number}", NOON)) for number in range(documents.MOST_KNOWN + 2)]
    assert list(documents._known) == texts[2:]
