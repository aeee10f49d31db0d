"""The comments of the contracts, which the descriptors at run time do not hold."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from google.protobuf import descriptor_pb2

# Numbers of the fields of FileDescriptorProto and its parts, as google/protobuf/descriptor.proto counts them.
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD_OF_MESSAGE, _MESSAGE_OF_MESSAGE, _ENUM_OF_MESSAGE, _ONEOF_OF_MESSAGE = 2, 3, 4, 8
_VALUE_OF_ENUM, _METHOD_OF_SERVICE = 2, 2

# A blank line, or where the errors begin.
_NEW_PARAGRAPH = re.compile(r"\s+(?=Errors: )|\n\s*\n")


@cache
def comments() -> Mapping[str, str]:
    """Return the comment before each message, field, enum, value, service and RPC, by its full name.

    Lines that belong together are one line; paragraphs stay apart.
    """
    content = importlib.resources.files("atelier").joinpath("descriptors.binpb").read_bytes()
    found: dict[str, str] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        texts = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        for name, path in _of_file(file):
            if texts.get(path):
                found[f"{file.package}.{name}"] = _unwrapped(texts[path])
    return found


def comment(full_name: str) -> str:
    """Return the comment before a thing; empty when it has none."""
    return comments().get(full_name, "")


def summary(text: str) -> str:
    """Return the first sentence of a comment without its full stop."""
    first = text.split("\n\n", 1)[0]
    return first.split(". ", 1)[0].rstrip(".")


def _unwrapped(text: str) -> str:
    paragraphs = _NEW_PARAGRAPH.split(text.strip())
    return "\n\n".join(" ".join(line.strip() for line in paragraph.splitlines()) for paragraph in paragraphs)


_Place = tuple[str, tuple[int, ...]]


def _of_file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[_Place]:
    for index, message in enumerate(file.message_type):
        yield from _of_message(message, "", (_MESSAGE, index))
    yield from _of_enums(file.enum_type, "", (_ENUM,))
    for index, service in enumerate(file.service):
        yield service.name, (_SERVICE, index)
        for number, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (_SERVICE, index, _METHOD_OF_SERVICE, number)


def _of_message(message: descriptor_pb2.DescriptorProto, prefix: str, path: tuple[int, ...]) -> Iterator[_Place]:
    name = f"{prefix}{message.name}"
    yield name, path
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, _FIELD_OF_MESSAGE, index)
    for index, oneof in enumerate(message.oneof_decl):
        yield f"{name}.{oneof.name}", (*path, _ONEOF_OF_MESSAGE, index)
    for index, nested in enumerate(message.nested_type):
        yield from _of_message(nested, f"{name}.", (*path, _MESSAGE_OF_MESSAGE, index))
    yield from _of_enums(message.enum_type, f"{name}.", (*path, _ENUM_OF_MESSAGE))


def _of_enums(
    enums: Sequence[descriptor_pb2.EnumDescriptorProto], prefix: str, path: tuple[int, ...]
) -> Iterator[_Place]:
    for index, enum in enumerate(enums):
        yield f"{prefix}{enum.name}", (*path, index)
        for number, value in enumerate(enum.value):
            # A value's full name has the name of its enum's parent, not the enum's (descriptor.proto); this one is
            # unique, which two enums with a common value name would not be.
            yield f"{prefix}{enum.name}.{value.name}", (*path, index, _VALUE_OF_ENUM, number)
