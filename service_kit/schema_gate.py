"""What a service does until its database is ready: on PostgreSQL it waits, answers NOT_SERVING, and says why.

Schemas there are brought up to date by `atelier migrate`, once, and not by each of the processes that start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from service_kit.database import Database
from service_kit.errors import FailedPrecondition, Unavailable
from service_kit.health import HealthBoard, HealthServicer
from service_kit.migrate import check_not_newer, ensure_schema, newest_revision, stored_revision
from service_kit.storage_errors import opening_database
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_LOOK_AGAIN_S = 0.5


async def schema_ready(db: Database, package: str, *, listen: str) -> None:
    """Return when the schema of a service is what this release needs.

    A SQLite file is migrated here. On PostgreSQL this waits for the database, and for `atelier migrate`; meanwhile the
    address `listen` answers the health protocol with NOT_SERVING and every other call with UNAVAILABLE.

    Raises:
        FailedPrecondition: the schema is newer than this release, or a file cannot be used.
    """
    if db.is_sqlite:
        await ensure_schema(db, package)
        return
    problem = await _problem(db, package)
    if problem is None:
        return
    board = HealthBoard()
    async with _answering(listen, board):
        told = ""
        while problem is not None:
            board.set("database", False, problem)
            if problem != told:
                log.warning("database_not_ready", schema=db.schema, problem=problem)
                told = problem
            await asyncio.sleep(_LOOK_AGAIN_S)
            problem = await _problem(db, package)
    log.info("database_ready", schema=db.schema)


async def _problem(db: Database, package: str) -> str | None:
    newest = newest_revision(package)
    try:
        with opening_database(db.url.render_as_string()):
            stored = await stored_revision(db)
    except (FailedPrecondition, Unavailable) as error:
        return error.message
    check_not_newer(db, stored, newest)
    if stored == newest:
        return None
    return f"The schema {db.schema} has revision {stored or 'none'}, and {newest} is needed: run `atelier migrate`."


@asynccontextmanager
async def _answering(listen: str, board: HealthBoard) -> AsyncIterator[None]:
    # A second process on the same port must fail, not share it.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(board), server)
    server.add_generic_rpc_handlers((_NotYet(),))
    try:
        server.add_insecure_port(listen)
    except RuntimeError:
        raise FailedPrecondition(f"The address {listen} is in use, or is not one of this machine.") from None
    await server.start()
    board.start(())
    try:
        yield
    finally:
        await server.stop(None)


class _NotYet(grpc.GenericRpcHandler):
    """Refuses whatever is called, so that clients repeat it instead of taking the method for missing."""

    def service(self, _details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _refuse(self, _requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "The database of this service is not ready yet; repeat later.")
