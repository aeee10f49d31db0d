"""How commands are added to the command line, and the options that all of them have."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

EXITS = "exit codes: 0 ok, 1 job failed, 2 usage, 3 unreachable, 4 refused, 5 timed out, 6 incomplete"


class Parser(argparse.ArgumentParser):
    """A parser whose refusal is read at once: what is wrong, and where the options are; not all of them before it."""

    def error(self, message: str) -> NoReturn:
        """End with code 2."""
        self.exit(2, f"{self.prog}: {message}\n  See `{self.prog} --help`.\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the words; what nobody knows is told by the command that it was given to."""
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            getattr(known, "parser", self).error(f"there is no option or argument {' '.join(unknown)}")
        return known


class Tree:
    """Adds commands, each with the options that all have."""

    def __init__(self, commands: Any) -> None:
        self._commands = commands

    def leaf(self, name: str, handler: str, help: str, aliases: tuple[str, ...] = ()) -> argparse.ArgumentParser:
        """Add a command that runs `handler`, as `module:function` below `atelier_cli.commands`."""
        command: argparse.ArgumentParser = self._commands.add_parser(
            name, help=help, description=help, aliases=list(aliases), parents=[common_options()], epilog=EXITS
        )
        command.set_defaults(handler=handler, parser=command)
        return command

    def group(self, name: str, help: str) -> Tree:
        """Add a command that only has commands below it."""
        command = self._commands.add_parser(name, help=help, description=help)
        return Tree(command.add_subparsers(metavar="COMMAND", required=True))


def common_options() -> argparse.ArgumentParser:
    """Return the options of every command. They may stand before or after the command, so they have no defaults."""
    options = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = options.add_argument_group("connection and output")
    group.add_argument(
        "--url", metavar="URL", help="the gateway (else ATELIER_CLIENT_URL, else where `atelier up` listens)"
    )
    group.add_argument(
        "--key", metavar="KEY", help="the API key (else ATELIER_CLIENT_KEY, else the data folder's admin key)"
    )
    group.add_argument("--key-file", metavar="FILE", help="a file with the API key")
    group.add_argument("--data-dir", metavar="FOLDER", help="the data folder")
    group.add_argument("--config", metavar="FILE", help="the settings file (else ATELIER_CONFIG, else ./atelier.toml)")
    group.add_argument("--set", metavar="NAME=VALUE", action="append", help="one setting, such as router.lease_ttl=10s")
    group.add_argument("--json", action="store_true", help="print JSON with the API's field names")
    group.add_argument("--debug", action="store_true", help="show where an error comes from")
    return options
