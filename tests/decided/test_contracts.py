"""What was decided once for every contract, asked of the contracts themselves."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

import atelier
from atelier.type.v1 import limits_pb2
from service_kit.validation import limits_of

NUMBERS = {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_DOUBLE}
# A row of the routing table says 0 for "none of its own", which its comments tell; a file begins at offset 0.
ZERO_IS_ABSENT = {
    "atelier.router.v1.Model.max_quantity",
    "atelier.router.v1.Model.base_size",
    "atelier.router.v1.Model.default_frame_rate",
    "atelier.router.v1.Model.default_steps",
    "atelier.router.v1.Model.deadline_seconds",
    "atelier.router.v1.Model.position",
    "atelier.router.v1.LoadedModel.size_bytes",
    "atelier.asset.v1.CreateUploadRequest.size_bytes",
    "atelier.asset.v1.BeginUploadRequest.size_bytes",
    "atelier.asset.v1.CompleteUploadRequest.size_bytes",
    "atelier.asset.v1.WriteUploadRequest.offset",
    "atelier.asset.v1.OutputFile.handed_over_bytes",
}


def files() -> Iterator[FileDescriptor]:
    root = Path(next(iter(atelier.__path__)))
    for path in sorted(root.rglob("*_pb2.py")):
        yield import_module(".".join(("atelier", *path.relative_to(root).with_suffix("").parts))).DESCRIPTOR


def messages() -> Iterator[Descriptor]:
    def within(message: Descriptor) -> Iterator[Descriptor]:
        if not message.GetOptions().map_entry:
            yield message
        for nested in message.nested_types:
            yield from within(nested)

    for file in files():
        for message in file.message_types_by_name.values():
            yield from within(message)


FIELDS = [field for message in messages() for field in message.fields]
ENUMS: list[EnumDescriptor] = [enum for file in files() for enum in file.enum_types_by_name.values()]


def test_fractions_are_doubles_and_no_integer_is_wider_than_it_looks() -> None:
    allowed = NUMBERS | {
        FieldDescriptor.TYPE_STRING,
        FieldDescriptor.TYPE_BYTES,
        FieldDescriptor.TYPE_BOOL,
        FieldDescriptor.TYPE_ENUM,
        FieldDescriptor.TYPE_MESSAGE,
    }
    own = {f"{limits_pb2.FieldLimits.DESCRIPTOR.full_name}.{name}" for name in ("max_length", "max_items")}
    assert {field.full_name for field in FIELDS if field.type not in allowed} == own


def test_moments_are_timestamps_called_at_and_spans_are_durations() -> None:
    for field in FIELDS:
        name = "" if field.message_type is None else field.message_type.full_name
        assert field.name.endswith("_at") == (name == "google.protobuf.Timestamp"), field.full_name
        if field.name.endswith(("ttl", "interval", "grace", "timeout")):
            assert name == "google.protobuf.Duration", field.full_name


def test_a_number_whose_zero_is_a_value_or_that_has_a_default_can_be_absent() -> None:
    silent = set()
    for field in FIELDS:
        limits = limits_of(field)
        if limits is None or field.is_repeated or field.type not in NUMBERS or field.has_presence:
            continue
        takes_zero = limits.HasField("minimum") and limits.minimum <= 0
        if takes_zero or limits.default_value:
            silent.add(field.full_name)
    assert silent == ZERO_IS_ABSENT


@pytest.mark.parametrize(
    "name",
    [
        "atelier.router.v1.GenerateContentRequest.seed",
        "atelier.router.v1.GenerateContentRequest.quantity",
        "atelier.type.v1.ReferenceImage.strength",
        "atelier.asset.v1.StartUploadRequest.asset_index",
        "atelier.asset.v1.Winner.asset_index",
        "atelier.worker.v1.OutputResult.asset_index",
    ],
)
def test_what_must_be_said_to_count_has_presence(name: str) -> None:
    (field,) = (field for field in FIELDS if field.full_name == name)
    assert field.has_presence


def test_the_values_of_an_enum_carry_its_name_and_zero_says_nothing() -> None:
    for enum in ENUMS:
        prefix = "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in enum.name).lstrip("_")
        assert all(value.name.startswith(f"{prefix}_") for value in enum.values), enum.full_name
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"


def test_a_package_is_its_folder_and_has_a_version() -> None:
    for file in files():
        assert file.name.rpartition("/")[0] == file.package.replace(".", "/")
        assert file.package.startswith("atelier.") and file.package.endswith(".v1")


def test_replies_are_wrapped() -> None:
    for file in files():
        for service in file.services_by_name.values():
            for method in service.methods:
                if file.package != "atelier.worker.v1":
                    assert method.input_type.name == f"{method.name}Request"
                    assert method.output_type.name == f"{method.name}Response"


def test_nobody_is_named_by_an_address() -> None:
    assert [field.full_name for field in FIELDS if "email" in field.name or field.name in ("user", "user_id")] == []
