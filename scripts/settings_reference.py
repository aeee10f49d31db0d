"""Writes docs/settings.md from the table of settings: `python -m scripts.settings_reference`."""

from __future__ import annotations

from pathlib import Path

from scripts.markdown import generated_by, table, write
from service_kit.settings import SETTINGS, Setting, to_text
from service_kit.settings_table import SECTIONS

NAME = "settings.md"

_INTRO = """\
# Settings

A setting has one name, such as `router.lease_ttl`. Its value is the first of these that is there:

1. a flag: `--set router.lease_ttl=10s` on any `atelier` command (some have a flag of their own, such as `--data-dir`);
2. the environment: `ATELIER_ROUTER_LEASE_TTL=10s`. The section `core` leaves its name out: `ATELIER_DATA_DIR`;
3. the settings file: `--config FILE`, else `ATELIER_CONFIG`, else `atelier.toml` in the current folder;
4. the default.

```toml
[router]
lease_ttl = "10s"
```

Names that are not in this list are errors that name the nearest known one. Secrets can also come from a file: the
variable with `_FILE` at its end names it. `atelier config show` prints every value and where it came from, secrets
masked.

Durations are written `50ms`, `30s`, `15m`, `1h30m`, `7d`; sizes as bytes, or with `KiB`, `MiB`, `GiB`; lists with
commas; switches `true` or `false`.
"""


def render() -> str:
    """Return the whole page."""
    parts = [generated_by("scripts.settings_reference"), _INTRO]
    for name, section in SECTIONS.items():
        rows = [_row(setting) for setting in SETTINGS if setting.section == name]
        parts.append(f"## {name}\n\n{section.__doc__}\n")
        parts.append(table(("setting", "environment", "takes", "default", "meaning"), rows) + "\n")
    return "\n".join(parts)


def _row(setting: Setting) -> tuple[str, ...]:
    environment = f"`{setting.env}`" + (f" or `{setting.env}_FILE`" if setting.secret else "")
    return (f"`{setting.name}`", environment, setting.kind, _default(setting), setting.doc)


def _default(setting: Setting) -> str:
    if setting.kind == "path":
        # The same page on every machine.
        return f"`{str(setting.default).replace(str(Path.home()), '~', 1)}`"
    text = "" if setting.secret else to_text(setting.default)
    return f"`{text}`" if text else "empty"


if __name__ == "__main__":
    write(NAME, render())
