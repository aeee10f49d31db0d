"""Jobs as the texts that the database keeps. What was written here a moment ago is not parsed to be read.

A job is read again at each of its steps, mostly by the process that wrote it. Equal texts are equal jobs, whoever wrote
them, so that what is remembered here is never out of date.
"""

from __future__ import annotations

import json
from typing import Any

from router_service.domain import FINAL, Job
from router_service.storage import codec

MOST_KNOWN = 512
LONGEST_KNOWN = 8 << 10

# The oldest first.
_known: dict[str, Job] = {}


def told_of(job: Job) -> str:
    """Return a job as watchers are told of it: the conversation that it goes on with is theirs."""
    form = codec.to_json(job)
    form.pop("chat", None)
    return codec.write(form)


def document_of(job: Job, told: str) -> str:
    """Return a job as its row has it: what `told_of` says, and the conversation."""
    document = told if job.chat is None else f'{told[:-1]},"chat":{codec.to_text(job.chat)}}}'
    # Of one that has ended nothing is decided any more.
    if job.state not in FINAL and len(document) <= LONGEST_KNOWN:
        if len(_known) >= MOST_KNOWN:
            del _known[next(iter(_known))]
        _known[document] = job
    return document


def from_text(document: str) -> Job:
    """Return the job that a text is."""
    known = _known.get(document)
    return from_form(json.loads(document)) if known is None else known


def from_form(form: Any) -> Job:
    """Return the job of a JSON value."""
    return codec.from_json(Job, form)
