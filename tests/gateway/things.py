"""Contracts that exist only for tests: every kind of field, and rules with every kind of binding."""

from __future__ import annotations

from typing import Any

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

Kind = descriptor_pb2.FieldDescriptorProto

_SCALARS = {
    "string": Kind.TYPE_STRING,
    "int32": Kind.TYPE_INT32,
    "uint32": Kind.TYPE_UINT32,
    "int64": Kind.TYPE_INT64,
    "double": Kind.TYPE_DOUBLE,
    "bool": Kind.TYPE_BOOL,
    "bytes": Kind.TYPE_BYTES,
}

# Each field: its name, its type, and what else it is.
MESSAGES: dict[str, list[tuple[str, str, str]]] = {
    "Deep": [("leaf", "string", ""), ("big", "int64", "")],
    "Inner": [
        ("text", "string", ""),
        ("count", "int32", ""),
        ("words", "string", "repeated"),
        ("deep", "Deep", ""),
        ("flag", "bool", "optional"),
        ("colour", "Colour", ""),
    ],
    "Thing": [
        ("name", "string", ""),
        ("number", "int32", ""),
        ("natural", "uint32", ""),
        ("size", "int64", ""),
        ("share", "double", ""),
        ("on", "bool", ""),
        ("maybe", "int32", "optional"),
        ("colour", "Colour", ""),
        ("numbers", "int32", "repeated"),
        ("colours", "Colour", "repeated"),
        ("inner", "Inner", ""),
        ("inners", "Inner", "repeated"),
        ("data", "bytes", ""),
        ("words", "string", "repeated"),
        ("at", "Timestamp", ""),
    ],
}
COLOURS = ("unspecified", "red", "dark_blue")

# The method, the path, and what the body fills.
RULES = [
    ("get", "/v1/things", ""),
    ("get", "/v1/things/{name}", ""),
    ("get", "/v1/things/red", ""),
    ("delete", "/v1/things/{number}", ""),
    ("post", "/v1/things", "*"),
    ("put", "/v1/things/{name}", "*"),
    ("put", "/v1/things/{name}/inner", "inner"),
    ("get", "/v1/{colour}/things/{number}", ""),
    ("get", "/v1/{name}/sizes/{size}", ""),
    ("get", "/v1/red/{name}/{on}", ""),
    ("post", "/v1/deep/{inner.deep.leaf}/{inner.text}", "*"),
    ("put", "/v1/deep/{inner.deep.big}/{natural}", "inner"),
    ("get", "/v1/deep/{inner.count}", ""),
]


def _message(file: Any, name: str) -> None:
    message = file.message_type.add(name=name)
    for number, (field_name, kind, extra) in enumerate(MESSAGES[name], start=1):
        label = Kind.LABEL_REPEATED if extra == "repeated" else Kind.LABEL_OPTIONAL
        field = message.field.add(name=field_name, number=number, label=label)
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        elif kind == "Colour":
            field.type, field.type_name = Kind.TYPE_ENUM, ".atelier.things.Colour"
        else:
            field.type = Kind.TYPE_MESSAGE
            field.type_name = ".google.protobuf.Timestamp" if kind == "Timestamp" else f".atelier.things.{kind}"
        if extra == "optional":
            field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field_name}")


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="atelier/things.proto", package="atelier.things", syntax="proto3")
    file.dependency.extend([timestamp_pb2.DESCRIPTOR.name, annotations_pb2.DESCRIPTOR.name])
    colours = file.enum_type.add(name="Colour")
    for number, colour in enumerate(COLOURS):
        colours.value.add(name=f"COLOUR_{colour.upper()}", number=number)
    for name in MESSAGES:
        _message(file, name)
    service = file.service.add(name="Things")
    for number, (method, path, body) in enumerate(RULES):
        rpc = service.method.add(
            name=f"Rule{number}", input_type=".atelier.things.Thing", output_type=".atelier.things.Thing"
        )
        rule = rpc.options.Extensions[annotations_pb2.http]
        setattr(rule, method, path)
        rule.body = body
    return descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


FILE = _file()
Thing = message_factory.GetMessageClass(FILE.message_types_by_name["Thing"])
