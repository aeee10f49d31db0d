"""Decided once: UUIDv7 in lower case; an output's id follows from its job and index."""

from __future__ import annotations

import time
import uuid

import pytest

from service_kit.errors import InvalidArgument
from service_kit.ids import asset_id, new_id, parse_id


def test_a_new_id_is_a_uuid_of_version_7_that_tells_its_time() -> None:
    before = time.time_ns() // 1_000_000
    text = new_id()
    parsed = uuid.UUID(text)
    assert text == str(parsed)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= parsed.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_ids_are_unique_and_sort_in_the_order_in_which_they_were_made() -> None:
    ids = [new_id() for _ in range(20_000)]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)


def test_the_id_of_an_output_is_known_without_asking() -> None:
    job_id = "01890a5d-ac96-774b-bcce-b302099a8057"
    assert asset_id(job_id, 0) == str(uuid.uuid5(uuid.UUID(job_id), "0"))
    assert len({asset_id(job_id, index) for index in range(8)}) == 8


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "01890A5D-AC96-774B-BCCE-B302099A8057",
        "01890a5dac96774bbcceb302099a8057",
        "{01890a5d-ac96-774b-bcce-b302099a8057}",
    ],
)
def test_what_is_not_an_id_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_id(text, "job_id")
    assert caught.value.fields[0].field == "job_id"


def test_an_id_passes() -> None:
    text = new_id()
    assert parse_id(text, "job_id") is text
