"""Both databases find the same items, in the same order, page by page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from library_service.domain import Item
from library_service.domain.selection import Place, Selection, Sort
from library_service.domain.words import Facts, fold_label, tokens_of
from library_service.storage import Storage, Transaction, search
from library_service.storage.saves import NewItem
from service_kit.clock import ManualClock
from service_kit.errors import AlreadyExists
from service_kit.identity import Owner
from tests.storage.library_rows import ANN, BOB, OTHER, caller, item, keep

REQUESTS = Path(__file__).parents[1] / "data" / "requests.jsonl"
NOT_ASCII = "雨の夜の横丁、提灯の明かりと水たまりの反射 — café “Zoë”, naïve style, 🌧️"
ARABIC = "سوق قديم عند الغروب، أقمشة ملوّنة وضوء ذهبي"


async def save(tx: Transaction, one: Item, facts: Facts | None) -> None:
    blob_ids = [await keep(tx, f"blob-{one.item_id}", one.owner, one.item_id)]
    await tx.saves.add(caller(one.owner), [NewItem(one, blob_ids, facts)])


async def found(library: Storage, owner: Owner = ANN, **asked: Any) -> set[str]:
    async with library.read() as tx:
        page = await tx.search.page(owner, Selection(**asked), sort=Sort.NEWEST, after=None, limit=99)
    return {one.item_id for one in page}


async def pages(library: Storage, selection: Selection, sort: Sort, size: int) -> list[str]:
    """Return the ids of a whole list, read page by page."""
    seen: list[str] = []
    after: Place | None = None
    while True:
        async with library.read() as tx:
            page = await tx.search.page(ANN, selection, sort=sort, after=after, limit=size)
        seen += [one.item_id for one in page]
        if len(page) < size:
            return seen
        after = (page[-1].title_key if sort is Sort.TITLE else page[-1].created_at, page[-1].item_id)


@pytest.fixture
async def gallery(library: Storage, clock: ManualClock) -> AsyncIterator[dict[str, str]]:
    """Items of the prompts of the sample requests, by prompt."""
    prompts = [
        line["request"]["prompt"]
        for line in map(json.loads, REQUESTS.read_text(encoding="utf-8").splitlines())
        if "refused" not in line
    ]
    by_prompt = {prompt: f"i{number:02}" for number, prompt in enumerate(prompts)}
    async with library.write() as tx:
        for prompt, item_id in by_prompt.items():
            await save(tx, item(item_id, clock), Facts((prompt, "enhanced: Übergröße"), "sdxl-base", 0, "image"))
        theirs = item("theirs", clock, owner=BOB)
        await save(tx, theirs, Facts((NOT_ASCII,), "sdxl-base", 7, "image"))
    yield by_prompt


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("提灯", NOT_ASCII),
        ("反射", NOT_ASCII),
        ("灯", NOT_ASCII),
        ("提灯の明かり", NOT_ASCII),
        ("cafe", NOT_ASCII),
        ("Zoe", NOT_ASCII),
        ("ZOË café", NOT_ASCII),
        ("ｃａｆｅ\u0301 naive sty", NOT_ASCII),
        ("🌧", NOT_ASCII),
        ("ملونة", ARABIC),
        ("ملوّنة قديم", ARABIC),
        ("lisbon rails", "a narrow street in Lisbon after rain, tram rails, tiled facades"),
    ],
)
async def test_words_of_any_script_find_their_prompt(
    library: Storage, gallery: dict[str, str], text: str, prompt: str
) -> None:
    assert await found(library, text=text) == {gallery[prompt]}


async def test_enhanced_prompts_are_found_and_only_the_owners(library: Storage, gallery: dict[str, str]) -> None:
    assert await found(library, text="ubergrosse") == set(gallery.values())
    assert await found(library, BOB, text="提灯") == {"theirs"}
    assert await found(library, BOB, text="ubergrosse") == set()


@pytest.mark.parametrize(
    "text",
    [
        *(
            '"',
            "'",
            "*",
            "(",
            "cafe AND",
            "NOT cafe OR (",
            '"cafe',
            "words:cafe",
            "-cafe",
            "cafe:*",
            "a & | !b <->",
            "\\",
        ),
        *("^cafe", "{cafe} NEAR(", "💥", "\u0301", "\x00", "%", "_", "x" * 1000, "提灯 " * 300, "NEAR/3"),
    ],
)
async def test_nothing_in_a_text_is_syntax(library: Storage, gallery: dict[str, str], text: str) -> None:
    matching = await found(library, text=text)
    assert matching <= set(gallery.values())
    assert ("cafe" not in text) or matching <= {gallery[NOT_ASCII]}


async def test_only_the_last_word_may_be_a_beginning(library: Storage, gallery: dict[str, str]) -> None:
    lighthouses = {item_id for prompt, item_id in gallery.items() if "lighthouse" in prompt}
    on_a_cliff = {item_id for prompt, item_id in gallery.items() if "lighthouse on a" in prompt}
    assert on_a_cliff < lighthouses
    assert await found(library, text="lighth") == lighthouses
    assert await found(library, text="cliff lighth") == on_a_cliff
    assert await found(library, text="lighth cliff") == set()


async def shelve(library: Storage, one: Item, facts: Facts, *, tags: Sequence[str], title: str) -> None:
    """Label an item as the service does: labels first, words after."""
    async with library.write() as tx:
        kept = (await tx.shelves.lock(one.owner, [one.item_id]))[one.item_id]
        await tx.shelves.tag(kept, add={fold_label(tag): tag for tag in tags}, remove=[])
        await tx.shelves.write(kept, title=title, notes="a note", is_favourite=one.item_id == "i3")
        labelled = (await tx.shelves.lock(one.owner, [one.item_id]))[one.item_id]
        assert (labelled.version, labelled.labels.title, labelled.notes) == (kept.version + 1, title, "a note")
        words = tokens_of(one.owner, facts, labelled.labels)
        assert await tx.search.write_words([(labelled, facts.model, words), (kept, "stale", words)]) == 1


async def seven(library: Storage, clock: ManualClock) -> None:
    """Save seven items a minute apart that differ in everything that a list can be narrowed by."""
    for number in range(7):
        one = item(f"i{number}", clock, format="video" if number == 6 else "image")
        facts = Facts((f"prompt number {number}",), f"model-{number % 2}", number, one.format)
        async with library.write() as tx:
            await save(tx, one, facts)
        tags = ["Été", "all"] if number in (2, 3) else ["all"]
        await shelve(library, one, facts, tags=tags, title=["", "b", "É", "a", "Z", "提灯", "b"][number])
        clock.advance(timedelta(minutes=1))


async def test_a_list_is_narrowed_by_everything(library: Storage, clock: ManualClock) -> None:
    start = clock.now()
    await seven(library, clock)
    async with library.write() as tx:
        shelf = await tx.shelves.add_collection(ANN, "Shelf")
        for one in (await tx.shelves.lock(ANN, ["i1", "i4"])).values():
            await tx.shelves.put_in(one, shelf)
            current = (await tx.shelves.lock(ANN, [one.item_id]))[one.item_id]
            facts = Facts((), "model-0", 4, "image")
            await tx.search.write_words([(current, "model-0", tokens_of(ANN, facts, current.labels))])
        assert await tx.items.trash(ANN, "i5")

    everything = {f"i{number}" for number in (0, 1, 2, 3, 4, 6)}
    assert await found(library) == everything
    assert await found(library, format="video") == {"i6"}
    assert await found(library, model="Model-1") == {"i3"}
    assert await found(library, seed=0) == {"i0"}
    assert await found(library, seed=4) == {"i1", "i4"}
    assert await found(library, is_favourite=True) == {"i3"}
    assert await found(library, tags=("ete",)) == {"i2", "i3"}
    assert await found(library, tags=("ete", "ALL"), text="number 3") == {"i3"}
    assert await found(library, collection_id=shelf) == {"i1", "i4"}
    assert await found(library, collection_id="another") == set()
    assert await found(library, created_from=start + timedelta(minutes=2), created_until=clock.now()) == {
        *("i2", "i3", "i4", "i6")
    }
    assert await found(library, created_until=start + timedelta(minutes=2)) == {"i0", "i1"}
    assert await found(library, in_trash=True) == {"i5"}
    assert await found(library, in_trash=True, text="提灯") == {"i5"}
    assert await found(library, text="提灯") == set()
    assert await found(library, item_ids=("i2", "i5", "of-i6", "i0")) == {"i0", "i2"}
    assert await found(library, text="!") == set()


@pytest.mark.parametrize("ahead", [1, 3, 4000])
@pytest.mark.parametrize("size", [1, 2, 99])
async def test_pages_have_no_gap_and_no_repetition(
    library: Storage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, ahead: int, size: int
) -> None:
    """However few items are read before the index of words is asked."""
    monkeypatch.setattr(search, "READ_AHEAD", ahead)
    await seven(library, clock)
    newest = [f"i{number}" for number in (6, 5, 4, 3, 2, 1, 0)]
    for text in ("", "number", "numb"):
        assert await pages(library, Selection(text=text), Sort.NEWEST, size) == newest
        assert await pages(library, Selection(text=text), Sort.OLDEST, size) == newest[::-1]
        by_title = await pages(library, Selection(text=text), Sort.TITLE, size)
        assert by_title == ["i0", "i3", "i1", "i6", "i2", "i4", "i5"]
    rare = Selection(text="number", tags=("été",))
    assert await pages(library, rare, Sort.NEWEST, size) == ["i3", "i2"]
    assert await pages(library, rare, Sort.TITLE, size) == ["i3", "i2"]


@pytest.mark.parametrize("text", ["", "number"])
@pytest.mark.parametrize("sort", [Sort.NEWEST, Sort.OLDEST])
async def test_a_list_that_changes_while_it_is_read_shows_what_stays_once(
    library: Storage, clock: ManualClock, sort: Sort, text: str
) -> None:
    await seven(library, clock)
    selection, after, seen = Selection(text=text), None, list[str]()
    for number in range(5):
        async with library.read() as tx:
            page = await tx.search.page(ANN, selection, sort=sort, after=after, limit=2)
        seen += [one.item_id for one in page]
        after = (page[-1].created_at, page[-1].item_id) if page else after
        clock.advance(timedelta(minutes=1))
        async with library.write() as tx:
            if page:
                # Where the next page begins is gone for good, and what was shown before it lies in the trash.
                await tx.items.bury(ANN, page[-1].item_id)
                await tx.items.trash(ANN, page[0].item_id)
            if number < 2:
                new = f"new{number}"
                await save(tx, item(new, clock), Facts((f"number {number}",), "model-0", number, "image"))
    old = [f"i{number}" for number in range(7)]
    assert seen == (old[::-1] if sort is Sort.NEWEST else [*old, "new0", "new1"])
    async with library.read() as tx:
        left = await tx.search.count(ANN, selection, at_most=99)
        trashed = await tx.search.count(ANN, Selection(text=text, in_trash=True), at_most=99)
    assert (left.total, trashed.total) == (2 if sort is Sort.NEWEST else 0, len(seen) // 2)


async def test_counts_are_exact_up_to_their_bound(library: Storage, clock: ManualClock) -> None:
    await seven(library, clock)
    async with library.read() as tx:
        counts = await tx.search.count(ANN, Selection(), at_most=7)
        assert (counts.total, counts.is_bound, counts.favourites) == (7, False, 1)
        assert (counts.formats, counts.models) == ({"image": 6, "video": 1}, {"model-0": 4, "model-1": 3})
        assert counts.tags == {"all": 7, "Été": 2}
        some = await tx.search.count(ANN, Selection(text="number"), at_most=6)
        assert (some.total, some.is_bound) == (6, True)
        few = await tx.search.count(ANN, Selection(tags=("Ete",)), at_most=6)
        assert (few.total, few.is_bound, few.tags) == (2, False, {"all": 2, "Été": 2})
        for nothing in (Selection(text="?"), Selection(in_trash=True)):
            assert (await tx.search.count(ANN, nothing, at_most=6)).total == 0
        assert (await tx.search.count(BOB, Selection(), at_most=6)).total == 0
        assert await tx.search.has_any(ANN, Selection(text="number"))
        assert not await tx.search.has_any(BOB, Selection(text="number"))


async def test_what_an_earlier_release_wrote_is_read_later(library: Storage, clock: ManualClock) -> None:
    async with library.write() as tx:
        await save(tx, item("old", clock), None)
        await save(tx, item("gone", clock), None)
        assert await tx.items.bury(ANN, "gone")
    assert await found(library) == {"old"}
    assert await found(library, text="heron") == set()
    async with library.write() as tx:
        [unread] = await tx.search.find_unread(limit=9)
        facts = Facts(("a heron",), "m", 1, "image")
        assert await tx.search.write_words([(unread, "m", tokens_of(ANN, facts, unread.labels))]) == 1
        assert await tx.search.find_unread(limit=9) == []
    assert await found(library, text="heron") == {"old"}


async def test_what_is_buried_is_found_by_nothing_any_more(library: Storage, clock: ManualClock) -> None:
    await seven(library, clock)
    async with library.write() as tx:
        shelf = await tx.shelves.add_collection(ANN, "Shelf")
        await tx.shelves.put_in((await tx.shelves.lock(ANN, ["i3"]))["i3"], shelf)
        assert await tx.items.bury(ANN, "i3")
        tombstone = (await tx.shelves.lock(ANN, ["i3"]))["i3"]
        assert (tombstone.labels, tombstone.notes) == (
            replace(tombstone.labels, title="", tags=(), collection_ids=()),
            "",
        )
        assert await tx.shelves.items_in(ANN, shelf, limit=9) == []
    assert "i3" not in await found(library, text="number")
    clock.advance(timedelta(days=1))
    async with library.write() as tx:
        assert await tx.items.trim_deleted(timedelta(days=1)) == 1
    assert len(await found(library, text="number")) == 6


async def test_collections_are_named_once_and_counted(library: Storage, clock: ManualClock) -> None:
    await seven(library, clock)
    async with library.write() as tx:
        first, second = [await tx.shelves.add_collection(ANN, name) for name in ("Été", "b")]
        assert await tx.shelves.add_collection(ANN, "ETE") == first
        assert await tx.shelves.add_collection(BOB, "ete") != first
        items = (await tx.shelves.lock(ANN, ["i0", "i1", "i2"])).values()
        for one in items:
            await tx.shelves.put_in(one, first)
            await tx.shelves.put_in(one, first)
        await tx.shelves.put_in(next(iter(items)), second)
        await tx.items.trash(ANN, "i2")
        assert await tx.shelves.count_collections(ANN) == 2
        assert [(each.name, each.size, each.version) for each in await tx.shelves.find_collections(ANN)] == [
            ("b", 1, 1),
            ("Été", 2, 1),
        ]
        assert await tx.shelves.find_collections(BOB, first) == []
        assert (await tx.shelves.lock(ANN, ["i0"]))["i0"].labels.collection_ids == tuple(sorted((first, second)))
        assert await tx.shelves.lock(BOB, ["i0"]) == {}
        await tx.shelves.take_out(next(iter(items)), first)
        assert [each.size for each in await tx.shelves.find_collections(ANN, first)] == [1]
        assert await tx.shelves.items_in(ANN, first, limit=9) == ["i1", "i2"]
        assert await tx.shelves.items_in(OTHER, first, limit=9) == []
        assert not await tx.shelves.rename_collection(BOB, first, "x")
        assert await tx.shelves.rename_collection(ANN, second, "c")
        assert [each.name for each in await tx.shelves.find_collections(ANN)] == ["c", "Été"]
        await tx.shelves.take_out(next(iter(items)), second)
        await tx.shelves.drop_collection(BOB, second)
        await tx.shelves.drop_collection(ANN, second)
        assert await tx.shelves.count_collections(ANN) == 1
    async with library.write() as tx:
        await tx.shelves.add_collection(ANN, "d")
    with pytest.raises(AlreadyExists, match="name D"):
        async with library.write() as tx:
            await tx.shelves.rename_collection(ANN, first, "D")


async def test_the_words_of_what_is_gone_can_be_forgotten(library: Storage, clock: ManualClock) -> None:
    facts = Facts(("a quokkalantern",), "sdxl", 7, "image")
    async with library.write() as tx:
        await save(tx, item("i1", clock), facts)
    assert await found(library, text="quokkalantern") == {"i1"}
    async with library.write() as tx:
        await tx.erased.delete_rows(ANN)
        await tx.search.forget_deleted()
    assert await found(library, text="quokkalantern") == set()
