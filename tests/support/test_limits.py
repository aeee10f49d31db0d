"""What keeps one test that hangs from ending all of them."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.support.limits import closing_in_time


async def test_parts_that_do_not_end_fail_their_test() -> None:
    with pytest.raises(TimeoutError):
        async with closing_in_time(0.01) as stack:
            stack.push_async_callback(asyncio.Event().wait)


def test_grpc_does_nothing_around_a_fork() -> None:
    """It waited for its own threads then, now and then for ever."""
    assert os.environ["GRPC_ENABLE_FORK_SUPPORT"] == "0"
