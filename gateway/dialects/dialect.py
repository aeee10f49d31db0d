"""A dialect: its routes, how it reads a credential, the shape of its errors; and which dialect a path belongs to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

from gateway.dialects.described import Described, Json
from gateway.dialects.fields import Field
from gateway.http import Reply
from gateway.status import HttpProblem, error_reply, method_not_allowed, unknown_route
from gateway.webhooks.bodies import Renderer
from service_kit.errors import AtelierError, InvalidArgument

if TYPE_CHECKING:
    from gateway.dialects.call import Call

Serve = Callable[["Call"], Awaitable[Reply | None]]
"""Serves one request: returns the reply, or None when it has written the response itself."""

ErrorBody = Callable[[AtelierError, int, str], Any]
"""Returns an error as the JSON of a dialect: of the error, its HTTP status and the request's id."""


_SAYS_422 = "says_422"
"""The attribute that marks what answers 422."""


def says_422(serve: Serve) -> Serve:
    """Let an endpoint answer 422 for fields that it refuses, as services made of pydantic models do."""

    @wraps(serve)
    async def served(call: Call) -> Reply | None:
        try:
            return await serve(call)
        except InvalidArgument as error:
            raise HttpProblem(error, status=422) from error

    setattr(served, _SAYS_422, True)
    return served


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route of a dialect, and what it takes."""

    method: str
    template: str
    """The whole path. `{name}` is one segment, `{name...}` at the end one or more."""
    serve: Serve
    fields: tuple[Field, ...] = ()
    """What the body takes."""
    query: tuple[Field, ...] = ()
    """What the query takes."""
    note: str = ""
    """What readers of the documents should know about it, in a sentence."""
    large: bool = False
    """Whether a JSON body may carry files, as data URIs."""
    open: bool = False
    """Whether it looks at the identity itself: some clients send none where an address is signed."""

    @property
    def says_422(self) -> bool:
        """Whether fields that it refuses are answered with 422."""
        return getattr(self.serve, _SAYS_422, False)

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """Return the values in the path, or None when the path is another one."""
        parts = self.template[1:].split("/")
        rest = parts[-1].endswith("...}")
        if len(segments) < len(parts) or (len(segments) > len(parts) and not rest):
            return None
        values: dict[str, str] = {}
        for index, part in enumerate(parts):
            if not part.startswith("{"):
                if part != segments[index]:
                    return None
                continue
            said = "/".join(segments[index:]) if part.endswith("...}") else segments[index]
            if not said:
                return None
            values[part.strip("{}").removesuffix("...")] = said
        return values


@dataclass(frozen=True, slots=True)
class Dialect:
    """Somebody else's HTTP API."""

    name: str
    """What jobs that came by it carry as the annotation `dialect`; the lower-case name of its `WebhookDialect`."""
    title: str
    prefixes: tuple[str, ...]
    """The paths that are its own: whatever goes wrong below them is said in its shape."""
    endpoints: tuple[Endpoint, ...]
    error_body: ErrorBody
    render: Renderer
    """Makes what its webhooks post."""
    error_schema: Json
    """The JSON schema of what `error_body` returns."""
    described: Mapping[Serve, Described]
    """What the OpenAPI document tells of each endpoint, by what serves it."""
    error_headers: Callable[[AtelierError, int], Mapping[str, str]] = lambda error, status: {}
    schemes: frozenset[str] = frozenset({"bearer"})
    """The schemes of `Authorization` that carry its key, in lower case."""
    marks_retries: bool = True
    """Whether its clients say so when they send something again."""

    def owns(self, path: str) -> bool:
        """Tell whether a path is the dialect's."""
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in self.prefixes)

    def error_reply(self, problem: AtelierError | HttpProblem, request_id: str) -> Reply:
        """Return the response for an error."""
        reply = error_reply(problem, request_id, self.error_body)
        error = problem.error if isinstance(problem, HttpProblem) else problem
        reply.headers.update(self.error_headers(error, reply.status))
        return reply

    def find(self, method: str, segments: Sequence[str]) -> tuple[Endpoint, dict[str, str]]:
        """Return the endpoint of a request, and the values in its path. Raises as `find_endpoint`."""
        return find_endpoint(self.endpoints, method, segments)


def find_endpoint(
    endpoints: Sequence[Endpoint], method: str, segments: Sequence[str]
) -> tuple[Endpoint, dict[str, str]]:
    """Return which of some endpoints serves a path, and the values in the path; earlier endpoints win.

    Raises:
        NotFound: none serves the path.
        HttpProblem: it is served with other methods (405).
    """
    allowed: list[str] = []
    for endpoint in endpoints:
        values = endpoint.match(segments)
        if values is None:
            continue
        if endpoint.method == method:
            return endpoint, values
        allowed.append(endpoint.method)
    path = "/" + "/".join(segments)
    if allowed:
        raise method_not_allowed(method, path, sorted(set(allowed)))
    raise unknown_route(method, path)


@dataclass(slots=True)
class Dialects:
    """The dialects that a gateway speaks."""

    all: Sequence[Dialect] = field(default_factory=tuple)

    def of(self, path: str) -> Dialect | None:
        """Return the dialect that a path belongs to; None for a native one."""
        return next((dialect for dialect in self.all if dialect.owns(path)), None)
