"""Ports of loopback."""

from __future__ import annotations

import os
import secrets
import socket

# Below the ports that systems give to outgoing connections: one of those would take a port before its server listens.
_FIRST, _COUNT = 20_000, 12_000
# Processes that share out tests would give each other's ports, which nobody listens at yet.
SHARES = 8
_TRIES = 100
# Whoever was given one may not listen yet.
_given: set[int] = set()


def free_port() -> int:
    """Return a port that was free a moment ago, that no outgoing connection is given meanwhile, and nobody else here.

    Raises:
        OSError: a hundred ports in a row were taken.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    shares, mine = (SHARES, int(worker.removeprefix("gw")) % SHARES) if worker else (1, 0)
    for _ in range(_TRIES):
        port = _FIRST + secrets.randbelow(_COUNT // shares) * shares + mine
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if len(_given) > _COUNT // shares // 2:
            _given.clear()
        _given.add(port)
        return port
    raise OSError(f"{_TRIES} ports from {_FIRST} on were taken")
