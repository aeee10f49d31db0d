"""The entry point of `atelier`: parse, run one command, end with its exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from atelier_cli.exits import FAULT, INTERRUPTED, complain, explain
from atelier_cli.parser import build_parser

Handler = Callable[..., int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; wrong usage ends with SystemExit(2)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "handler"):
        parser.print_help(sys.stderr)
        return 2
    try:
        return _handler(arguments.handler)(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a person gets a sentence, whatever it was
        return _end_with(error, arguments)


def _end_with(error: Exception, arguments: argparse.Namespace) -> int:
    if getattr(arguments, "debug", False):
        raise error
    code = explain(error)
    if code is not None:
        return code
    complain(
        f"atelier: this is a fault in the command line: {type(error).__name__}. Run it again with --debug to see where."
    )
    return FAULT


def _handler(name: str) -> Handler:
    """Import the function that a command names, so that nothing is imported that is not run."""
    module, function = name.split(":")
    from atelier_cli.context import Context

    found = getattr(importlib.import_module(f"atelier_cli.commands.{module}"), function)

    def run(arguments: argparse.Namespace) -> int:
        return int(found(Context(arguments)))

    return run


if __name__ == "__main__":
    sys.exit(main())
