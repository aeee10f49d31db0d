"""A stand-in upstream for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.atelier_worker.openai.stand_in import StandIn, stand_in


@pytest.fixture
def upstream() -> Iterator[StandIn]:
    with stand_in() as one:
        yield one
