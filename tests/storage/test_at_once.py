"""Transactions that wait for nothing but their queries, of each service and on both databases."""

from __future__ import annotations

import asset_service.storage
import library_service.storage
import router_service.storage


async def test_each_service_has_transactions_that_wait_for_their_queries_only(
    router: router_service.storage.Storage,
    asset_: asset_service.storage.Storage,
    library: library_service.storage.Storage,
) -> None:
    moments = [
        await router.write_at_once(router_service.storage.Transaction.now),
        await asset_.write_at_once(asset_service.storage.Transaction.now),
        await library.write_at_once(library_service.storage.Transaction.now),
    ]
    assert len(set(moments)) == 1
