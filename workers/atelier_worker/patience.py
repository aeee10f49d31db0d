"""How long the worker tries to move bytes that do not move, and what it tries again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import grpc

from service_kit.errors import ErrorReason
from service_kit.rpc_errors import from_rpc_error

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
# A broken connection or a busy service passes; these are answers.
_FINAL_CODES = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)
_REFUSALS = frozenset(
    {
        ErrorReason.UNSUPPORTED_MEDIA,
        ErrorReason.MEDIA_DAMAGED,
        ErrorReason.MEDIA_TOO_LARGE,
        ErrorReason.MEDIA_DISGUISED,
    }
)
_T = TypeVar("_T")


class TransferFailed(Exception):
    """Bytes could not be moved. `retryable` tells whether it may work later; the message is a sentence for the log.

    `is_refused`: the bytes are none that are taken, wherever they come from; then the client may read the sentence.
    """

    def __init__(self, message: str, *, retryable: bool, is_refused: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.is_refused = is_refused


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one file is tried without moving forward, and the pauses between."""

    limit: timedelta = timedelta(minutes=2)
    first_pause_s: float = _FIRST_PAUSE_S

    async def keep_trying(self, attempt: Callable[[Callable[[], None]], Awaitable[_T]]) -> _T:
        """Try until it works, is refused, or has not moved forward for the limit; an attempt calls what says it has.

        Raises:
            TransferFailed: it was refused, or took too long.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self.limit.total_seconds()
        pause_s = self.first_pause_s

        def moved() -> None:
            nonlocal give_up_at, pause_s
            pause_s = self.first_pause_s
            give_up_at = loop.time() + self.limit.total_seconds()

        while True:
            try:
                return await attempt(moved)
            except grpc.aio.AioRpcError as error:
                failed = _as_failure(error)
            except TransferFailed as error:
                failed = error
            if not failed.retryable or loop.time() + pause_s > give_up_at:
                raise failed
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _as_failure(error: grpc.aio.AioRpcError) -> TransferFailed:
    known = from_rpc_error(error)
    final = error.code() in _FINAL_CODES or known.reason in (ErrorReason.ALREADY_SETTLED, ErrorReason.BODY_TOO_LARGE)
    return TransferFailed(known.message, retryable=not final, is_refused=known.reason in _REFUSALS)
