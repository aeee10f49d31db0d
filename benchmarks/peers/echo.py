"""Bare gRPC: `serve` sends back what it gets, `call` calls it, each in a process of its own."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import grpc

from benchmarks.child import cpu_seconds, serve

_SERVICE, _METHOD = "bench.Echo", "Echo"


async def _echo(request: bytes, context: Any) -> bytes:
    return request


async def answer_calls() -> None:
    """Serve on a free port, which the parent asks for."""
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await serve({"port": lambda: {"port": port}, "used": lambda: {"cpu_s": cpu_seconds()}})
    await server.stop(None)


async def make_calls(target: str) -> None:
    """Call as the parent says."""
    async with grpc.aio.insecure_channel(target) as channel:
        echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{_SERVICE}/{_METHOD}")

        async def burst(seconds: float, concurrency: int, payload_bytes: int) -> dict[str, Any]:
            payload, calls, ends_at = b"x" * payload_bytes, 0, time.monotonic() + seconds

            async def one() -> None:
                nonlocal calls
                while time.monotonic() < ends_at:
                    await echo(payload)
                    calls += 1

            cpu, started = cpu_seconds(), time.monotonic()
            await asyncio.gather(*(one() for _ in range(concurrency)))
            return {"calls": calls, "seconds": time.monotonic() - started, "cpu_s": cpu_seconds() - cpu}

        await serve({"burst": burst})


if __name__ == "__main__":
    asyncio.run(answer_calls() if sys.argv[1] == "serve" else make_calls(sys.argv[2]))
