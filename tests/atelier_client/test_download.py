"""Files appear whole and right, or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from atelier_client import Asset, AtelierError, DownloadFailed, Item, Media, NotFound, Provenance
from tests.atelier_client.either import Either
from tests.atelier_client.scripted import DROP, Reply, ScriptedApi, refusal, reply_json

BYTES = b"\x89PNG" + bytes(range(256)) * 300
SHA256 = hashlib.sha256(BYTES).hexdigest()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def asset(api: ScriptedApi, **changes: Any) -> Asset:
    media = Media("image/png", changes.pop("size_bytes", len(BYTES)), changes.pop("sha256", SHA256))
    provenance = Provenance(job_id="j1", asset_index=2)
    return Asset(asset_id="a1", media=media, provenance=provenance, url=f"{api.url}/media/b/k?sig=1", **changes)


def test_a_file_goes_into_a_folder_under_its_own_name(api: ScriptedApi, client: Either, tmp_path: Path) -> None:
    api.script(Reply(200, BYTES))
    path = client.download(asset(api), tmp_path)
    assert path == tmp_path / "j1-2.png"
    assert path.read_bytes() == BYTES
    assert names(tmp_path) == ["j1-2.png"]


def test_a_file_replaces_another_under_a_given_name(api: ScriptedApi, client: Either, tmp_path: Path) -> None:
    target = tmp_path / "new" / "fox.png"
    target.parent.mkdir()
    target.write_bytes(b"old")
    api.script(Reply(200, BYTES))
    item = Item(item_id="i1", media=Media("image/png"), url=f"{api.url}/media/b/k")
    assert client.download(item, target) == target
    assert target.read_bytes() == BYTES


def test_the_key_is_not_sent_to_a_signed_address(api: ScriptedApi, client: Either, tmp_path: Path) -> None:
    api.script(Reply(200, BYTES))
    client.download(f"{api.url}/media/b/.k%2Fey.png?sig=1", tmp_path)
    assert "authorization" not in api.seen[0].headers
    assert names(tmp_path) == ["k_2Fey.png"]


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size_bytes": len(BYTES) + 1}], ids=["digest", "size"])
def test_wrong_bytes_leave_what_was_there(
    api: ScriptedApi, client: Either, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    (tmp_path / "fox.png").write_bytes(b"old")
    api.script(Reply(200, BYTES))
    with pytest.raises(DownloadFailed):
        client.download(asset(api, **wrong), tmp_path / "fox.png")
    assert (tmp_path / "fox.png").read_bytes() == b"old"
    assert names(tmp_path) == ["fox.png"]


def test_a_broken_download_begins_again(api: ScriptedApi, client: Either, tmp_path: Path) -> None:
    api.script(Reply(200, BYTES[:999], ending="broken"), DROP, Reply(200, BYTES))
    assert client.download(asset(api), tmp_path).read_bytes() == BYTES
    assert names(tmp_path) == ["j1-2.png"]


def test_an_address_that_expired_is_asked_for_anew(api: ScriptedApi, client: Either, tmp_path: Path) -> None:
    fresh = {"asset_id": "a1", "media": {"content_type": "image/png"}, "url": f"{api.url}/media/b/k?sig=2"}
    api.script(refusal(403, "PERMISSION_DENIED"), reply_json({"asset": fresh}), Reply(200, BYTES))
    assert client.download(asset(api), tmp_path).name == "a1.png"
    assert api.paths() == ["/media/b/k?sig=1", "/v1/assets/a1", "/media/b/k?sig=2"]


def test_a_plain_address_that_is_gone_stays_gone(api: ScriptedApi, client: Either, tmp_path: Path) -> None:
    api.script(refusal(404, "NOT_FOUND"))
    with pytest.raises(NotFound):
        client.download(f"{api.url}/media/b/k", tmp_path)
    assert names(tmp_path) == []


def test_what_has_no_address_cannot_be_downloaded(client: Either, tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match="no address: it is removed"):
        client.download(Asset(asset_id="a1", state="removed"), tmp_path)
