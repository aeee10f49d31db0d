"""The addresses of the routers: which one is tried next."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service_kit.settings import SettingsError

_TARGET = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s/:,\[\]]+):(\d{1,5})")
_RESOLVE_LIMIT_S = 5.0

Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a router may be: the address to dial, and the name that the operator gave it, both as host:port."""

    address: str
    name: str


class Targets:
    """Goes through the addresses of all routers, round after round; names are looked up anew for each round.

    A worker begins anywhere in the list, so that many workers with one list spread over the routers.
    """

    def __init__(self, connect: str, resolve: Resolve | None = None) -> None:
        """Take `host:port`, or several of them with commas between.

        Raises:
            SettingsError: one of them can be no router's address, such as the URL of the gateway.
        """
        self._names = [name.strip() for name in connect.split(",")]
        for name in self._names:
            if not _TARGET.fullmatch(name):
                raise SettingsError(
                    f"worker.connect must be the router's host:port, such as 127.0.0.1:7401, got {name!r}; it is no "
                    "URL, and not the gateway's address. Several are separated by commas."
                )
        self._resolve = resolve or _look_up
        self._left: deque[Target] = deque()

    @property
    def round_over(self) -> bool:
        """Whether every address was tried since the names were looked up."""
        return not self._left

    async def next(self) -> Target:
        """Return the address to try next."""
        if not self._left:
            found = [target for name in self._names for target in await self._addresses(name)]
            random.shuffle(found)
            self._left.extend(dict.fromkeys(found))
        return self._left.popleft()

    async def _addresses(self, name: str) -> list[Target]:
        host, _, port = name.rpartition(":")
        try:
            async with asyncio.timeout(_RESOLVE_LIMIT_S):
                addresses = await self._resolve(host.strip("[]"), int(port))
        except (OSError, TimeoutError):
            # Dialling the name itself then says what is wrong with it.
            addresses = []
        return [Target(address, name) for address in addresses] if len(addresses) > 1 else [Target(name, name)]


async def _look_up(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    hosts = dict.fromkeys(str(entry[4][0]) for entry in found)
    return [f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address in hosts]
