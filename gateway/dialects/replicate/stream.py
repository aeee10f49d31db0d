"""`/replicate/v1/predictions/{id}/stream`: a prediction as server-sent events, each with an id."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from atelier.router.v1 import job_pb2
from gateway.dialects.call import Call
from gateway.dialects.dialect import Endpoint, says_422
from gateway.dialects.fields import mapped
from gateway.dialects.jobs import has_ended, job_of
from gateway.dialects.progress import why
from gateway.dialects.replicate.answers import STREAM, output_of, status_of
from gateway.dialects.replicate.catalogue import ROOT
from gateway.render import dump
from service_kit.errors import AtelierError, ErrorReason, Unauthenticated

_GRANT = (mapped("grant", "who asks, for clients that send no key here", "from-urls.stream"),)


@says_422
async def stream(call: Call) -> None:
    """Send text as it is written, files when they are there, what engines say, and the end.

    Who has no key, as one of the clients here, comes with the address that a prediction was answered with. A key that
    is sent is what counts.
    """
    job_id, grant = call.path["id"], call.query().text("grant")
    if grant and not any(name in call.headers for name in ("authorization", "x-api-key")):
        found = call.kit.grants.read(grant, STREAM)
        if found.subject != job_id:
            raise Unauthenticated("The address is of another prediction.", ErrorReason.INVALID_IDENTITY)
        call.act_for(found)
    job = await call.jobs.get(job_id)
    await call.stream_watched(_events(call, job.job_id))


async def _events(call: Call, job_id: str) -> AsyncGenerator[bytes, None]:
    frames = _Frames(job_id)
    try:
        async with aclosing(call.jobs.watch(job_id)) as events:
            async for event in events:
                kind, job = event.WhichOneof("event"), job_of(event)
                if kind == "text_delta" and event.text_delta.text:
                    yield frames.text(event.text_delta.offset, event.text_delta.text)
                elif kind == "log":
                    yield frames.frame("logs", event.log.line)
                elif job is not None and has_ended(job):
                    for frame in await _last(call, job, frames):
                        yield frame
                    return
    except AtelierError as error:
        yield frames.frame("error", error.message)


async def _last(call: Call, job: job_pb2.Job, frames: _Frames) -> list[bytes]:
    status = status_of(job)
    if status == "failed":
        return [frames.frame("error", why(job)), frames.done("error")]
    if status == "canceled":
        return [frames.done("canceled")]
    output = output_of(job, await call.jobs.assets(job.job_id) if job.outputs else [])
    if job.HasField("reply"):
        rest = job.reply.text[frames.written :]
        return [*([frames.frame("output", rest)] if rest else []), frames.done()]
    urls = output if isinstance(output, list) else [output] if output else []
    return [*(frames.frame("output", url) for url in urls), frames.done()]


class _Frames:
    """Makes events with ids that grow."""

    def __init__(self, job_id: str) -> None:
        self.written = 0
        self._job_id = job_id
        self._count = 0

    def frame(self, event: str, text: str) -> bytes:
        self._count += 1
        lines = "".join(f"data: {line}\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
        return f"event: {event}\nid: {self._job_id}:{self._count}\n{lines}\n".encode()

    def text(self, offset: int, text: str) -> bytes:
        """Return the part of a piece of text that was not sent yet."""
        fresh = text[max(0, self.written - offset) :]
        self.written = max(self.written, offset + len(text))
        return self.frame("output", fresh) if fresh else b": nothing new\n\n"

    def done(self, reason: str = "") -> bytes:
        return self.frame("done", dump({"reason": reason} if reason else {}).decode())


ENDPOINTS = (
    Endpoint(
        "GET",
        f"{ROOT}/predictions/{{id}}/stream",
        stream,
        query=_GRANT,
        open=True,
        note="Events `output`, `logs`, `error` and `done`. Every model streams; files are sent as addresses.",
    ),
)
