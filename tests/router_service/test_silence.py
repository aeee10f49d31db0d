"""A worker that says nothing for the life of a lease is gone; one that we are slow to hear is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from atelier.worker.v1 import worker_service_pb2 as pb
from router_service.conversation_servicer import Conversations, SessionRules
from router_service.registry_domain import ConnectedWorker
from router_service.sessions import Session
from service_kit.errors import DeadlineExceeded

PATIENCE = timedelta(milliseconds=50)


class SlowConversations(Conversations):
    """Takes longer than the life of a lease to hear what it is told."""

    def __init__(self) -> None:
        nothing: Any = None
        rules = SessionRules(timedelta(seconds=1), PATIENCE, "", 1, 1)
        super().__init__(
            storage=nothing, dispatch=nothing, recording=nothing, relay=nothing, rules=rules, key_works=nothing
        )
        self.heard = 0

    async def _hear(self, session: Session, request: pb.WorkRequest, applying: Any) -> None:
        await asyncio.sleep(3 * PATIENCE.total_seconds())
        self.heard += 1


async def test_silence_ends_a_session_and_our_own_slowness_does_not() -> None:
    async def messages() -> AsyncIterator[pb.WorkRequest]:
        yield pb.WorkRequest()
        yield pb.WorkRequest()
        await asyncio.Event().wait()

    conversations = SlowConversations()
    session = Session(ConnectedWorker("key/one", "session", ("sdxl",), (), 1, (), ""))
    with pytest.raises(DeadlineExceeded, match="heartbeat"):
        await conversations.hold(session, messages(), None)
    assert conversations.heard == 2
