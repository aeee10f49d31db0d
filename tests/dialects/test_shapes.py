"""Errors of fal and Replicate: limits by their names, and what their clients are to make of them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from atelier.router.v1 import job_pb2
from gateway.dialects.dialect import Dialect
from gateway.dialects.fal import FAL
from gateway.dialects.fal import answers as fal_answers
from gateway.dialects.replicate import REPLICATE
from gateway.dialects.replicate import answers as replicate_answers
from gateway.status import HttpProblem
from service_kit.errors import AtelierError, ErrorReason, FieldProblem, InvalidArgument, ResourceExhausted, Unavailable

LIMIT = ResourceExhausted(
    "The limit queued_jobs of this owner is 3.",
    ErrorReason.LIMIT_REACHED,
    fields=[FieldProblem("queued_jobs", "is limited to 3")],
    retry_after=timedelta(seconds=7),
)


@pytest.mark.parametrize(
    ("dialect", "error", "status", "body"),
    [
        (FAL, LIMIT, 429, '{"detail": "The limit queued_jobs of this owner is 3."}'),
        (FAL, Unavailable(retry_after=timedelta(seconds=1)), 503, '{"detail": "'),
        (
            FAL,
            InvalidArgument.field("image_urls[1].x", "is wrong"),
            422,
            '{"detail": [{"loc": ["body", "image_urls", 1, "x"], "msg": "is wrong", "type": "invalid_value"}]}',
        ),
        (
            REPLICATE,
            LIMIT,
            429,
            '{"title": "Too Many Requests", "detail": "The limit queued_jobs of this owner is 3.", "status": 429, '
            '"invalid_fields": [{"type": "limit_reached", "field": "queued_jobs", "description": "is limited to 3"}]}',
        ),
        (REPLICATE, Unavailable(retry_after=timedelta(seconds=1)), 503, '{"title": "Service Unavailable", "detail": "'),
    ],
)
def test_an_error_has_the_shape_of_its_dialect(dialect: Dialect, error: AtelierError, status: int, body: str) -> None:
    reply = dialect.error_reply(HttpProblem(error, status=status), "r")
    assert reply.status == status
    assert reply.body.decode().startswith(body)
    assert ("retry-after" in reply.headers) == (error.retry_after is not None)
    if dialect is FAL:
        assert reply.headers["x-fal-error-type"]


@pytest.mark.parametrize("kept", ["not json", "[" * 100_000, '{"a": NaN}', '{"a": "\\ud800"}', "", '{"a": 1e999}'])
def test_annotations_that_others_wrote_are_no_input(kept: str) -> None:
    job = job_pb2.Job(prompt="a heron", annotations={replicate_answers.INPUT: kept})
    assert replicate_answers.input_of(job) == {"prompt": "a heron"}


@pytest.mark.parametrize("said", ["soon", "nan", "1e300", "inf", ""])
def test_annotations_that_others_wrote_are_no_timeout(said: str) -> None:
    job = job_pb2.Job(annotations={fal_answers.START_TIMEOUT: said})
    assert fal_answers.start_limit(job) is None
