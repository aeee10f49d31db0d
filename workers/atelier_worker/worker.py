"""The composition root of a process of workers: a plan in, workers that run until they are told to stop, an exit code.

Exit codes, for a supervisor: 0 after a stop; 2 when settings, key or every engine cannot be used; 4 when the router
refuses; 70 for a fault of ours; 143 after a second signal.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from atelier_worker.member import Member, State
from atelier_worker.neighbours import Neighbours
from atelier_worker.patience import Patience
from atelier_worker.plans import ProcessPlan, plan_of_settings
from atelier_worker.status_server import StatusServer
from service_kit.errors import AtelierError
from service_kit.settings import Settings, SettingsError

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_REFUSED = 4
EXIT_FAULT = 70
_EXIT_CODES = {State.UNUSABLE: EXIT_USAGE, State.REFUSED: EXIT_REFUSED, State.FAULT: EXIT_FAULT}


async def run_worker(
    settings: Settings,
    *,
    stop: asyncio.Event,
    patience: Patience | None = None,
) -> int:
    """Run the worker that the settings describe; as `run_plan`."""
    try:
        plan = plan_of_settings(settings)
    except (SettingsError, OSError) as error:
        return _say(str(error), EXIT_USAGE)
    return await run_plan(plan, stop=stop, patience=patience)


async def run_plan(plan: ProcessPlan, *, stop: asyncio.Event, patience: Patience | None = None) -> int:
    """Run a worker for each engine until `stop` is set; then let what runs finish within the grace, hand back the rest.

    An engine that cannot be used, or a worker that the router refuses, does not disturb the others; only when none is
    left does the process end. A router that cannot be reached is tried for ever.

    Returns:
        The exit code of the process. Why it ended is one sentence for each worker on standard error.
    """
    changed, neighbours = asyncio.Event(), Neighbours()
    members = [Member(plan, one, neighbours, patience or Patience(), changed.set) for one in plan.engines]
    try:
        status = await _open_status(plan, members)
    except (SettingsError, AtelierError) as error:
        return _say(str(error), EXIT_USAGE)
    ended = asyncio.Event()
    running = [asyncio.create_task(one.run(ended), name=f"worker {one.plan.name}") for one in members]
    try:
        await _until_stopped(members, stop, changed)
        code = EXIT_OK if stop.is_set() else max(_EXIT_CODES[one.state] for one in members)
        ended.set()
        await asyncio.gather(*running)
        return code
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if status is not None:
            await status.stop()


async def _open_status(plan: ProcessPlan, members: Sequence[Member]) -> StatusServer | None:
    if not plan.status:
        return None
    server = StatusServer(plan.status, members, insecure=plan.insecure)
    await server.start()
    return server


async def _until_stopped(members: Sequence[Member], stop: asyncio.Event, changed: asyncio.Event) -> None:
    """Wait until the process is told to stop or no worker is left that could do anything."""
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        while not stop.is_set() and not all(one.down for one in members):
            changed.clear()
            news = asyncio.create_task(changed.wait(), name="changes")
            await asyncio.wait((stopped, news), return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
    finally:
        stopped.cancel()


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(sentence + "\n")
    return code
