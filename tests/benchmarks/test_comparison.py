"""What is said of figures: medians, spreads, ratios, and nothing at all when somebody was not measured."""

from __future__ import annotations

import pytest

from benchmarks.comparison import PeerMissing, Series, Target, better, percentile, ratio, require_all


def series(name: str, *samples: float) -> Series:
    return Series(name, "1/s", samples)


def test_a_series_tells_its_middle_and_its_ends() -> None:
    taken = series("Atelier", 5.0, 1.0, 3.0, 100.0, 2.0)
    assert taken.median == 3.0
    assert taken.spread == (1.0, 100.0)


def test_a_ratio_is_taken_round_by_round() -> None:
    # A slow round slows both: the ratio of the medians would be 20 / 4.
    compared = ratio(series("Atelier", 10.0, 100.0, 20.0), series("peer", 2.0, 25.0, 4.0))
    assert compared.samples == (5.0, 4.0, 5.0)
    assert compared.name == "Atelier / peer"


def test_a_ratio_needs_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio(series("Atelier", 1.0, 2.0), series("peer", 1.0))


def test_the_better_alternative_counts() -> None:
    slow, fast = series("slow", 1.0, 9.0, 2.0), series("fast", 3.0, 3.0, 3.0)
    assert better([slow, fast]) is fast
    assert better([slow, fast], higher=False) is slow
    assert better([fast, series("same", 3.0, 3.0, 3.0)]) is fast
    with pytest.raises(ValueError, match="nothing"):
        better([])


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (0.1, 1)])
def test_a_percentile_is_one_of_the_samples(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


@pytest.mark.parametrize(
    ("target", "median", "reached"),
    [
        (Target(4.0), 4.0, True),
        (Target(4.0), 3.99, False),
        (Target(5.0, at_least=False), 5.0, True),
        (Target(5.0, at_least=False), 5.01, False),
    ],
)
def test_a_target_is_a_floor_or_a_ceiling(target: Target, median: float, reached: bool) -> None:
    assert target.is_reached(median) is reached


def test_without_a_peer_nothing_is_compared() -> None:
    measured = {"Atelier: jobs/s": [1.0, 2.0], "Celery: jobs/s": [1.0]}
    require_all(measured, ["Atelier: jobs/s"], rounds=2)
    with pytest.raises(PeerMissing, match=r"Celery: jobs/s was measured in 1 of 2 rounds"):
        require_all(measured, ["Atelier: jobs/s", "Celery: jobs/s"], rounds=2)
    with pytest.raises(PeerMissing, match=r"procrastinate: jobs/s was measured in 0 of 2 rounds"):
        require_all(measured, ["procrastinate: jobs/s"], rounds=2)
