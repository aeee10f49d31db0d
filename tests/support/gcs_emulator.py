"""An emulator of Google Cloud Storage as a process: `python -m tests.support.gcs_emulator`; prints its port.

The emulator stores and serves; what it leaves out and a store relies on is enforced here: generations, preconditions,
ranges beyond the end, and copies that take several calls. One thread serves everybody, so a check and what follows are
one step. It ends when its standard input does, so that it never outlives who started it.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator import server, storage
from gcp_storage_emulator.exceptions import BadRequest, NotFound
from gcp_storage_emulator.handlers import objects

Handler = Callable[..., None]


class Rules:
    """What Google checks and the emulator does not."""

    def __init__(self, rewrite_bytes: int) -> None:
        """Let one call copy at most so many bytes; 0 for any number."""
        self._rewrite_bytes = rewrite_bytes
        self._begun: dict[str, tuple[tuple[str, ...], int]] = {}

    def guard(self, handler: Handler) -> Handler:
        """Return a handler that refuses what Google refuses."""

        def guarded(request: Any, response: Any, storage: Any) -> None:
            status = _refusal(request, storage)
            if status is not None:
                response.status = status
                response.json({"error": {"code": status.value, "message": status.phrase}})
            elif handler is objects.rewrite:
                self._rewrite(request, response, storage)
            else:
                if handler in (objects.insert, objects.upload_partial):
                    _flip(request, storage)
                handler(request, response, storage)
                if response.status == HTTPStatus.PARTIAL_CONTENT:
                    # Google tells the checksum of the whole object with each of its parts.
                    known = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
                    response["X-Goog-Hash"] = f"crc32c={known['crc32c']}"

        return guarded

    def _rewrite(self, request: Any, response: Any, storage: Any) -> None:
        """Copy, or a further part of it: the first call gives a token, and the calls that bring it go on."""
        source = request.params["bucket_name"], request.params["object_id"]
        generation = _live(storage, *source)
        if generation == "0" or not self._rewrite_bytes:
            objects.rewrite(request, response, storage)
            return
        total = int(storage.get_file_obj(*source)["size"])
        which = (*source, generation, *_target(request, storage))
        moved, token = 0, _one(request, "rewriteToken")
        if token is not None:
            begun, moved = self._begun.pop(token, ((), 0))
            if begun != which:
                response.status = HTTPStatus.BAD_REQUEST
                return
        moved += self._rewrite_bytes
        if moved >= total:
            objects.rewrite(request, response, storage)
            return
        token = secrets.token_hex(8)
        self._begun[token] = which, moved
        response.json(
            {
                "kind": "storage#rewriteResponse",
                "totalBytesRewritten": str(moved),
                "objectSize": str(total),
                "done": False,
                "rewriteToken": token,
            }
        )


class Parts:
    """What has come of uploads in parts: the emulator itself writes all of it anew for each part."""

    def __init__(self) -> None:
        self._received: dict[str, bytearray] = {}

    def count(self, file_id: str) -> int:
        """Return how many bytes of an upload have come."""
        return len(self._received.get(file_id, b""))

    def add(
        self, file_id: str, content: bytes | None, total_size: int | None = None, expected_start: int | None = None
    ) -> bytes | None:
        """Take a part. Returns the whole content with the last one."""
        received = self._received.setdefault(file_id, bytearray())
        if expected_start not in (None, len(received)):
            raise BadRequest(f"Invalid Content-Range start: expected {len(received)}, got {expected_start}")
        received += content or b""
        if total_size is None or len(received) < total_size:
            return None
        return bytes(self._received.pop(file_id))[:total_size]


def _refusal(request: Any, storage: Any) -> HTTPStatus | None:
    """Return why Google would refuse a request; None when it would not, as far as is checked here."""
    wanted = _one(request, "ifGenerationMatch")
    if wanted is not None and wanted != _live(storage, *_target(request, storage)):
        return HTTPStatus.PRECONDITION_FAILED
    params = request.params
    if "object_id" not in params:
        return None
    live = _live(storage, params["bucket_name"], params["object_id"])
    pinned = _one(request, "sourceGeneration" if "dest_object_id" in params else "generation")
    if pinned is not None and pinned != live:
        return HTTPStatus.NOT_FOUND
    begin = (request.get_header("range") or "").strip().removeprefix("bytes=").partition("-")[0]
    if live != "0" and begin.isdecimal():
        size = int(storage.get_file_obj(params["bucket_name"], params["object_id"])["size"])
        return HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE if int(begin) >= size else None
    return None


def _flip(request: Any, storage: Any) -> None:
    """Let other bytes arrive than were sent, for objects whose name says so."""
    if "flipped" not in _target(request, storage)[1]:
        return
    if isinstance(request.data, bytes):
        request._data = bytes([request.data[0] ^ 1]) + request.data[1:]
    elif request.data and "content" in request.data:
        request.data["content"] = b"other bytes"


def _target(request: Any, storage: Any) -> tuple[str, str]:
    """Return the bucket and the name of the object that a request would write, read or remove."""
    params = request.params
    if "dest_object_id" in params:
        return params["dest_bucket_name"], params["dest_object_id"]
    if "object_id" in params:
        return params["bucket_name"], params["object_id"]
    upload_id = _one(request, "upload_id")
    if upload_id is not None:
        return params["bucket_name"], storage.get_resumable_file_obj(upload_id)["name"]
    data = request.data or {}
    return params["bucket_name"], _one(request, "name") or data.get("meta", data)["name"]


def _live(storage: Any, bucket: str, name: str) -> str:
    try:
        return str(storage.get_file_obj(bucket, name)["generation"])
    except NotFound:
        return "0"


def _one(request: Any, name: str) -> str | None:
    found = request.query.get(name)
    return None if not found else str(found[0])


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rewrite-bytes", type=int, default=0, help="the most that one call of a copy moves")
    parser.add_argument("--no-rules", action="store_true", help="be the bare emulator")
    options = parser.parse_args()
    if not options.no_rules:
        rules = Rules(options.rewrite_bytes)
        server.HANDLERS = tuple(
            (pattern, {method: rules.guard(handler) for method, handler in handlers.items()})
            for pattern, handlers in server.HANDLERS
        )
    # It writes the list of all objects anew after each change, for a restart that no process in memory has.
    storage.Storage._write_config_to_file = lambda _: None
    parts = Parts()
    storage.Storage.get_resumable_byte_count = lambda _, *which: parts.count(*which)
    storage.Storage.add_to_resumable_upload = lambda _, *part, **place: parts.add(*part, **place)
    # Those who race for a key all connect at once.
    server.server.HTTPServer.request_queue_size = 128
    running = server.create_server("127.0.0.1", 0, in_memory=True)
    running.start()
    sys.stdout.write(f"{running._api._httpd.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()
    running.stop()


if __name__ == "__main__":
    main()
