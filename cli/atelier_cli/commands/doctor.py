"""`atelier doctor`: checks this machine and the running system, and says what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atelier_cli import ports
from atelier_cli.commands.serve import is_worker_file
from atelier_cli.context import Context
from atelier_cli.exits import JOB_FAILED, OK, UNREACHABLE, UsageError
from atelier_cli.host import PACKAGES
from service_kit.units import GIB, sized

if TYPE_CHECKING:
    from atelier_client import Atelier
    from service_kit.settings import Settings

LEAST_FREE_BYTES = GIB
# Engines import large libraries, one after another.
_CHECKUP_SECONDS = 600
_RUN_IT = "`atelier worker --config` says more."
_KEY_FILES = ("admin.key", "gateway.key", "library.key", "worker.key")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, whether it is well, what was seen, and what to do when it is not."""

    check: str
    ok: bool
    seen: str
    remedy: str = ""


def doctor(context: Context) -> int:
    """Check everything; ends with 0 when all is well, 3 when no gateway answers, else 1.

    With a worker.toml as --config it checks what that file would run, on a machine that may have nothing else.
    """
    file = context.config
    if file is not None and is_worker_file(file):
        findings = [_python(), *_of_workers(file, getattr(context.arguments, "data_dir", None))]
        _tell(context, findings)
        return OK if all(finding.ok for finding in findings) else JOB_FAILED
    settings = context.settings
    findings = [_python(), *_data_folder(settings), *_keys(settings)]
    system, reached = _system(context)
    findings += [*_ports(settings, reached), *system]
    _tell(context, findings)
    if not reached:
        return UNREACHABLE
    return OK if all(finding.ok for finding in findings) else JOB_FAILED


def _of_workers(file: Path, data_dir: str | None) -> list[Finding]:
    """What the worker's package finds: it speaks to the router and makes engines, in a process of its own."""
    command = [sys.executable, "-m", "atelier_worker.checkup", "--config", str(file)]
    environ = {name: text for name, text in os.environ.items() if name != "ATELIER_CONFIG"}
    if data_dir is not None:
        environ["ATELIER_DATA_DIR"] = data_dir
    try:
        done = subprocess.run(  # noqa: S603 - a fixed list
            command, env=environ, capture_output=True, timeout=_CHECKUP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as late:
        seen = f"not all of it was checked within {_CHECKUP_SECONDS:g} seconds"
        return [*_findings(late.stdout or b""), Finding(file.name, False, seen, _RUN_IT)]
    findings = _findings(done.stdout)
    if done.returncode == 0 and findings:
        return findings
    last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2] or "it said nothing"
    return [*findings, Finding(file.name, False, f"it could not be checked: {last}", _RUN_IT)]


def _findings(printed: bytes) -> list[Finding]:
    """The findings in whole lines of what the checkup printed; a library that it loads may print lines of its own."""
    return [Finding(**json.loads(line)) for line in printed.split(b"\n")[:-1] if line.startswith(b'{"check"')]


def _tell(context: Context, findings: list[Finding]) -> None:
    if context.json:
        context.print_json(
            {"findings": [{"check": f.check, "ok": f.ok, "seen": f.seen, "remedy": f.remedy} for f in findings]}
        )
    else:
        for finding in findings:
            context.print(f"{'ok  ' if finding.ok else 'BAD '} {finding.check}: {finding.seen}")
            if not finding.ok and finding.remedy:
                context.print(f"       {finding.remedy}")


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", sys.version_info >= (3, 11), version, "Atelier needs Python 3.11 or newer.")


def _data_folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.core.data_dir
    if not folder.is_dir():
        yield Finding("data folder", False, f"{folder} is not there", "`atelier up` makes it.")
        return
    free = shutil.disk_usage(folder).free
    seen = f"{folder}, {sized(free)} free"
    yield Finding(
        "data folder",
        free >= LEAST_FREE_BYTES,
        seen,
        "Free some space, or choose another folder with ATELIER_DATA_DIR.",
    )


def _keys(settings: Settings) -> Iterator[Finding]:
    folder = settings.keys_dir
    if not folder.is_dir():
        yield Finding("key files", False, f"{folder} is not there", "The first start of `atelier up` writes them.")
        return
    missing = [name for name in _KEY_FILES if not (folder / name).is_file()]
    if missing:
        yield Finding("key files", False, f"missing: {', '.join(missing)}", "Start the router once: it writes them.")
    open_files = [path.name for path in sorted(folder.iterdir()) if _others_may_read(path)]
    if open_files:
        remedy = f"chmod 600 {folder}/*"
        yield Finding("key files", False, f"others can read {', '.join(open_files)}", remedy)
    if not missing and not open_files:
        yield Finding("key files", True, f"{folder}, readable by their owner only")


def _others_may_read(path: Path) -> bool:
    return path.is_file() and bool(path.stat().st_mode & 0o077)


def _ports(settings: Settings, reached: bool) -> Iterator[Finding]:
    """Check that each port is free, or held while Atelier runs; who holds it is named."""
    for name in PACKAGES:
        listen = settings.value(f"{name}.listen")
        try:
            ports.check_free(listen, f"{name}.listen", f"ATELIER_{name.upper()}_LISTEN")
        except UsageError as problem:
            held = ports.holder_of(ports.split(listen)[1])
            if reached:
                yield Finding(f"{name} port", True, f"{listen}, held by {held or 'a program'}")
            else:
                yield Finding(f"{name} port", False, f"{listen} is taken", str(problem))
        else:
            yield Finding(f"{name} port", True, f"{listen}, {'another address is used' if reached else 'free'}")


def _system(context: Context) -> tuple[list[Finding], bool]:
    from atelier_client import AtelierError

    with context.client() as client:
        try:
            health = client.health()
        except AtelierError as error:
            remedy = "Start it with `atelier up`, or name the right address with --url."
            return [Finding("gateway", False, str(error), remedy)], False
        remedy = "The health route says what depends on what: " + context.url + "/v1/health"
        findings = [Finding("gateway", health.serving, f"{context.url}, {health.status}", remedy)]
        try:
            findings += _inside(client)
        except AtelierError as error:
            findings.append(Finding("your key", False, str(error), "Give a key with --key-file or ATELIER_CLIENT_KEY."))
        return findings, True


def _inside(client: Atelier) -> Iterator[Finding]:
    identity = client.identity()
    yield Finding("your key", True, f"{identity.kind} of {identity.tenant_id}/{identity.owner_id}")
    pools: dict[str, tuple[int, str]] = {}
    for model in client.models():
        pools[model.worker_type] = (model.connected_workers, model.hint)
    for worker_type, (workers, hint) in pools.items():
        yield Finding(
            f"workers of type {worker_type}",
            workers > 0,
            f"{workers} connected",
            hint or "Start one: atelier worker --connect …",
        )
