"""The JSON mapping: what is taken, what is refused and how it is named, and that nothing is lost on the way."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.asset.v1 import asset_control_service_pb2, asset_pb2
from atelier.identity.v1 import identity_service_pb2
from atelier.library.v1 import library_service_pb2
from atelier.router.v1 import job_pb2, model_pb2, router_service_pb2
from atelier.type.v1 import generation_pb2, media_pb2
from atelier.worker.v1 import worker_service_pb2
from gateway.render import dump, to_bytes, to_json
from gateway.schema import enum_names
from gateway.transcode import MAX_INTEGER, fill, parse_json
from service_kit.errors import ErrorReason, InvalidArgument

Generate = router_service_pb2.GenerateContentRequest
MALFORMED, UNKNOWN = ErrorReason.MALFORMED_REQUEST, ErrorReason.UNKNOWN_FIELD
INVALID, RANGE = ErrorReason.INVALID_VALUE, ErrorReason.OUT_OF_RANGE


def read(text: str | bytes, message: Message | None = None) -> Any:
    found = Generate() if message is None else message
    fill(found, parse_json(text.encode() if isinstance(text, str) else text))
    return found


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        ('{"model_type": "x"}', UNKNOWN, "model_type"),
        ('{"negativePrompt": "x"}', UNKNOWN, "negativePrompt"),
        ('{"reference_images": [{"strenght": 1}]}', UNKNOWN, "reference_images[0].strenght"),
        ('{"reference_images": [{}, {"a": 1}]}', UNKNOWN, "reference_images[1].a"),
        ('{"": 1}', UNKNOWN, ""),
        ('{"prompt": null}', MALFORMED, "prompt"),
        ('{"seed": null}', MALFORMED, "seed"),
        ('{"reference_images": [null]}', MALFORMED, "reference_images[0]"),
        ('{"prompt": 7}', MALFORMED, "prompt"),
        ('{"prompt": "a", "prompt": "b"}', MALFORMED, "prompt"),
        ('{"reference_images": [{"kind": "style", "kind": "init"}]}', MALFORMED, "reference_images[0].kind"),
        ('{"prompt": "\\ud800"}', MALFORMED, "prompt"),
        ('{"seed": "7"}', MALFORMED, "seed"),
        ('{"seed": 1.0}', MALFORMED, "seed"),
        ('{"seed": 1e3}', MALFORMED, "seed"),
        ('{"seed": true}', MALFORMED, "seed"),
        ('{"seed": -1}', RANGE, "seed"),
        ('{"seed": 9007199254740992}', RANGE, "seed"),
        ('{"quantity": 2147483648}', RANGE, "quantity"),
        ('{"quantity": 123456789012345678901234567890}', RANGE, "quantity"),
        ('{"enhance_prompt": 1}', MALFORMED, "enhance_prompt"),
        ('{"enhance_prompt": "true"}', MALFORMED, "enhance_prompt"),
        ('{"duration_seconds": "3"}', MALFORMED, "duration_seconds"),
        ('{"duration_seconds": true}', MALFORMED, "duration_seconds"),
        ('{"duration_seconds": 1e999}', RANGE, "duration_seconds"),
        ('{"format": "IMAGE"}', INVALID, "format"),
        ('{"format": "FORMAT_IMAGE"}', INVALID, "format"),
        ('{"format": 1}', MALFORMED, "format"),
        ('{"format": "unspecified"}', INVALID, "format"),
        ('{"reference_images": {}}', MALFORMED, "reference_images"),
        ('{"reference_images": [7]}', MALFORMED, "reference_images[0]"),
        ('{"\\ud800": 1}', UNKNOWN, "?"),
        ("[]", MALFORMED, "body"),
        ('"x"', MALFORMED, "body"),
        ("null", MALFORMED, "body"),
    ],
)
def test_what_is_refused_is_named_by_its_path(body: str, reason: ErrorReason, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(body)
    assert caught.value.reason is reason
    assert [problem.field for problem in caught.value.fields] == [field]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"prompt=x",
        b"{",
        b'{"prompt": "x",}',
        b'{"prompt": "x"} {}',
        b'{"seed": NaN}',
        b'{"seed": Infinity}',
        b'{"seed": -Infinity}',
        b'{"prompt": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"prompt": "a\nb"}',
        b"[" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(body)
    assert caught.value.reason is MALFORMED
    assert "not JSON" in caught.value.message


def test_all_problems_are_told_and_unknown_fields_come_first() -> None:
    with pytest.raises(InvalidArgument) as caught:
        read('{"seed": -1, "quantity": "2", "bogus": 1, "format": "gif"}')
    assert caught.value.reason is UNKNOWN
    assert [problem.field for problem in caught.value.fields] == ["bogus", "quantity", "format", "seed"]


@pytest.mark.parametrize("element", ['"n{0}": 1', '"x": {0}', '"reference_images": [{0}]'])
def test_a_flood_of_wrong_names_costs_little(element: str) -> None:
    body = "{" + ",".join(element.format(number) for number in range(50_000)) + "}"
    began = time.process_time()
    with pytest.raises(InvalidArgument) as caught:
        read(body)
    assert time.process_time() - began < 2
    assert len(caught.value.fields) <= 60


def test_the_nearest_name_is_told() -> None:
    with pytest.raises(InvalidArgument, match="did you mean negative_prompt"):
        read('{"negativ_prompt": "x"}')


def test_absent_and_zero_are_different() -> None:
    zero, absent = read('{"seed": 0}'), read("{}")
    assert zero.HasField("seed") and not absent.HasField("seed")
    assert to_json(zero)["seed"] == 0
    assert "seed" not in to_json(absent)


def test_replies_print_zeros_and_leave_out_what_is_absent() -> None:
    reply = to_json(job_pb2.Job())
    assert reply["job_id"] == ""
    assert reply["state"] == ""
    assert reply["version"] == 0
    assert reply["enhancement_only"] is False
    assert reply["stages"] == []
    assert "failure" not in reply and "generation_settings" not in reply and "started_at" not in reply
    assert "progress" not in to_json(router_service_pb2.WatchJobResponse(cursor="c"))


def test_integers_of_64_bits_are_numbers() -> None:
    settings_ = generation_pb2.GenerationSettings(seed=MAX_INTEGER)
    assert f'"seed":{MAX_INTEGER}'.encode() in to_bytes(settings_)


def test_enums_are_lower_case_without_prefix_both_ways() -> None:
    assert to_json(media_pb2.Rendition(kind=media_pb2.RENDITION_KIND_THUMB_256))["kind"] == "thumb_256"
    request = read('{"on_enhancement_failure": "warn", "format": "video", "quality": ""}')
    assert request.on_enhancement_failure == router_service_pb2.ON_ENHANCEMENT_FAILURE_WARN
    assert request.format == generation_pb2.FORMAT_VIDEO


def test_an_enum_value_of_a_newer_service_is_shown() -> None:
    assert to_json(job_pb2.Job(state=99))["state"] == "unknown_99"  # type: ignore[arg-type]


def test_no_enum_has_two_values_of_one_name() -> None:
    for module in (generation_pb2, media_pb2, job_pb2, asset_pb2, identity_service_pb2, library_service_pb2):
        for kind in module.DESCRIPTOR.enum_types_by_name.values():
            names = enum_names(kind)
            assert len(set(names.values())) == len(names), kind.full_name
            assert names[0] == "", f"{kind.full_name} has no unspecified value"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("2026-01-31T12:00:00Z", True),
        ("2026-01-31T12:00:00.000001Z", True),
        ("2026-01-31T14:00:00+02:00", True),
        ("2026-01-31T12:00:00", False),
        ("2026-01-31 12:00:00Z", False),
        ("20260131T120000Z", False),
        ("2026-02-31T12:00:00Z", False),
        ("2026-01-31T12:00:00.0000001Z", False),
        ("0000-01-31T12:00:00Z", False),
        ("0001-01-01T00:00:00+23:00", False),
    ],
)
def test_times_are_rfc_3339(text: str, good: bool) -> None:
    body = json.dumps({"submitted_at": text})
    if not good:
        with pytest.raises(InvalidArgument) as caught:
            read(body, generation_pb2.Provenance())
        assert caught.value.fields[0].field == "submitted_at"
        return
    found = to_json(read(body, generation_pb2.Provenance()))["submitted_at"]
    assert datetime.fromisoformat(found) == datetime.fromisoformat(text)
    assert found.endswith("Z") and len(found) == len("2026-01-31T12:00:00.000001Z")


@pytest.mark.parametrize(
    ("text", "written"), [("3.5s", "3.5s"), ("0s", "0s"), ("-1.25s", "-1.25s"), ("90s", "90s"), ("1.500000001s",) * 2]
)
def test_durations_are_seconds(text: str, written: str) -> None:
    message = asset_control_service_pb2.TakeHoldRequest()
    assert to_json(read(json.dumps({"ttl": text}), message))["ttl"] == written


@pytest.mark.parametrize("text", ["3.5", "3m", "", "s", "1e3s", "+3s", "999999999999s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(json.dumps({"ttl": text}), asset_control_service_pb2.TakeHoldRequest())
    assert caught.value.fields[0].field == "ttl"


def test_bytes_are_base64() -> None:
    preview = router_service_pb2.Preview(image=b"\x00\xff")
    assert to_json(preview)["image"] == "AP8="
    assert read('{"image": "AP8="}', router_service_pb2.Preview()).image == b"\x00\xff"
    for wrong in ("AP8", "A P8=", "é"):
        with pytest.raises(InvalidArgument):
            read(json.dumps({"image": wrong}), router_service_pb2.Preview())


def test_only_one_member_of_a_oneof_can_be_given() -> None:
    with pytest.raises(InvalidArgument, match="cannot be given together with item"):
        read('{"item": {}, "failure": {}}', library_service_pb2.SaveResult())


def test_a_number_that_json_does_not_have_is_never_written() -> None:
    with pytest.raises(ValueError, match="NaN"):
        to_json(router_service_pb2.Progress(fraction=float("nan")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump(float("inf"))


MESSAGES = (
    Generate,
    job_pb2.Job,
    model_pb2.Model,
    asset_pb2.Asset,
    library_service_pb2.Item,
    library_service_pb2.SaveResult,
    router_service_pb2.WatchJobResponse,
    worker_service_pb2.Hello,
    asset_control_service_pb2.TakeHoldRequest,
)
_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(0, MAX_INTEGER),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, MAX_INTEGER),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
}


def _set(draw: st.DrawFn, message: Any, depth: int) -> None:
    """Set some fields of a message at random."""
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if not draw(st.booleans()) or (oneof is not None and message.WhichOneof(oneof.name)):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[draw(st.text("abc", max_size=3))] = "x"
        elif field.message_type is not None:
            target = getattr(message, field.name)
            _set_message(draw, target.add() if field.is_repeated else target, depth)
        else:
            value = _scalar(draw, field)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)


def _set_message(draw: st.DrawFn, message: Any, depth: int) -> None:
    message.SetInParent()
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Timestamp":
        message.FromDatetime(draw(st.datetimes(timezones=st.just(UTC))))
    elif name == "google.protobuf.Duration":
        message.FromMicroseconds(draw(st.integers(-(10**12), 10**12)))
    elif depth < 3:
        _set(draw, message, depth + 1)


def _scalar(draw: st.DrawFn, field: FieldDescriptor) -> Any:
    if field.enum_type is not None:
        return draw(st.sampled_from([value.number for value in field.enum_type.values]))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw(st.binary(max_size=8))
    return draw(_NUMBERS[field.cpp_type])


@st.composite
def _messages(draw: st.DrawFn) -> Message:
    message: Message = draw(st.sampled_from(MESSAGES))()
    _set(draw, message, 0)
    return message


@settings(max_examples=150)
@given(_messages())
def test_what_is_written_is_read_back_the_same(message: Message) -> None:
    back = type(message)()
    fill(back, parse_json(to_bytes(message)))
    assert back == message


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="replace")))
def test_no_body_is_answered_with_a_fault(body: bytes) -> None:
    try:
        fill(Generate(), parse_json(body))
    except InvalidArgument as error:
        json.dumps([problem.field for problem in error.fields]).encode()
        error.message.encode()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "seed", "format", "reference_images", "strength", "kind", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(_JSON)
def test_no_json_is_answered_with_a_fault(value: Any) -> None:
    try:
        fill(Generate(), parse_json(json.dumps(value).encode()))
    except InvalidArgument as error:
        assert error.fields or error.reason is MALFORMED
