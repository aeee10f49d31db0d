"""The key files that a first start writes: which, with what, and when they are made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from service_kit.errors import AtelierError, Unauthenticated
from service_kit.identity import KeyKind, Owner
from tests.router_service.desk import Desk

FILES = ("admin.key", "gateway.key", "library.key", "worker.key")


async def test_the_first_start_writes_keys_that_work(desk: Desk, tmp_path: Path) -> None:
    await desk.identities.bootstrap(desk.rings)

    found = {}
    for name in FILES:
        path = tmp_path / "keys" / name
        assert path.stat().st_mode & 0o777 == 0o600
        token = (await desk.identities.exchange_key(path.read_text().strip())).token
        found[name] = desk.verifier.verify(token.reveal())
    assert {name: (caller.owner, caller.kind) for name, caller in found.items()} == {
        "admin.key": (Owner("default", "admin"), KeyKind.ADMIN),
        "gateway.key": (Owner("default", "gateway"), KeyKind.SERVICE),
        "library.key": (Owner("default", "library"), KeyKind.SERVICE),
        "worker.key": (Owner("default", "worker"), KeyKind.WORKER),
    }


def _texts(folder: Path) -> list[str]:
    return [(folder / "keys" / name).read_text() for name in FILES]


async def test_the_second_start_changes_nothing(desk: Desk, tmp_path: Path) -> None:
    await desk.identities.bootstrap(desk.rings)
    before = _texts(tmp_path)
    await desk.identities.bootstrap(desk.rings)

    assert _texts(tmp_path) == before
    assert len((await desk.identities.list_keys(owner_id=None, page_size=None, page_token=""))[0]) == 4


@pytest.mark.parametrize("written", [0, 1, 2, 3, 4])
async def test_a_first_start_that_broke_off_is_finished_by_the_next(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Dies after some of the files, or after all of them but before the commit."""
    left = written
    real = desk.identities._ensure_key_file

    async def ensure(*arguments: object) -> None:
        nonlocal left
        if left == 0:
            raise RuntimeError("power cut")
        left -= 1
        await real(*arguments)  # type: ignore[arg-type]
        if written == len(FILES) and left == 0:
            raise RuntimeError("power cut")

    monkeypatch.setattr(desk.identities, "_ensure_key_file", ensure)
    with pytest.raises(RuntimeError, match="power cut"):
        await desk.identities.bootstrap(desk.rings)
    monkeypatch.undo()
    early = [(tmp_path / "keys" / name).read_text() for name in FILES[:written]]

    await desk.identities.bootstrap(desk.rings)

    assert _texts(tmp_path)[:written] == early
    for text in _texts(tmp_path):
        await desk.identities.exchange_key(text.strip())
    assert len((await desk.identities.list_keys(owner_id=None, page_size=None, page_token=""))[0]) == 4


@pytest.mark.parametrize("content", [None, b"", b"not a key\n", b"\xff\xfe", b"atl_0123456789abcdef_short"])
async def test_a_key_file_that_is_lost_or_damaged_is_made_anew(
    desk: Desk, tmp_path: Path, content: bytes | None
) -> None:
    await desk.identities.bootstrap(desk.rings)
    path = tmp_path / "keys" / "library.key"
    old = path.read_text().strip()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)

    await desk.identities.bootstrap(desk.rings)

    assert path.read_text().strip() != old
    await desk.identities.exchange_key(path.read_text().strip())
    # Nobody asked to revoke the old one; it may have been moved to a safer place.
    await desk.identities.exchange_key(old)


async def test_a_key_file_with_a_wrong_secret_for_a_known_key_is_made_anew(desk: Desk, tmp_path: Path) -> None:
    await desk.identities.bootstrap(desk.rings)
    path = tmp_path / "keys" / "admin.key"
    forged = path.read_text().strip()[: -len("x" * 43)] + "x" * 43
    path.write_text(forged)

    await desk.identities.bootstrap(desk.rings)

    assert path.read_text().strip() != forged
    await desk.identities.exchange_key(path.read_text().strip())
    with pytest.raises(AtelierError):
        await desk.identities.exchange_key(forged)


@pytest.mark.parametrize(("name", "comes_back"), [("library.key", True), ("admin.key", False), ("worker.key", False)])
async def test_a_revoked_key_comes_back_only_for_our_own_services(
    desk: Desk, tmp_path: Path, name: str, comes_back: bool
) -> None:
    await desk.identities.bootstrap(desk.rings)
    path = tmp_path / "keys" / name
    old = path.read_text()
    await desk.identities.revoke_key(desk.admin, old.split("_")[1])

    await desk.identities.bootstrap(desk.rings)

    assert (path.read_text() != old) is comes_back
    with pytest.raises(Unauthenticated):
        await desk.identities.exchange_key(old.strip())
