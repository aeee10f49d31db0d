"""Every public method of every storage is called by a test of this folder, on both databases. Runs after all others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.storage.exercised import BACKENDS, Recorder, left_out, methods_of, storage_classes

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("where", BACKENDS)
@pytest.mark.parametrize("owner", storage_classes(), ids=lambda owner: f"{owner.__module__}.{owner.__name__}")
def test_every_method_is_exercised(owner: type, where: str, recorder: Recorder, request: pytest.FixtureRequest) -> None:
    if missing := left_out(request.session.items, FOLDER):
        pytest.skip(f"only a part of the suite runs; for instance not {min(missing)}")
    if where == "postgresql":
        request.getfixturevalue("postgres")
    assert recorder.missing(owner, where) == []


class Example:
    def plain(self) -> int:
        return 1

    async def calls_another(self) -> int:
        return self.plain()

    async def fails(self) -> None:
        raise KeyError


class Heir(Example):
    """Inherits everything."""


async def test_only_what_a_test_itself_calls_with_success_counts() -> None:
    recorder = Recorder()
    with recorder.recording([Heir]):
        recorder.backend = "sqlite"
        assert await Heir().calls_another() == 1
        with pytest.raises(KeyError):
            await Heir().fails()
    assert recorder.missing(Heir, "sqlite") == ["fails", "plain"]
    assert recorder.missing(Heir, "postgresql") == methods_of(Heir) == ["calls_another", "fails", "plain"]
    assert recorder.missing(Example, "sqlite") == ["calls_another", "fails", "plain"]
    Heir().plain()
    assert recorder.missing(Heir, "sqlite") == ["fails", "plain"]


def test_the_classes_are_those_that_transactions_carry() -> None:
    names = {f"{owner.__module__.split('.')[0]}.{owner.__name__}" for owner in storage_classes()}
    assert {"router_service.Jobs", "router_service.Keys", "asset_service.Assets", "library_service.Items"} <= names
    assert {"router_service.Storage", "library_service.Transaction", "service_kit.EventLog"} <= names


def test_a_part_of_the_suite_is_recognised(request: pytest.FixtureRequest) -> None:
    assert f"{Path(__file__).name}::test_a_part_of_the_suite_is_recognised" in left_out([], FOLDER)
    assert left_out([request.node], FOLDER)
