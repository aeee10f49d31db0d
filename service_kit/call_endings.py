"""How an upload over gRPC ended, in the words of the service.

A message that is on its way when the service answers fails, and gRPC puts a status of its own before or behind the one
of the service: whichever comes last is told. So a file that was refused looked like a fault, one time in ten where the
client still wrote.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

_T = TypeVar("_T")
# What grpc.aio says of a message that could not be sent.
_OWN_WORDS = "Internal error from Core"


class Ending:
    """Remembers the first status of a call. Made when the call is, before anything is written."""

    def __init__(self, call: Any) -> None:
        """Listen to a call."""
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._note)

    def of(self, error: grpc.RpcError) -> grpc.RpcError:
        """Return what the call ended with: an error that it raised, or what the service said before gRPC did."""
        if self._first is None or not _is_own(error) or _is_own(self._first):
            return error
        return self._first

    def _note(self, call: Any) -> None:
        if self._first is None:
            code, trailing, details = map(_known, (call.code(), call.trailing_metadata(), call.details()))
            self._first = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing or grpc.aio.Metadata(), details)


def _is_own(error: grpc.RpcError) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and (error.details() or "").startswith(_OWN_WORDS)


def _known(answer: Coroutine[Any, Any, _T]) -> _T:
    """Return what a call knows already: to wait a step would be too late."""
    try:
        answer.send(None)
    except StopIteration as known:
        return known.value  # type: ignore[no-any-return]
    answer.close()
    raise RuntimeError("a call that has ended does not know how")
