"""The limits of the contracts, enforced from the descriptors."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from atelier.asset.v1 import asset_service_pb2 as asset_pb2
from atelier.asset.v1 import upload_service_pb2 as upload_pb2
from atelier.router.v1 import chat_pb2
from atelier.router.v1 import router_service_pb2 as router_pb2
from atelier.type.v1 import generation_pb2
from service_kit.errors import ErrorReason, InvalidArgument
from service_kit.validation import check_limits


def refused(message: Message) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        check_limits(message)
    return caught.value


def test_a_good_request_passes() -> None:
    check_limits(upload_pb2.StartUploadRequest(asset_index=64, size_bytes=1, sha256="0" * 64))
    check_limits(upload_pb2.WriteUploadRequest())


def test_every_problem_is_named_with_limit_and_value() -> None:
    error = refused(upload_pb2.StartUploadRequest(asset_index=65, size_bytes=0, sha256="0" * 65))
    assert {problem.field: problem.message for problem in error.fields} == {
        "asset_index": "must be 0..64, got 65",
        "size_bytes": "must be at least 1, got 0",
        "sha256": "must be at most 64 characters long, got 65",
    }
    assert error.reason == ErrorReason.OUT_OF_RANGE


def test_what_is_missing_is_named() -> None:
    error = refused(upload_pb2.FinishUploadRequest())
    assert [problem.field for problem in error.fields] == ["upload_id"]
    assert error.reason == ErrorReason.MISSING_FIELD


def test_what_may_be_missing_beside_another_field_is_named_with_all_else() -> None:
    error = refused(router_pb2.GenerateContentRequest(model="sdxl", quantity=99))
    assert [problem.field for problem in error.fields] == ["prompt", "quantity"]
    assert error.fields[0].message == "is required unless chat is sent"
    talk = chat_pb2.Chat(messages=[chat_pb2.ChatMessage(role=chat_pb2.CHAT_ROLE_USER, content="hello")])
    check_limits(router_pb2.GenerateContentRequest(model="chat", chat=talk))


def test_a_list_that_is_too_long_is_refused() -> None:
    error = refused(upload_pb2.FinishUploadRequest(upload_id="u", rendition_upload_ids=["x"] * 9))
    assert str(error) == "rendition_upload_ids must have at most 8 elements, got 9"


def test_a_field_in_a_list_has_a_path() -> None:
    good = generation_pb2.ReferenceImage(asset_id="a", kind=generation_pb2.REFERENCE_KIND_STYLE)
    bad = generation_pb2.ReferenceImage(asset_id="a", kind=generation_pb2.REFERENCE_KIND_STYLE, strength=1.5)
    error = refused(router_pb2.GenerateContentRequest(prompt="x", model="sdxl", reference_images=[good, bad]))
    assert str(error) == "reference_images[1].strength must be 0..1, got 1.5"


def test_a_default_that_is_absent_is_not_checked_but_a_zero_that_is_sent_is() -> None:
    check_limits(router_pb2.GenerateContentRequest(prompt="x", model="sdxl"))
    assert "quantity" in str(refused(router_pb2.GenerateContentRequest(prompt="x", model="sdxl", quantity=0)))


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -0.001])
def test_what_is_no_number_between_is_refused(strength: float) -> None:
    image = generation_pb2.ReferenceImage(asset_id="a", kind=generation_pb2.REFERENCE_KIND_STYLE, strength=strength)
    assert "strength" in str(refused(image))


def test_a_text_with_a_null_character_is_refused() -> None:
    error = refused(router_pb2.GenerateContentRequest(prompt="a\0b", model="sdxl"))
    assert str(error) == "prompt must not contain the character U+0000"


def test_a_null_character_in_a_list_of_texts_is_refused() -> None:
    error = refused(asset_pb2.DiscardAssetsRequest(asset_ids=["a", "b\0"]))
    assert str(error) == "asset_ids[1] must not contain the character U+0000"


def test_a_required_number_may_be_zero_but_not_absent() -> None:
    check_limits(upload_pb2.StartUploadRequest(asset_index=0, size_bytes=1, sha256="0" * 64))
    error = refused(upload_pb2.StartUploadRequest(size_bytes=1, sha256="0" * 64))
    assert ([problem.field for problem in error.fields], error.reason) == (["asset_index"], ErrorReason.MISSING_FIELD)
