"""Decided once: one table of errors to gRPC status with details and stable reasons, and the way back."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2

from atelier.type.v1 import error_pb2
from service_kit import errors
from service_kit.errors import AtelierError, ErrorReason, FieldProblem, Internal, InvalidArgument, NotFound, Unavailable
from service_kit.rpc_errors import (
    DETAILS_KEY,
    GRPC_CODES,
    dependency_error,
    from_rpc_error,
    grpc_code,
    to_status,
    translated,
)


def raised(error: AtelierError) -> grpc.aio.AioRpcError:
    """The error as a client meets it."""
    metadata = grpc.aio.Metadata((DETAILS_KEY, to_status(error, "r1").SerializeToString()))
    return grpc.aio.AioRpcError(grpc_code(error), grpc.aio.Metadata(), metadata, error.message)


def plain(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "ipv4:10.0.0.7:7402 refused")


def test_reasons_are_those_of_the_contract() -> None:
    values = {name.removeprefix("ERROR_REASON_").lower() for name in error_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    assert {reason.value for reason in ErrorReason} == values


def test_every_class_has_its_own_code_and_a_sentence_of_its_own() -> None:
    kinds = AtelierError.__subclasses__()
    assert set(GRPC_CODES) == set(kinds)
    assert len(set(GRPC_CODES.values())) == len(kinds)
    for kind in kinds:
        assert kind().message == (kind.__doc__ or "").splitlines()[0]


@pytest.mark.parametrize("kind", GRPC_CODES)
def test_every_error_survives_the_wire(kind: type[AtelierError]) -> None:
    error = kind(
        "What happened.",
        ErrorReason.OUT_OF_RANGE,
        fields=[FieldProblem("reference_images[0].strength", "must be 0..1, got 7")],
        retry_after=timedelta(milliseconds=1500),
    )
    back = from_rpc_error(raised(error))
    assert type(back) is kind
    assert (back.message, back.reason, back.fields, back.retry_after) == (
        error.message,
        error.reason,
        error.fields,
        error.retry_after,
    )


def test_the_status_carries_reason_domain_and_request_id() -> None:
    status = to_status(NotFound.of("job", "7"), "request-1")
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(request)
    assert (info.reason, info.domain, request.request_id) == ("not_found", "atelier", "request-1")
    assert status.message == "There is no job with the id 7."


def test_a_field_error_says_field_limit_and_value() -> None:
    error = InvalidArgument.field("quantity", "must be 1..8, got 12", ErrorReason.OUT_OF_RANGE)
    assert str(error) == "quantity must be 1..8, got 12"
    both = InvalidArgument.of([*error.fields, FieldProblem("size", "is unknown")])
    assert str(both) == "quantity must be 1..8, got 12 (and 1 more)"


def test_a_reason_of_a_newer_release_is_tolerated() -> None:
    status = to_status(NotFound("Gone."), "r")
    info = error_details_pb2.ErrorInfo(reason="invented_later", domain="atelier")
    status.details[0].Pack(info)
    metadata = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    error = from_rpc_error(grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), metadata, ""))
    assert (type(error), error.message, error.reason) == (NotFound, "Gone.", ErrorReason.NOT_FOUND)


def test_an_error_that_is_not_ours_loses_its_text() -> None:
    assert "10.0.0.7" not in from_rpc_error(plain(grpc.StatusCode.UNAVAILABLE)).message
    assert type(from_rpc_error(plain(grpc.StatusCode.UNAVAILABLE))) is Unavailable
    assert type(from_rpc_error(plain(grpc.StatusCode.CANCELLED))) is Unavailable
    assert type(from_rpc_error(plain(grpc.StatusCode.UNIMPLEMENTED))) is Internal
    assert type(from_rpc_error(grpc.RpcError())) is Internal


def test_garbled_details_are_no_reason_to_fail() -> None:
    metadata = grpc.aio.Metadata((DETAILS_KEY, b"\xff\xff"))
    error = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), metadata, "")
    assert type(from_rpc_error(error)) is NotFound


def test_that_a_dependency_refused_us_is_our_own_fault() -> None:
    for kind in (errors.Unauthenticated, errors.PermissionDenied):
        assert type(dependency_error(raised(kind("Key atl_x is revoked.")))) is Internal
    assert type(dependency_error(raised(NotFound("No such asset.")))) is NotFound
    assert dependency_error(plain(grpc.StatusCode.UNAVAILABLE)).retry_after == timedelta(seconds=1)


def test_logic_meets_domain_errors_only() -> None:
    with pytest.raises(NotFound, match="No such asset"), translated():
        raise raised(NotFound("No such asset."))
