"""What keeps one test that hangs from ending all of them."""

from __future__ import annotations

import asyncio
import inspect
import os

import pytest

from tests.support.limits import closing_in_time, limited


async def test_every_test_that_is_a_coroutine_has_a_limit(request: pytest.FixtureRequest) -> None:
    assert inspect.unwrap(request.node.obj) is not request.node.obj


async def test_one_that_waits_for_ever_fails() -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await limited(waits, 0.01)()


async def test_parts_that_do_not_end_fail_their_test() -> None:
    with pytest.raises(TimeoutError):
        async with closing_in_time(0.01) as stack:
            stack.push_async_callback(asyncio.Event().wait)


def test_grpc_does_nothing_around_a_fork() -> None:
    """It waited for its own threads then, now and then for ever."""
    assert os.environ["GRPC_ENABLE_FORK_SUPPORT"] == "0"
