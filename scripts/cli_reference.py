"""Writes docs/cli.md from the tree of commands: `python -m scripts.cli_reference`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from atelier_cli import exits
from atelier_cli.parser import build_parser
from atelier_cli.tree import common_options
from scripts.markdown import generated_by, table, write

NAME = "cli.md"

_INTRO = """\
# The command line

`atelier` talks to a running system over HTTP, as any client does; `up`, `serve`, `worker`, `migrate`, `config`,
`doctor` and `completion` work on this machine. `atelier COMMAND --help` prints what stands here.

```console
$ atelier up
$ atelier generate "a lighthouse in a storm" --quantity 2 --out pictures
$ atelier enhance "a lighthouse"
$ atelier library list
```

Results go to stdout, everything else to stderr. With `--json` stdout carries JSON with the field names of
[the API](api.md), on one line when it is not a terminal. Tables have a header only on a terminal.
"""

EXIT_CODES = {
    exits.OK: "It worked.",
    exits.JOB_FAILED: "The job failed, or was cancelled.",
    exits.USAGE: "The command cannot be run as it was given: an option, a setting, a file, a port in use.",
    exits.UNREACHABLE: "No Atelier answers at that address, or a part of it cannot be reached.",
    exits.REFUSED: "The request was refused: key, field, object. The message says which.",
    exits.TIMED_OUT: "It took longer than `--timeout`. The job goes on.",
    exits.INCOMPLETE: "A backup was made, and blobs were missing that rows say are there. Stderr names them.",
    exits.FAULT: "A fault in the command line itself; `--debug` shows where.",
    exits.INTERRUPTED: "Ctrl-C.",
}


def commands(parser: argparse.ArgumentParser | None = None) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command that does something, as `jobs list`, with its parser."""
    for action in (parser or build_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            seen: set[int] = set()
            for name, child in action.choices.items():
                if id(child) in seen:
                    continue  # An alias.
                seen.add(id(child))
                if child.get_default("handler"):
                    yield name, child
                for below, leaf in commands(child):
                    yield f"{name} {below}", leaf


def render() -> str:
    """Return the whole page."""
    common = {action.dest for action in common_options()._actions}
    parts = [generated_by("scripts.cli_reference"), _INTRO, "## Exit codes\n"]
    parts.append(table(("code", "meaning"), [(str(code), text) for code, text in EXIT_CODES.items()]) + "\n")
    parts.append("## Options of every command\n\nThey may stand before or after the command.\n")
    parts.append(_options(list(common_options()._actions)))
    for name, parser in commands():
        text = parser.description or ""
        parts.append(f"## atelier {name}\n\n{text[:1].upper()}{text[1:]}.\n\n```text\n{_usage(name, parser)}\n```\n")
        own = [action for action in parser._actions if action.dest not in common and action.dest != "help"]
        if own:
            parts.append(_options(own))
    return "\n".join(parts)


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    """Return how the command is called: what must be there, and that there may be more."""
    words = [f"atelier {name}"]
    optional = False
    for action in parser._actions:
        if not action.option_strings:
            words.append(_shown(action) + (" ..." if action.nargs == "+" else ""))
        elif action.required:
            words.append(f"{action.option_strings[0]} {_shown(action)}")
        else:
            optional = True
    return " ".join([*words, "[options]"] if optional else words)


def _shown(action: argparse.Action) -> str:
    if action.metavar:
        return str(action.metavar)
    if action.choices:
        return "{" + ",".join(str(choice) for choice in action.choices) + "}"
    return "" if action.nargs == 0 else action.dest.upper()


def _options(actions: list[argparse.Action]) -> str:
    rows = []
    for action in actions:
        value = f" {_shown(action)}" if action.option_strings and _shown(action) else ""
        name = ", ".join(action.option_strings) + value if action.option_strings else _shown(action)
        if action.metavar and action.choices:
            name += " {" + ",".join(str(choice) for choice in action.choices) + "}"
        help_text = (action.help or "") % {"default": action.default, "prog": "atelier"}
        rows.append((f"`{name}`", help_text))
    return table(("option", "meaning"), rows) + "\n"


if __name__ == "__main__":
    write(NAME, render())
