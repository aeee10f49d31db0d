"""One request of a dialect as its endpoints see it, and what they share."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from atelier.router.v1 import job_pb2, router_service_pb2
from gateway.backends import Metadata
from gateway.context import Context
from gateway.dialects import forms
from gateway.dialects.dialect import Dialect, Endpoint
from gateway.dialects.failures import not_ended, problem_of
from gateway.dialects.fields import Values, read
from gateway.dialects.grants import Grant, Grants
from gateway.dialects.jobs import Calls, Jobs, has_ended
from gateway.dialects.unanswered import Unanswered
from gateway.http import ClientGone, Exchange, Reply
from gateway.media import Media
from gateway.render import dump
from gateway.sse import send_events
from gateway.status import malformed
from gateway.streams import Access
from service_kit.errors import ErrorReason, Unauthenticated, Unavailable

_Result = TypeVar("_Result")

WAIT_LIMIT = timedelta(seconds=190)
"""How long a client waits in one request. Clients repeat what took too long twice, and a retry is matched for ten
minutes: three waits are to lie within them."""

DIALECT = "dialect"
"""The annotation of a job that names the dialect by which it came."""


@dataclass(frozen=True, slots=True)
class Kit:
    """What every request of every dialect shares."""

    context: Context
    calls: Calls
    media: Media
    public_url: str
    """The address of the gateway for clients, without a slash at its end."""
    grants: Grants
    unanswered: Unanswered

    def call(self, dialect: Dialect, endpoint: Endpoint, exchange: Exchange, path: Mapping[str, str]) -> Call:
        """Return what an endpoint is given."""
        access = self.context.access(exchange)
        return Call(self, dialect, endpoint, exchange, path, access, Jobs(self.calls, access))


@dataclass(slots=True)
class Call:
    """One request of a dialect."""

    kit: Kit
    dialect: Dialect
    endpoint: Endpoint
    exchange: Exchange
    path: Mapping[str, str]
    """The values in the path."""
    access: Access
    jobs: Jobs
    digest: str = ""
    """Names what the client sent, once `values` has read it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the request, in lower case."""
        return self.exchange.headers

    @property
    def now(self) -> int:
        """The time in whole seconds since 1970."""
        return int(self.kit.context.clock.now().timestamp())

    def act_for(self, grant: Grant) -> None:
        """Let every call from now on be one on behalf of the owner of a grant, while the key of the grant works."""
        context = self.kit.context
        act = context.access_of(self.exchange, self.kit.grants.credential, grant.owner)

        async def access() -> Metadata:
            entries = await act()
            if not await context.backends.key_works(grant.key_id, entries, context.request_timeout):
                raise Unauthenticated("The address works no more: its key was revoked.", ErrorReason.INVALID_IDENTITY)
            return entries

        self.access = access
        self.jobs = Jobs(self.kit.calls, access)

    def query(self) -> Values:
        """Read the query by the endpoint's table. Raises InvalidArgument, which names the parameters."""
        return read(self.endpoint.query, forms.query_values(self.exchange), from_text=True)

    async def values(self) -> Values:
        """Read the body, JSON or a form, by the endpoint's table.

        Raises:
            InvalidArgument: names every field that is refused.
            ResourceExhausted: it is too large.
        """
        exchange, form = self.exchange, forms.is_form(self.exchange)
        if form:
            given = await forms.read_form(exchange)
        else:
            most = forms.MAX_FORM_BYTES if self.endpoint.large else self.kit.context.max_body_bytes
            given = await forms.read_json(exchange, most)
        twice = getattr(given, "repeated", ())
        if twice:
            raise malformed("is given twice", twice[0])
        values = read(self.endpoint.fields, given, from_text=form)
        path = "/".join(self.path.values())
        self.digest = await forms.digest_of(f"{self.endpoint.method} {self.endpoint.template} {path}", given)
        return values

    async def submit(
        self, request: router_service_pb2.GenerateContentRequest, notes: Mapping[str, str]
    ) -> router_service_pb2.GenerateContentResponse:
        """Submit a job that can be found by the dialect again, or answer what it became before.

        `notes` are kept on it as annotations.

        Raises:
            AtelierError: it is refused.
            ClientGone: nobody would learn of the job. A retry may be here already, and has made it.
        """
        if self.exchange.has_gone():
            raise ClientGone
        request.annotations.update({**notes, DIALECT: self.dialect.name})
        if self.dialect.marks_retries:
            return await self.jobs.submit(request, digest=self.digest, headers=self.headers)
        async with self.kit.unanswered.turn(self._name) as is_retry:
            accepted = await self.jobs.submit(request, digest=self.digest, headers=self.headers, is_retry=is_retry)
            if self.exchange.has_gone():
                self._note_unanswered()
            return accepted

    def _note_unanswered(self) -> None:
        """Remember that the client went, where its retry would not say so: only what has a body can make a job."""
        if not self.dialect.marks_retries and self.digest:
            self.kit.unanswered.note(self._name)

    @property
    def _name(self) -> str:
        """Names the caller and what it sent, without saying either."""
        said = "\n".join((self.digest, *(self.headers.get(name, "") for name in ("authorization", "x-api-key"))))
        return hashlib.sha256(said.encode()).hexdigest()

    async def finished(self, job_id: str) -> job_pb2.Job:
        """Return a job when it has succeeded. It goes on when nobody waits for it any more.

        Raises:
            HttpProblem: it has failed, or was cancelled.
            DeadlineExceeded: it has not ended after `WAIT_LIMIT`.
            ClientGone: the client has gone.
        """
        job = await self.while_connected(self.jobs.wait(job_id, WAIT_LIMIT))
        if not has_ended(job):
            raise not_ended(job, WAIT_LIMIT)
        if job.state != job_pb2.JOB_STATE_SUCCEEDED:
            raise problem_of(job)
        return job

    async def while_connected(self, work: Awaitable[_Result]) -> _Result:
        """Return what `work` gives, unless the client goes or the gateway closes first: then it is given up.

        Raises:
            ClientGone: the client has gone.
            Unavailable: the gateway closes; a retry goes to another one, or waits for this one.
        """
        working = asyncio.ensure_future(work)
        gone = asyncio.create_task(self.exchange.disconnected(), name="dialect-disconnect")
        closing = asyncio.create_task(self.kit.context.closing.wait(), name="dialect-closing")
        tasks: tuple[asyncio.Future[Any], ...] = (working, gone, closing)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if gone.done():
                self._note_unanswered()
                raise ClientGone
            raise Unavailable("The gateway is closing; repeat.", retry_after=timedelta(seconds=1))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stream_watched(self, frames: AsyncGenerator[bytes, None]) -> None:
        """Do as `stream` for what is only watched; it counts among the open streams of the owner.

        Raises:
            ResourceExhausted: there are too many.
        """
        streams = self.kit.context.streams
        owner = streams.take(await self.access())
        try:
            await self.stream(frames)
        finally:
            streams.give(owner)

    async def stream(self, frames: AsyncGenerator[bytes, None], opening: bytes = b"") -> None:
        """Send server-sent events until `frames` ends, the client goes, or the gateway closes; then close `frames`.

        When the gateway closes, what is watched raises Unavailable: `frames` says so in the words of the dialect.

        `opening` comes first. Most clients of others fail at a frame without data: it should be a comment, or nothing.
        """
        context = self.kit.context
        await send_events(
            self.exchange, frames, closing=context.closing, ping_interval=context.ping_interval, opening=opening
        )

    async def content(self, url: str) -> bytes:
        """Return the bytes behind a signed address of an asset. Raises NotFound when they are gone."""
        return await self.kit.media.read(url)


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a reply with a JSON body."""
    merged = {"content-type": "application/json", "cache-control": "no-store", **(headers or {})}
    return Reply(status, merged, dump(value))


async def serve(kit: Kit, dialect: Dialect, exchange: Exchange, segments: Sequence[str]) -> Reply | None:
    """Serve a request of a dialect. The identity is asked for before anything of the body is read.

    Raises:
        AtelierError: the request is refused.
    """
    endpoint, values = dialect.find(exchange.method, segments)
    exchange.schemes = dialect.schemes
    call = kit.call(dialect, endpoint, exchange, values)
    if not endpoint.open:
        await call.access()
    return await endpoint.serve(call)
