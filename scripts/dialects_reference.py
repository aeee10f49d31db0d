"""Writes docs/dialects.md from the tables of the dialects: `python -m scripts.dialects_reference`."""

from __future__ import annotations

from gateway.dialects.dialect import Endpoint
from gateway.dialects.fields import Field
from gateway.dialects.registry import DIALECTS
from scripts.markdown import generated_by, table, write

NAME = "dialects.md"

_INTRO = """\
# Dialects

The gateway speaks the HTTP APIs of others, so that the clients which people already have work unchanged, pointed at
Atelier by a base URL. What follows says of every field what becomes of it:

- *mapped*: it does what it says;
- *accepted and noted*: it is kept on the job as an annotation, and has no effect on what is made;
- *refused*: a request that has it is refused, in the dialect's own shape of an error, by the name of the field.

A field that is not in a table is refused as well. Nothing is ignored. Null counts as absent. The OpenAPI
document (`/openapi.json`, `/docs`) has the same tables, and what each route answers.
"""


def render() -> str:
    """Return the whole page."""
    parts = [generated_by("scripts.dialects_reference"), _INTRO]
    for dialect in DIALECTS:
        paths = ", ".join(f"`{prefix}`" for prefix in dialect.prefixes)
        schemes = " or ".join(f"`Authorization: {scheme.capitalize()} <key>`" for scheme in sorted(dialect.schemes))
        parts.append(f"## {dialect.title}\n\nUnder {paths}, with {schemes}.\n")
        parts += [_endpoint(endpoint) for endpoint in dialect.endpoints]
    return "\n".join(parts)


def _endpoint(endpoint: Endpoint) -> str:
    lines = [f"### {endpoint.method} {endpoint.template}\n"]
    if endpoint.note:
        lines.append(f"{endpoint.note}\n")
    rows = [_row(entry, "query") for entry in endpoint.query] + [_row(entry, "body") for entry in endpoint.fields]
    if rows:
        lines.append(table(("field", "in", "takes", "what becomes of it", "how"), rows) + "\n")
    return "\n".join(lines)


def _row(entry: Field, place: str) -> tuple[str, ...]:
    name = f"`{entry.name}`" + (", required" if entry.required else "")
    return (name, place, entry.takes, entry.treatment.value, entry.note)


if __name__ == "__main__":
    write(NAME, render())
