"""Decided once: UTC, microseconds, RFC 3339 with Z."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from service_kit.clock import ManualClock, SystemClock, parse_rfc3339, rfc3339


def test_a_moment_is_written_in_utc_with_microseconds_and_z() -> None:
    moment = datetime(2026, 1, 31, 14, 0, 0, 1, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(moment) == "2026-01-31T12:00:00.000001Z"
    assert rfc3339(datetime(2026, 1, 31, tzinfo=UTC)) == "2026-01-31T00:00:00.000000Z"
    assert parse_rfc3339(rfc3339(moment)) == moment
    assert parse_rfc3339("2026-01-31T14:00:00+02:00").tzinfo is UTC


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        rfc3339(datetime(2026, 1, 31))
    with pytest.raises(ValueError, match="zone"):
        parse_rfc3339("2026-01-31T12:00:00")


def test_a_moment_before_the_first_year_is_refused() -> None:
    with pytest.raises(ValueError, match="in the years"):
        parse_rfc3339("0001-01-01T00:00:00+23:59")


def test_a_manual_clock_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock()
    start = clock.now()
    clock.advance(timedelta(seconds=90))
    assert clock.now() - start == timedelta(seconds=90)
    assert clock.monotonic() == 90
    with pytest.raises(ValueError, match="back"):
        clock.advance(timedelta(seconds=-1))


def test_the_system_clock_is_aware_and_in_utc() -> None:
    assert SystemClock().now().utcoffset() == timedelta(0)
    assert SystemClock().monotonic() <= SystemClock().monotonic()
