"""What the contracts' descriptors say about a field, as the JSON mapping asks it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

_TIMESTAMP = Timestamp.DESCRIPTOR.full_name
_DURATION = Duration.DESCRIPTOR.full_name


def descriptor_of(message: Message) -> Descriptor:
    """Return the descriptor of a message."""
    found: Any = message.DESCRIPTOR
    descriptor: Descriptor = found
    return descriptor


def message_type(field: FieldDescriptor) -> Descriptor:
    """Return the type of a field that is a message. Raises TypeError for another."""
    if field.message_type is None:
        raise TypeError(f"{field.full_name} is not a message")
    return field.message_type


def is_map(field: FieldDescriptor) -> bool:
    """Whether the field is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def is_timestamp(field: FieldDescriptor) -> bool:
    """Whether the field is a Timestamp, in JSON a text."""
    return field.message_type is not None and field.message_type.full_name == _TIMESTAMP


def is_duration(field: FieldDescriptor) -> bool:
    """Whether the field is a Duration, in JSON a text."""
    return field.message_type is not None and field.message_type.full_name == _DURATION


def is_plain_message(field: FieldDescriptor) -> bool:
    """Whether the field's JSON is an object with fields: a message, but not a Timestamp or a Duration."""
    return field.message_type is not None and field.message_type.full_name not in (_TIMESTAMP, _DURATION)


@lru_cache(maxsize=256)
def enum_names(kind: EnumDescriptor) -> dict[int, str]:
    """Return the JSON text of each value: lower case without the enum's prefix; "" for the unspecified one."""
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.name).upper() + "_"
    names = {value.number: value.name.removeprefix(prefix).lower() for value in kind.values}
    return {number: "" if name == "unspecified" else name for number, name in names.items()}


@lru_cache(maxsize=256)
def enum_numbers(kind: EnumDescriptor) -> dict[str, int]:
    """Return the value of each JSON text."""
    return {name: number for number, name in enum_names(kind).items()}
