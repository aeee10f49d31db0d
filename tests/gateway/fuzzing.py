"""schemathesis against a real system: cases of named operations are sent, and each answer is held to the document."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import hypothesis
import requests
import schemathesis
from schemathesis.checks import load_all_checks
from schemathesis.generation import GenerationMode

from gateway.openapi import document

_STREAM = "text/event-stream"
_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


class _Session(requests.Session):
    """Leaves a stream of events after its first bytes; it would never end."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        response = super().send(request, **{**options, "stream": True})
        if response.headers.get("content-type", "").startswith(_STREAM):
            response._content = next(response.iter_content(64), b"")
            response.close()
        return response


class MakesReal(Protocol):
    """Lets cases name what is there."""

    def make_real(self, case: Any) -> None:
        """Let a case name things that are there."""

    def tidy(self) -> None:
        """End what the cases of one operation began."""


def explore_all(
    url: str,
    names: Collection[str],
    things: MakesReal,
    *,
    headers: Mapping[str, str],
    may_take: Callable[[Any], bool],
    examples_each: int,
) -> dict[str, Counter[int]]:
    """Send cases of operations to a system, good ones and bad ones. Returns how often each status came, by operation.

    Args:
        url: of the system.
        names: the ids of the operations.
        things: makes what cases name.
        headers: who asks.
        may_take: tells of a bad case that it may be taken none the less.
        examples_each: how many cases of each operation are sent of each kind.
    """
    load_all_checks()
    checks = schemathesis.checks.CHECKS.get_by_names(_CHECKS)
    rejects = schemathesis.checks.CHECKS.get_one("negative_data_rejection")
    statuses: dict[str, Counter[int]] = defaultdict(Counter)
    session = _Session()

    def ask(case: Any) -> None:
        response = case.call(base_url=url, session=session, headers=dict(headers), timeout=20)
        statuses[_id_of(case.operation)][response.status_code] += 1
        case.validate_response(response, checks=checks if may_take(case) else [*checks, rejects])

    schema: Any = schemathesis.openapi.from_dict(document())
    found = [result.ok() for result in schema.get_all_operations()]
    operations = [each for each in found if _id_of(each) in names]
    assert len(operations) == len(names)
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _explore(operation, mode, things, ask, examples_each)
        things.tidy()
    return statuses


def _id_of(operation: Any) -> str:
    return str(operation.definition.raw["operationId"])


def _forget_identity(case: Any) -> None:
    """Take away the keys and cookies that were made up, so that more than the door is tested."""
    case.cookies.clear()
    for name in [name for name in case.headers if name.lower() in ("authorization", "x-api-key", "cookie")]:
        del case.headers[name]


def _explore(
    operation: Any,
    mode: GenerationMode,
    things: MakesReal,
    ask: Callable[[Any], None],
    examples_each: int,
) -> None:
    """Send cases of an operation; every other one names things that are there."""
    turn = itertools.count()

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(max_examples=examples_each, suppress_health_check=list(hypothesis.HealthCheck))
    def check(case: Any) -> None:
        each = next(turn)
        if mode is GenerationMode.POSITIVE and each % 2 == 0:
            things.make_real(case)
        if each % 4:
            _forget_identity(case)
        ask(case)

    try:
        check()
    except hypothesis.errors.Unsatisfiable:
        # An operation without parameters and body has nothing that could be wrong.
        assert mode is GenerationMode.NEGATIVE and not operation.definition.raw.get("parameters")
