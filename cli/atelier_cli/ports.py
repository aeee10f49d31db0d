"""Ports: whether one is free, who holds it, and what to change."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from atelier_cli.exits import UsageError

_LISTENING = "0A"


def split(listen: str) -> tuple[str, int]:
    """Return host and port of `host:port`. Raises UsageError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{listen!r} is not an address: it takes host:port, such as 127.0.0.1:7400.")
    return host.strip("[]"), int(port)


def check_free(listen: str, setting: str, env: str) -> None:
    """Make sure that a service can listen there.

    Raises:
        UsageError: it cannot; names the port, who may hold it, and the setting to change.
    """
    host, port = split(listen)
    if port == 0:
        return
    try:
        _bind(host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = holder_of(port) or "another program"
            raise UsageError(
                f"port {port} ({setting}) is in use by {holder}. Stop that, or choose another port: "
                f"{env}={host}:{port + 100} (0 takes any free one)."
            ) from error
        raise UsageError(
            f"{setting} cannot be {listen}: {error.strerror}. Choose another address with {env}."
        ) from error


def free_port(host: str) -> int:
    """Return a port that is free at this moment."""
    with _bind(host, 0) as bound:
        return int(bound.getsockname()[1])


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Two sockets may be bound with SO_REUSEADDR; only one may listen.
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


def holder_of(port: int) -> str | None:
    """Return the program that listens on a port as `name (process 123)`; None when this system does not tell."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                target = str(descriptor.readlink())
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                    name = " ".join(
                        Path(word).name if index == 0 else word for index, word in enumerate(words[:4])
                    ).strip()
                    return f"{name} (process {process.name})"
        except OSError:  # The process has ended, or belongs to somebody else.
            continue
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes
