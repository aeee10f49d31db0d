"""What each kind of fault does. An action returns when its fault is over and everything it took away is back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from faults.actions import clocks, connections, disks, kills, lies, pauses
from faults.field import Field
from faults.schedule import FaultPlan, Kind

Action = Callable[[Field, FaultPlan], Awaitable[str]]

ACTIONS: Mapping[Kind, Action] = {
    Kind.KILL_WORKER: kills.kill_worker,
    Kind.KILL_ROUTER: kills.kill_router,
    Kind.KILL_ASSET_SERVICE: kills.kill_asset_service,
    Kind.KILL_LIBRARY: kills.kill_library,
    Kind.KILL_POSTGRES: kills.kill_postgres,
    Kind.STALL_CONNECTION: connections.stall,
    Kind.CUT_CONNECTION: connections.cut,
    Kind.PAUSE_WORKER: pauses.pause_worker,
    Kind.PAUSE_ROUTER: pauses.pause_router,
    Kind.REPORT_TWICE: lies.lie,
    Kind.REPORT_LATE: lies.lie,
    Kind.REPORT_OLD_FENCE: lies.lie,
    Kind.REPORT_FORGED: lies.lie,
    Kind.REPORT_FOREIGN: lies.lie,
    Kind.FULL_DISK: disks.fill,
    Kind.STEP_CLOCK: clocks.step,
}
