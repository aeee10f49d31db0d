"""What every command gets: the settings, a client for the running system, and where to print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier_cli.exits import UsageError, complain
from atelier_cli.terminal import for_stdout

if TYPE_CHECKING:
    from atelier_client import Atelier
    from service_kit.settings import Settings


class Context:
    """One run of the command line."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.json: bool = getattr(arguments, "json", False)

    # settings

    @cached_property
    def flags(self) -> dict[str, str]:
        """The settings that were given as flags, by name."""
        flags: dict[str, str] = {}
        for text in getattr(self.arguments, "set", None) or ():
            name, equals, value = text.partition("=")
            if not equals:
                raise UsageError(f"--set takes NAME=VALUE, such as --set gateway.listen=127.0.0.1:8400; got {text!r}.")
            flags[name.strip()] = value
        for option, name in (("data_dir", "core.data_dir"), ("url", "client.url"), ("key", "client.key")):
            if (value := getattr(self.arguments, option, None)) is not None:
                flags[name] = value
        if getattr(self.arguments, "insecure", False):
            flags |= {"gateway.insecure": "true", "core.insecure": "true"}
        return flags

    @property
    def config(self) -> Path | None:
        """The settings file that was named on the command line."""
        named = getattr(self.arguments, "config", None)
        return Path(named) if named else None

    def load(self, flags: Mapping[str, str] | None = None) -> Settings:
        """Resolve the settings, with further flags that win. Raises SettingsError."""
        from service_kit.settings import load

        return load(self.flags | dict(flags or {}), os.environ, self.config)

    @cached_property
    def settings(self) -> Settings:
        """The settings of this run. Raises SettingsError."""
        return self.load()

    # the running system

    @property
    def url(self) -> str:
        """The gateway to talk to."""
        return self.settings.client.url or public_url(self.settings)

    @property
    def key(self) -> str:
        """The API key to use: --key, --key-file, ATELIER_CLIENT_KEY(_FILE), else the data folder's admin key; or ""."""
        named = getattr(self.arguments, "key_file", None)
        if named:
            return Path(named).expanduser().read_text("utf-8").strip()
        given = self.settings.client.key.reveal()
        if given:
            return given
        try:
            return (self.settings.keys_dir / "admin.key").read_text("utf-8").strip()
        except OSError:
            return ""

    def client(self) -> Atelier:
        """Return a client; use it with `with`."""
        from atelier_client import Atelier

        return Atelier(self.url, self.key)

    # output

    def print(self, text: str = "") -> None:
        """Print a line of the result on stdout."""
        print(for_stdout(text), flush=True)

    def print_json(self, value: Any) -> None:
        """Print a value as JSON on stdout: indented for a terminal, on one line for a pipe."""
        print(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None), flush=True)

    def note(self, text: str) -> None:
        """Print a line about the result, not of it, on stderr; not with --json."""
        if not self.json:
            complain(text)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print rows in columns; the header only to a terminal."""
        lines = [[str(cell) for cell in row] for row in rows]
        shown = [list(header), *lines] if sys.stdout.isatty() else lines
        if not shown:
            return
        widths = [max(len(line[column]) for line in shown) for column in range(len(header))]
        for line in shown:
            self.print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def public_url(settings: Settings) -> str:
    """Return the gateway's address for clients: what is set, else what follows from where it listens."""
    if "core.public_url" in settings.sources:
        return settings.core.public_url
    host, _, port = settings.gateway.listen.rpartition(":")
    if host in ("0.0.0.0", "", "*"):  # noqa: S104 - read, not bound
        host = "127.0.0.1"
    elif host in ("[::]", "::"):
        host = "[::1]"
    scheme = "https" if settings.gateway.tls_cert else "http"
    return f"{scheme}://{host}:{port}"
