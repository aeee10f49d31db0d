"""Sizes and durations in texts, both ways."""

from __future__ import annotations

import pytest

from service_kit.units import parse_size, sized


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        (" 64KiB ", 65536),
        ("512 MB", 512_000_000),
        ("1.5GiB", 3 << 29),
        ("7B", 7),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "1.5", "20 gigs", "1 kib", "1e3", "١", "9" * 400 + "GiB", "9" * 5000]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(it takes a size such as|it is larger than|Exceeds the limit)"):
        parse_size(text)


def test_sizes_in_sentences() -> None:
    assert [sized(size) for size in (0, 300 << 20, 3 << 29, -(1 << 30))] == ["0 MiB", "300 MiB", "1.5 GiB", "-1.0 GiB"]
