"""One introduction to a router, without taking work: whether it would take this worker, and what it warns of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import grpc

from atelier.identity.v1 import identity_service_pb2
from atelier.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier.worker.v1.worker_service_pb2_grpc import WorkerServiceStub
from atelier_worker.dial import dial
from atelier_worker.engine_events import EngineInfo
from atelier_worker.member import models_of, worker_types_of
from atelier_worker.plans import EnginePlan, ProcessPlan
from atelier_worker.session import Introduction
from atelier_worker.targets import Targets
from service_kit.ids import new_id
from service_kit.rpc_errors import from_rpc_error
from service_kit.settings import SettingsError
from service_kit.version import __version__

_LIMIT_S = 10.0
_PART_LIMIT_S = 2.0
_START_A_ROUTER = (
    "Start it with `atelier up`, or name its host:port as connect in [worker] (by default port 7401); between "
    "machines, let the firewall pass it."
)
_NEW_KEY = (
    "An operator makes one: atelier keys create --kind worker --owner NAME --out worker.key; name it as key_file."
)


@dataclass(frozen=True, slots=True)
class Greeted:
    """What came of it: `problem` and `remedy` are empty when all is well; `answered` tells whether a router said it."""

    problem: str = ""
    remedy: str = ""
    warnings: tuple[str, ...] = ()
    answered: bool = True


async def greet(process: ProcessPlan, plan: EnginePlan, info: EngineInfo | None) -> Greeted:
    """Introduce a worker, and return what the router made of it.

    A worker of that name which runs is not disturbed: this one has a name of its own for the moment.
    """
    try:
        async with asyncio.timeout(_LIMIT_S):
            target = await Targets(process.connect).next()
    except SettingsError as error:
        return Greeted(str(error), "Correct connect in [worker].")
    except (OSError, TimeoutError):
        return _nobody(f"the name of the router {process.connect} has no address")
    channel = dial(target.address, name=target.name)
    try:
        async with asyncio.timeout(_LIMIT_S):
            return Greeted(warnings=await _introduce(channel, process, _introduction(plan, info)))
    except grpc.aio.AioRpcError as error:
        return _problem(error, target.address)
    except TimeoutError:
        return _nobody(f"the router at {target.address} does not answer within {_LIMIT_S:g} seconds")
    finally:
        await channel.close()


def _introduction(plan: EnginePlan, info: EngineInfo | None) -> Introduction:
    return Introduction(
        worker_id=f"doctor-{new_id()}",
        instance_id=new_id(),
        worker_types=worker_types_of(plan, info),
        models=models_of(plan, info) or tuple(_named_models(plan)),
        slots=1,
        labels=plan.labels,
        version=__version__,
        stages=info.stages if info else (),
    )


def _named_models(plan: EnginePlan) -> Iterator[str]:
    """Yield what jobs are to call the models of an engine that does not say so itself."""
    listed = plan.options.get("models")
    for model in listed if isinstance(listed, list) else ():
        name = model.get("name") if isinstance(model, Mapping) else None
        if isinstance(name, str) and "*" not in name:
            yield name


async def _introduce(channel: grpc.aio.Channel, process: ProcessPlan, worker: Introduction) -> tuple[str, ...]:
    request = identity_service_pb2.ExchangeKeyRequest(secret=process.key.reveal())
    token = (await IdentityServiceStub(channel).ExchangeKey(request)).identity_token
    metadata = (("authorization", f"Bearer {token}"), ("x-request-id", new_id()))
    call = WorkerServiceStub(channel).Work(metadata=metadata)
    try:
        # Without a word about free slots nothing is leased to it.
        await call.write(pb.WorkRequest(hello=worker.hello([])))
        first = await call.read()
        if not isinstance(first, pb.WorkResponse):
            # The router ended the call: its status says why.
            raise grpc.aio.AioRpcError(
                await call.code(),
                await call.initial_metadata(),
                await call.trailing_metadata(),
                details=await call.details(),
            )
        await _part(call)
        return tuple(first.welcome.warnings)
    finally:
        call.cancel()


async def _part(call: grpc.aio.StreamStreamCall[pb.WorkRequest, pb.WorkResponse]) -> None:
    """Leave as a worker does: once the router has closed its side as well, this one is none of its workers any more."""
    with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
        async with asyncio.timeout(_PART_LIMIT_S):
            await call.done_writing()
            while isinstance(await call.read(), pb.WorkResponse):
                pass


def _problem(error: grpc.aio.AioRpcError, address: str) -> Greeted:
    said = from_rpc_error(error).message
    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED:
            return Greeted(f"the router at {address} does not know the worker's key", _NEW_KEY)
        case grpc.StatusCode.UNAVAILABLE:
            return _nobody(f"no router answers at {address}")
        case grpc.StatusCode.UNIMPLEMENTED:
            return _nobody(f"what answers at {address} is no router of Atelier")
        case _:
            return Greeted(f"the router at {address} refuses this worker: {said}")


def _nobody(problem: str) -> Greeted:
    return Greeted(problem, _START_A_ROUTER, answered=False)
