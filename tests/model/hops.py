"""The way from the routers to the asset service, on which calls get lost, are repeated and overtake each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from service_kit.errors import Unavailable
from tests.model.processes import Gone, Process, outside


@dataclass
class Hop:
    """The way from the routers to the asset service: what happens to the next calls, and calls that are still on it.

    `faults` are taken in order, one a call: `lost` (never arrives), `unanswered` (arrives, the reply does not),
    `repeated` (arrives twice), `late` (arrives when `deliver_late` is called; the caller has given up).
    """

    call: Callable[[str, bytes], Coroutine[Any, Any, bytes]]
    faults: list[str] = field(default_factory=list)
    late: list[tuple[str, bytes]] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)

    async def send(self, path: str, data: bytes) -> bytes:
        """Carry one call. Raises what the service raises, and Unavailable for a call without a reply."""
        fault = self.faults.pop(0) if self.faults else ""
        self.used[fault] += 1
        try:
            if fault == "late":
                self.late.append((path, data))
            elif fault == "unanswered":
                await self.call(path, data)
            elif fault == "repeated":
                await self.call(path, data)
                return await self.call(path, data)
            elif not fault:
                return await self.call(path, data)
        except Gone:
            raise Unavailable("The asset service is gone.") from None
        raise Unavailable("The call was not answered.")

    async def deliver_late(self, pick: int) -> None:
        """Let a call arrive whose caller has given up: any of them, so that calls overtake each other."""
        path, data = self.late.pop(pick % len(self.late))
        await self.call(path, data)


class Channel:
    """The router's channel to the asset service."""

    def __init__(self, process: Process, hop: Hop) -> None:
        self._process = process
        self._hop = hop

    def unary_unary(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """Return what a stub calls."""

        async def call(request: Any, **_options: Any) -> Any:
            self._process.reach(f"before {path.rpartition('/')[2]}")
            with outside():
                reply = await self._hop.send(path, request_serializer(request))
            self._process.reach(f"after {path.rpartition('/')[2]}")
            return response_deserializer(reply)

        return call

    def unary_stream(self, *_: Any, **__: Any) -> None:
        """Be there for stubs that have such methods."""

    stream_unary = stream_stream = unary_stream
