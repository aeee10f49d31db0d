"""What a worker.toml would run on this machine, what is missing and what to do: for `atelier doctor --config`.

`python -m atelier_worker.checkup --config worker.toml` prints it as JSON, a line for each finding as it is made. Each
engine is made in a process of its own, as the worker makes it, and each worker introduces itself to the router, takes
no work, and goes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from atelier_worker.engine_client import EngineClient
from atelier_worker.engine_events import EngineInfo, EngineUnavailable
from atelier_worker.greeting import Greeted, greet
from atelier_worker.member import models_of, worker_types_of
from atelier_worker.plans import EnginePlan, ProcessPlan
from atelier_worker.weight_files import BrokenFile, memory_bytes, safetensors_in
from atelier_worker.worker_file import read_worker_file
from service_kit.devices import find_gpus
from service_kit.settings import SettingsError, load
from service_kit.units import sized

_START_LIMIT_S = 120.0
# Working memory beside the weights, at the least.
_ROOM = 1.1
_REPLACE = "Replace the file: delete it, and download it again."


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, whether it is well, what was seen, and what to do when it is not."""

    check: str
    ok: bool
    seen: str
    remedy: str = ""


async def check_up(file: Path, environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Yield a finding for everything that was looked at; one that is not ok has a remedy or says it in `seen`."""
    try:
        plan = read_worker_file(file, load(environ=environ))
    except (SettingsError, ValueError) as error:
        yield Finding(file.name, False, str(error), f"Correct {file.name}.")
        return
    yield Finding(file.name, True, f"{len(plan.engines)} engine{'s' if len(plan.engines) > 1 else ''}")
    router_answers = True
    for engine in plan.engines:
        for finding in await asyncio.to_thread(look_at_weights, engine):
            yield finding
        info, made = await _make(engine)
        yield made
        if router_answers:
            greeted = await greet(plan, engine, info)
            # Said once: it is the same for all, and each question may take its whole deadline.
            router_answers = greeted.answered
            yield _of_router(plan, engine, greeted)


async def _make(plan: EnginePlan) -> tuple[EngineInfo | None, Finding]:
    """Make the engine in a process of its own, as the worker does, and end it again."""
    what = f"engine {plan.name}"
    client = EngineClient(plan.engine, plan.options, limits=plan.limits)
    try:
        async with asyncio.timeout(_START_LIMIT_S):
            info = await client.start()
    except EngineUnavailable as error:
        return None, Finding(what, False, str(error))
    except TimeoutError:
        seen = f"it was not ready within {_START_LIMIT_S:g} seconds"
        return None, Finding(what, False, seen, "Look at what it prints: atelier worker --config says more.")
    finally:
        await client.stop()
    types = ", ".join(worker_types_of(plan, info))
    models = ", ".join(models_of(plan, info)) or "every model"
    return info, Finding(what, True, f"{info.name} for {types}: {models}")


def _of_router(process: ProcessPlan, plan: EnginePlan, greeted: Greeted) -> Finding:
    what = f"router for {plan.name}"
    if greeted.problem:
        return Finding(what, False, greeted.problem, greeted.remedy)
    if greeted.warnings:
        return Finding(what, False, "; ".join(greeted.warnings))
    return Finding(what, True, f"{process.connect} takes this worker")


def look_at_weights(plan: EnginePlan) -> list[Finding]:
    """Look at the local files of an engine's models, and whether its device holds the largest of them."""
    findings: list[Finding] = []
    largest, of_model = 0, ""
    for model in _models(plan.options):
        name, source = str(model.get("name", "")), Path(str(model.get("source", "")))
        dtype = _dtype_of(plan, model)
        if not source.is_absolute():
            # An id of a hub, or a name of an upstream.
            continue
        try:
            files = safetensors_in(source)
            size = memory_bytes(files, dtype)
        except OSError as error:
            seen = f"{source} cannot be read: {error.strerror}"
            findings.append(Finding(f"weights of {plan.name}, {name}", False, seen, "Let the worker's user read it."))
            continue
        except BrokenFile as broken:
            findings.append(Finding(f"weights of {plan.name}, {name}", False, str(broken), _REPLACE))
            continue
        if not files:
            # The engine names what is not there.
            continue
        findings.append(
            Finding(f"weights of {plan.name}, {name}", True, f"{len(files)} files, {sized(size)} in memory")
        )
        if size > largest:
            largest, of_model = size, name
    return [*findings, _memory(plan, of_model, largest)] if largest else findings


def _dtype_of(plan: EnginePlan, model: Mapping[str, object]) -> str:
    """The type of a model's numbers in memory: `auto` of `diffusers` is by the device, elsewhere as in the files."""
    dtype = str(model.get("dtype", plan.options.get("dtype", "auto")))
    if plan.engine != "diffusers":
        return dtype
    from atelier_worker.engines.diffusers_engine.models import effective_dtype

    device, _ = _free(str(plan.options.get("device", "auto")))
    return effective_dtype(dtype, device)


def _models(options: Mapping[str, object]) -> list[Mapping[str, object]]:
    listed = options.get("models")
    return [model for model in listed if isinstance(model, Mapping)] if isinstance(listed, list) else []


def _memory(plan: EnginePlan, model: str, size: int) -> Finding:
    """Whether the device has the memory for one model; by the sizes of files, so an estimate on the low side."""
    what, wanted = f"memory for {plan.name}", str(plan.options.get("device", "auto"))
    need = int(size * _ROOM)
    device, free = _free(wanted)
    if free is None:
        return Finding(what, False, f"there is no {wanted} on this machine", f"Name another device: {device or 'cpu'}.")
    seen = f"{model} needs about {sized(need)}, and {device} has {sized(free)} free"
    remedy = 'End what uses the device, take a smaller model or dtype = "bfloat16", or another device.'
    return Finding(what, free >= need, seen, remedy)


def _free(wanted: str) -> tuple[str, int | None]:
    """The device that is meant and its free bytes; None when there is none, with one that there is."""
    from atelier_worker.engines.residency.device_memory import HostMemory

    gpus = find_gpus()
    if wanted == "cpu" or (wanted == "auto" and not gpus):
        return "cpu", HostMemory().free_bytes()
    named = "cuda:0" if wanted in ("auto", "cuda") else wanted
    found = next((gpu for gpu in gpus if gpu.device == named), None)
    return (found.device, found.free_bytes) if found else (gpus[0].device if gpus else "", None)


def main(arguments: list[str] | None = None) -> int:
    """Print the findings as lines of JSON: `{"check": …, "ok": …, "seen": …, "remedy": …}`."""
    parser = argparse.ArgumentParser(prog="python -m atelier_worker.checkup", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    file: Path = parser.parse_args(arguments).config
    asyncio.run(_print_all(file))
    return 0


async def _print_all(file: Path) -> None:
    async for finding in check_up(file, os.environ):
        sys.stdout.write(json.dumps(asdict(finding)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
