"""Ports of loopback."""

from __future__ import annotations

import secrets
import socket

# Below the ports that systems give to outgoing connections: one of those would take a port before its server listens.
_FIRST, _COUNT = 20_000, 12_000
_TRIES = 100
# Whoever was given one may not listen yet.
_given: set[int] = set()


def free_port() -> int:
    """Return a port that was free a moment ago, that no outgoing connection is given meanwhile, and nobody else here.

    Raises:
        OSError: a hundred ports in a row were taken.
    """
    for _ in range(_TRIES):
        port = _FIRST + secrets.randbelow(_COUNT)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if len(_given) > _COUNT // 2:
            _given.clear()
        _given.add(port)
        return port
    raise OSError(f"{_TRIES} ports from {_FIRST} on were taken")
