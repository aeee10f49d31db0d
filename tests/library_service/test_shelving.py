"""Labels, collections, search, counts and recipes from outside, over real gRPC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from atelier.library.v1 import library_service_pb2 as pb
from atelier.router.v1 import router_service_pb2
from atelier.type.v1 import error_pb2, generation_pb2
from library_service.domain import Item
from library_service.shelf_wire import recipe
from service_kit.identity import Owner
from service_kit.ids import new_id
from tests.library_service.house import ADA, BOB, Desk, House, next_of, picture, provenance


async def saved(house: House, desk: Desk, count: int) -> list[pb.Item]:
    """Save pictures of one job."""
    asset_ids = await house.make_job(ADA, [(picture(f"#{number:02x}0000"),) for number in range(count)])
    return [result.item for result in await desk.save(*asset_ids)]


async def refusal(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code()


async def ids(desk: Desk, **asked: Any) -> set[str]:
    return {item.item_id for item in (await desk.items(**asked)).items}


async def test_what_is_saved_is_found_at_once_by_its_words_and_labels(house: House) -> None:
    async with house.as_(ADA) as ada, house.as_(BOB) as bob:
        first, second = await saved(house, ada, 2)
        both = {first.item_id, second.item_id}
        for query in ("LIGHTHOUSE 灯台", "dusk", "white light"):
            assert await ids(ada, query=query) == both
            assert (await bob.items(query=query)).empty_state == pb.EMPTY_STATE_NOTHING_SAVED
        assert (await ada.items(query="heron")).empty_state == pb.EMPTY_STATE_NOTHING_MATCHES
        assert await ids(ada, seed=8) == {second.item_id}
        assert await ids(ada, model="sdxl-base", format=generation_pb2.FORMAT_IMAGE) == both

        update = pb.UpdateItemRequest(
            item_id=first.item_id, title="Phare d'été", tags=pb.ItemTags(tags=["Côte", "cote"])
        )
        changed = (await ada.library.UpdateItem(update)).item
        assert (changed.title, list(changed.tags), changed.version) == ("Phare d'été", ["Côte"], 2)
        assert await ids(ada, query="ete phare") == await ids(ada, tags=["COTE"]) == {first.item_id}
        again = (await ada.library.UpdateItem(pb.UpdateItemRequest(item_id=first.item_id, is_favourite=True))).item
        assert (again.title, list(again.tags), again.is_favourite) == ("Phare d'été", ["Côte"], True)
        assert await ids(ada, favourites=True) == {first.item_id}
        cleared = pb.UpdateItemRequest(item_id=first.item_id, title="", is_favourite=False, tags=pb.ItemTags())
        assert not (await ada.library.UpdateItem(cleared)).item.tags
        assert await ids(ada, query="phare") == await ids(ada, favourites=True) == set()
        assert await ids(ada, query="lighthouse") == both


async def test_a_watcher_is_told_of_a_change(house: House) -> None:
    async with house.as_(ADA) as ada:
        [item] = await saved(house, ada, 1)
        watch = ada.library.WatchItems(pb.WatchItemsRequest())
        await next_of(watch)
        updated = await ada.library.UpdateItem(pb.UpdateItemRequest(item_id=item.item_id, notes="n"))
        assert (await next_of(watch)).changed == updated.item
        watch.cancel()


async def test_many_are_changed_at_once_and_each_is_answered(house: House) -> None:
    async with house.as_(ADA) as ada:
        items = await saved(house, ada, 3)
        item_ids = [item.item_id for item in items]
        heap = (await ada.library.CreateCollection(pb.CreateCollectionRequest(name="Heap"))).collection
        other = (await ada.library.CreateCollection(pb.CreateCollectionRequest(name="Other"))).collection
        unknown = new_id()

        async def change(*asked: str, **what: Any) -> list[int]:
            request = pb.ChangeItemsRequest(item_ids=asked, **what)
            return [result.failure.reason for result in (await ada.library.ChangeItems(request)).results]

        labels: dict[str, Any] = {
            "add_tags": ["a", "B"],
            "is_favourite": True,
            "add_to_collection_id": heap.collection_id,
        }
        for _ in range(2):
            answered = await change(item_ids[0], unknown, item_ids[1], item_ids[0], **labels)
            assert answered == [0, error_pb2.ERROR_REASON_NOT_FOUND, 0, 0]
        assert {item.version for item in (await ada.items(collection_id=heap.collection_id)).items} == {2}
        assert await ids(ada, tags=["b"], favourites=True) == set(item_ids[:2])

        moved = {"add_to_collection_id": other.collection_id, "remove_from_collection_id": heap.collection_id}
        assert await change(item_ids[0], remove_tags=["b"], **moved) == [0]
        sizes = (await ada.library.ListCollections(pb.ListCollectionsRequest())).collections
        assert [(each.name, each.size) for each in sizes] == [("Heap", 1), ("Other", 1)]
        assert await ids(ada, tags=["b"]) == {item_ids[1]}

        for _ in range(2):
            assert await change(*item_ids[:2], move=pb.ITEM_MOVE_TRASH) == [0, 0]
        assert await ids(ada) == {item_ids[2]}
        assert await ids(ada, trashed=True) == set(item_ids[:2])
        assert await change(item_ids[0], add_tags=["c"]) == [error_pb2.ERROR_REASON_FAILED_PRECONDITION]
        assert await change(item_ids[0], move=pb.ITEM_MOVE_RESTORE, add_tags=["c"]) == [0]
        assert await ids(ada, tags=["c"], collection_id=other.collection_id) == {item_ids[0]}
        for _ in range(2):
            assert await change(*item_ids, move=pb.ITEM_MOVE_DELETE) == [0, 0, 0]
        assert await house.keys_in("user-library") == []
        assert (await ada.items()).empty_state == pb.EMPTY_STATE_NOTHING_SAVED
        assert (await ada.items(trashed=True)).empty_state == pb.EMPTY_STATE_NOTHING_SAVED


async def test_what_has_too_many_tags_is_neither_changed_nor_moved(house: House) -> None:
    async with house.as_(ADA) as ada:
        [item] = await saved(house, ada, 1)

        async def change(tags: list[str], **what: Any) -> int:
            request = pb.ChangeItemsRequest(item_ids=[item.item_id], add_tags=tags, **what)
            [result] = (await ada.library.ChangeItems(request)).results
            return result.failure.reason

        tags = [f"t{number}" for number in range(100)]
        for start in range(0, 100, 20):
            assert [await change(tags[start : start + 20]) for _ in range(2)] == [0, 0]
        assert await change(["other"], remove_tags=tags[:1]) == 0
        for move in (pb.ITEM_MOVE_TRASH, pb.ITEM_MOVE_DELETE):
            assert await change(["more"], move=move) == error_pb2.ERROR_REASON_FAILED_PRECONDITION
        assert await ids(ada) == {item.item_id}
        assert await ids(ada, trashed=True) == await ids(ada, tags=["more"]) == set()


async def test_what_cannot_be_changed_is_refused_as_a_whole(house: House) -> None:
    async with house.as_(ADA) as ada, house.as_(BOB) as bob:
        [item] = await saved(house, ada, 1)
        theirs = (await bob.library.CreateCollection(pb.CreateCollectionRequest(name="Heap"))).collection
        change: dict[str, Any] = {"item_ids": [item.item_id]}
        for request, code in (
            (pb.ChangeItemsRequest(**change), grpc.StatusCode.INVALID_ARGUMENT),
            (pb.ChangeItemsRequest(**change, move=9), grpc.StatusCode.INVALID_ARGUMENT),  # type: ignore[arg-type]
            (pb.ChangeItemsRequest(**change, add_tags=["?!"]), grpc.StatusCode.INVALID_ARGUMENT),
            (pb.ChangeItemsRequest(**change, add_tags=["x" * 65]), grpc.StatusCode.INVALID_ARGUMENT),
            (pb.ChangeItemsRequest(item_ids=["x"] * 1001, add_tags=["x"]), grpc.StatusCode.INVALID_ARGUMENT),
            (
                pb.ChangeItemsRequest(**change, add_to_collection_id=theirs.collection_id),
                grpc.StatusCode.NOT_FOUND,
            ),
        ):
            assert await refusal(ada.library.ChangeItems(request)) is code
        assert await refusal(ada.items(sort=9)) is grpc.StatusCode.INVALID_ARGUMENT
        answered = await bob.library.ChangeItems(pb.ChangeItemsRequest(**change, is_favourite=True))
        assert answered.results[0].failure.reason == error_pb2.ERROR_REASON_NOT_FOUND
        assert (await ada.library.GetItem(pb.GetItemRequest(item_id=item.item_id))).item.version == 1


async def test_collections_keep_their_names_apart_and_never_take_items_with_them(house: House) -> None:
    async with house.as_(ADA) as ada, house.as_(BOB) as bob:
        [item] = await saved(house, ada, 1)
        heap = (await ada.library.CreateCollection(pb.CreateCollectionRequest(name="Heap"))).collection
        again = (await ada.library.CreateCollection(pb.CreateCollectionRequest(name="HEAP"))).collection
        assert again == heap
        await ada.library.CreateCollection(pb.CreateCollectionRequest(name="Other"))
        rename = pb.RenameCollectionRequest(collection_id=heap.collection_id, name="Pile")
        renamed = (await ada.library.RenameCollection(rename)).collection
        assert (renamed.name, renamed.version) == ("Pile", 2)
        assert await refusal(bob.library.RenameCollection(rename)) is grpc.StatusCode.NOT_FOUND
        rename.name = "other"
        assert await refusal(ada.library.RenameCollection(rename)) is grpc.StatusCode.ALREADY_EXISTS
        nameless = ada.library.CreateCollection(pb.CreateCollectionRequest(name="?"))
        assert await refusal(nameless) is grpc.StatusCode.INVALID_ARGUMENT

        put = pb.ChangeItemsRequest(item_ids=[item.item_id], add_to_collection_id=heap.collection_id)
        await ada.library.ChangeItems(put)
        delete = pb.DeleteCollectionRequest(collection_id=heap.collection_id)
        await bob.library.DeleteCollection(delete)
        assert await ids(ada, collection_id=heap.collection_id) == {item.item_id}
        for _ in range(2):
            await ada.library.DeleteCollection(delete)
        assert await ids(ada, collection_id=heap.collection_id) == set()
        kept = (await ada.library.GetItem(pb.GetItemRequest(item_id=item.item_id))).item
        assert list(kept.collection_ids) == []


async def test_counts_tell_what_there_is(house: House) -> None:
    async with house.as_(ADA) as ada:
        items = await saved(house, ada, 3)
        await ada.library.UpdateItem(
            pb.UpdateItemRequest(item_id=items[0].item_id, is_favourite=True, tags=pb.ItemTags(tags=["x"]))
        )
        counts = await ada.library.CountItems(pb.CountItemsRequest(query="lighthouse"))

    assert (counts.total, counts.is_bound, counts.favourites) == (3, False, 1)
    assert [(each.name, each.count) for each in counts.formats] == [("image", 3)]
    assert [(each.name, each.count) for each in counts.models] == [("sdxl-base", 3)]
    assert [(each.name, each.count) for each in counts.tags] == [("x", 1)]


async def test_a_token_of_one_order_is_none_of_another(house: House) -> None:
    async with house.as_(ADA) as ada:
        await saved(house, ada, 3)
        token = (await ada.items(page_size=1, sort=pb.ITEM_SORT_TITLE)).next_page_token
        assert len((await ada.items(page_token=token, sort=pb.ITEM_SORT_TITLE)).items) == 2
        assert await refusal(ada.items(page_token=token)) is grpc.StatusCode.INVALID_ARGUMENT


async def test_dates_narrow_a_list(house: House) -> None:
    async with house.as_(ADA) as ada:
        [first] = await saved(house, ada, 1)
        house.clock.advance(timedelta(minutes=1))
        [second] = await saved(house, ada, 1)
        assert await ids(ada, created_from_at=second.created_at) == {second.item_id}
        assert await ids(ada, created_until_at=second.created_at) == {first.item_id}


async def test_a_recipe_is_the_request_that_makes_this_very_item(house: House) -> None:
    async with house.as_(ADA) as ada, house.as_(BOB) as bob:
        _, item = await saved(house, ada, 2)
        ask = pb.GetRecipeRequest(item_id=item.item_id)
        request = (await ada.library.GetRecipe(ask)).request
        exact = (await ada.library.GetRecipe(pb.GetRecipeRequest(item_id=item.item_id, as_enhanced=True))).request
        assert await refusal(bob.library.GetRecipe(ask)) is grpc.StatusCode.NOT_FOUND

    made = item.provenance
    assert (request.prompt, request.negative_prompt, request.model) == ("a lighthouse 灯台", "fog", "sdxl-base")
    assert (request.seed, request.quantity, request.enhance_prompt) == (8, 1, True)
    assert list(request.reference_images) == list(made.reference_images)
    assert (exact.prompt, exact.enhance_prompt) == (made.enhanced_prompt, False)


@pytest.mark.parametrize("warns", [False, True])
@pytest.mark.parametrize("enhanced", ["", "a tall white lighthouse"])
def test_a_request_that_asked_for_an_enhancement_asks_for_it_again(enhanced: str, *, warns: bool) -> None:
    made = provenance(new_id(), 0)
    made.enhanced_prompt, made.enhance_prompt, made.warn_on_enhancement_failure = enhanced, True, warns
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    item = Item("i", Owner("default", "ada"), "a", "image", made.SerializeToString(), (), moment, None, 1)
    asked, exact = (recipe(item, as_enhanced=wanted) for wanted in (False, True))
    warn = router_service_pb2.ON_ENHANCEMENT_FAILURE_WARN if warns else 0
    assert (asked.prompt, asked.enhance_prompt, asked.on_enhancement_failure) == (made.prompt, True, warn)
    assert (exact.prompt, exact.enhance_prompt, exact.on_enhancement_failure) == (enhanced or made.prompt, False, 0)
