"""What a call says about itself is believed only in the form in which the gateway says it."""

from __future__ import annotations

import pytest

from service_kit.idempotency import REQUEST_DIGEST, RETRY_COUNT, is_retry, request_digest

DIGEST = "a" * 64


@pytest.mark.parametrize(("count", "expected"), [("0", False), ("1", True), ("-1", False), ("x", False), ("", False)])
def test_a_count_above_zero_is_a_retry(count: str, expected: bool) -> None:
    assert is_retry([("other", "1"), (RETRY_COUNT, count)]) is expected
    assert not is_retry([])


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], None),
        ([(REQUEST_DIGEST, DIGEST)], DIGEST),
        ([(REQUEST_DIGEST, DIGEST.upper())], None),
        ([(REQUEST_DIGEST, "short")], None),
        ([(REQUEST_DIGEST, DIGEST), (REQUEST_DIGEST, "b" * 64)], None),
    ],
)
def test_a_digest_is_one_sha256(entries: list[tuple[str, str]], expected: str | None) -> None:
    assert request_digest(entries) == expected
