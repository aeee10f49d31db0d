"""When waiting stages are leased: as soon as a stage waits or a slot is free, and when a pause is over."""

from __future__ import annotations

import asyncio

from router_service.dispatch import POLL_S, Dispatch
from router_service.signals import Signals
from service_kit.errors import AtelierError
from service_kit.tasks import woken
from service_kit.telemetry import get_logger

log = get_logger(__name__)


class LeasingLoop:
    """Runs leasing rounds."""

    def __init__(self, dispatch: Dispatch, signals: Signals) -> None:
        self._dispatch = dispatch
        self._signals = signals

    async def run(self) -> None:
        """Lease whatever can be leased, until cancelled."""
        with self._dispatch.leasing():
            while True:
                self._signals.queue.clear()
                try:
                    await self._dispatch.lease_waiting()
                except AtelierError as error:
                    log.warning("leasing_delayed", reason=error.reason.value, detail=error.message)
                    await asyncio.sleep(POLL_S)
                await woken(self._signals.queue, self._dispatch.looks_again_in)
