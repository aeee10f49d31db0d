"""Which router a worker tries next."""

from __future__ import annotations

import pytest

from atelier_worker.targets import Target, Targets
from service_kit.settings import SettingsError

ADDRESSES = {"routers": ["10.0.0.1:7401", "[fd00::2]:7401"], "single": ["10.0.0.9:7401"]}


async def look_up(host: str, port: int) -> list[str]:
    if host not in ADDRESSES:
        raise OSError("Name or service not known")
    return ADDRESSES[host]


async def test_each_address_of_each_name_is_tried_once_a_round() -> None:
    targets = Targets("routers:7401, single:7401, 127.0.0.1:1, gone:2", look_up)
    for _ in range(2):
        found = [await targets.next() for _ in range(5)]
        assert targets.round_over
        assert {(target.address, target.name) for target in found} == {
            ("10.0.0.1:7401", "routers:7401"),
            ("[fd00::2]:7401", "routers:7401"),
            # A name with one address is dialled by its name.
            ("single:7401", "single:7401"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("gone:2", "gone:2"),
        }


async def test_an_address_that_comes_twice_is_tried_once() -> None:
    targets = Targets("127.0.0.1:1,127.0.0.1:1", look_up)
    assert await targets.next() == Target("127.0.0.1:1", "127.0.0.1:1")
    assert targets.round_over


@pytest.mark.parametrize("connect", ["", "router", "http://router:1", "router:1,", "router:1 router:2", "router:1;a:2"])
def test_what_can_be_no_router_is_refused(connect: str) -> None:
    with pytest.raises(SettingsError, match=r"must be the router's host:port"):
        Targets(connect)
