"""The exchange of replicas in one process: the embedded size, where there is one, and tests."""

from __future__ import annotations

from service_kit.events.exchange.member import Exchange


class Hub:
    """Where the members meet."""

    def __init__(self) -> None:
        self.members: set[LocalExchange] = set()


class LocalExchange(Exchange):
    """A member of a hub."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub

    @property
    def alone(self) -> bool:
        """Whether nobody else is at the hub."""
        return not self._hub.members - {self}

    async def run(self) -> None:
        """Send until cancelled; what others send is heard as long as this runs."""
        self._hub.members.add(self)
        try:
            while True:
                await self._something.wait()
                self._something.clear()
                messages = self._pending.take()
                for member in self._hub.members - {self}:
                    member._deliver(messages)
        finally:
            self._hub.members.discard(self)
