"""Submits jobs to the router over gRPC, as an internal service does: bare stubs, an identity token in the metadata."""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import Any

import grpc

from atelier.identity.v1 import identity_service_pb2 as identity_pb
from atelier.identity.v1 import identity_service_pb2_grpc
from atelier.router.v1 import router_service_pb2 as pb
from atelier.router.v1 import router_service_pb2_grpc
from atelier.type.v1 import generation_pb2
from benchmarks.child import serve, submit_burst, submit_paced

_OWNERS = 16
_PROMPT = "a lighthouse on a basalt cliff in a storm, long exposure, teal and slate"


class Submitters:
    """Users of their own, each with a key, who submit in turn."""

    def __init__(self, target: str, admin_key: str) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._identity = identity_service_pb2_grpc.IdentityServiceStub(self._channel)
        self._router = router_service_pb2_grpc.RouterServiceStub(self._channel)
        self._admin_key = admin_key
        self._keys: list[str] = []
        self._calls: itertools.cycle[Any] = itertools.cycle([])

    async def prepare(self) -> None:
        """Make the users' keys once, and sign in; a token lives five minutes, so this comes before each measurement."""
        if not self._keys:
            admin = await self._token(self._admin_key)
            for number in range(_OWNERS):
                request = identity_pb.CreateKeyRequest(owner_id=f"bench-{number}", kind=identity_pb.KEY_KIND_USER)
                made = await self._identity.CreateKey(request, metadata=admin)
                self._keys.append(made.secret)
        self._calls = itertools.cycle([await self._token(key) for key in self._keys])

    async def burst(self, jobs: int, submitters: int, text: bool) -> dict[str, Any]:
        """Submit as fast as the router answers; jobs for a text, which have no bytes, or for a picture."""
        return await submit_burst(self._submit_text if text else self._submit, jobs, submitters)

    async def paced(self, jobs: int, per_second: float) -> dict[str, Any]:
        """Submit at a steady rate."""
        return await submit_paced(self._submit, jobs, per_second)

    async def _submit(self, submitted_ns: int) -> None:
        # The worker reads from the prompt when its job was submitted.
        request = pb.GenerateContentRequest(
            prompt=f"{_PROMPT} #{submitted_ns}", model="sdxl", format=generation_pb2.FORMAT_IMAGE, quantity=1, seed=1
        )
        await self._router.GenerateContent(request, metadata=next(self._calls))

    async def _submit_text(self, submitted_ns: int) -> None:
        request = pb.GenerateContentRequest(
            prompt=f"{_PROMPT} #{submitted_ns}", model="sdxl", enhancement_only=True, seed=1
        )
        await self._router.GenerateContent(request, metadata=next(self._calls))

    async def _token(self, key: str) -> Any:
        reply = await self._identity.ExchangeKey(identity_pb.ExchangeKeyRequest(secret=key))
        return (("authorization", f"Bearer {reply.identity_token}"),)


async def main(target: str, admin_key: str) -> None:
    """Do what the parent says, until it closes our input."""
    submitters = Submitters(target, admin_key)
    await serve({"prepare": submitters.prepare, "burst": submitters.burst, "paced": submitters.paced})


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
