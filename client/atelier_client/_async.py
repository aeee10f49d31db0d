"""The client for asyncio; what each method does is told at its namesake of `Atelier`."""

# ruff: noqa: ASYNC109 - a limit is part of the question here: Timeout says what goes on

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import httpx

from atelier_client._async_connection import AsyncConnection
from atelier_client._calls import jobs, library, operation, workspace
from atelier_client._calls.jobs import ChatOptions, GenerateOptions
from atelier_client._calls.library import ItemChanges, ItemFilters
from atelier_client._calls.operation import KeyLimits
from atelier_client._calls.workspace import ImportDescription
from atelier_client._policy import Deadline, Follower
from atelier_client._results import Fetch, Source, generated, succeeded
from atelier_client._upload import Outgoing
from atelier_client.errors import AtelierError, NotAllowed, NotFound
from atelier_client.events import GrowingText, JobEvent
from atelier_client.models import (
    Asset,
    ChangeResult,
    ChatReply,
    Collection,
    Described,
    Enhancement,
    Erased,
    Generated,
    Health,
    Identity,
    Item,
    ItemCounts,
    Job,
    Key,
    Model,
    NewKey,
    Page,
    SaveResult,
    SignInCode,
    Submitted,
    SweepFinding,
    WebhookDelivery,
    WebhookSecret,
    Worker,
)

JobEvents = AsyncGenerator[JobEvent, None]


class AsyncAtelier(AsyncConnection):
    """A connection to one Atelier gateway, for asyncio.

    >>> async with AsyncAtelier("http://127.0.0.1:7400", key) as atelier:
    ...     made = await atelier.generate("a lighthouse in a storm", model="sdxl", format="image")
    ...     await atelier.download(made.assets[0], "lighthouse.png")

    The methods, their answers and their errors are those of `Atelier`.
    """

    # jobs

    async def submit(self, prompt: str, *, model: str, **options: Unpack[GenerateOptions]) -> Submitted:
        return await self._send(jobs.generate_content(prompt, model, options))

    async def generate(
        self, prompt: str, *, model: str, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Generated:
        job = succeeded(await self.wait((await self.submit(prompt, model=model, **options)).job_id, timeout))
        return generated(job, await self.assets(job.job_id, page_size=200))

    async def enhance(
        self,
        prompt: str,
        *,
        model: str = "sdxl",
        timeout: float | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Enhancement:
        job_id = (await self.submit(prompt, model=model, enhancement_only=True)).job_id
        job = succeeded(await self.wait(job_id, timeout, on_text=on_text))
        return Enhancement(job, job.enhanced_prompt)

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        model: str = "chat",
        seed: int | None = None,
        timeout: float | None = None,
        on_text: Callable[[str], None] | None = None,
        **options: Unpack[ChatOptions],
    ) -> ChatReply:
        job_id = (await self._send(jobs.chat(messages, model, seed, options))).job_id
        job = succeeded(await self.wait(job_id, timeout, on_text=on_text))
        return job.reply or ChatReply()

    async def get_job(self, job_id: str) -> Job:
        return await self._send(jobs.get_job(job_id))

    async def list_jobs(self, *, state: str = "", page_size: int | None = None, page_token: str = "") -> Page[Job]:
        return await self._send(jobs.list_jobs(state, page_size, page_token))

    async def cancel(self, job_id: str) -> Job:
        return await self._send(jobs.cancel_job(job_id))

    async def watch(self, job_id: str, after: str = "", *, timeout: float | None = None) -> JobEvents:
        follower = Follower(job_id, after, self._policy, self.url)
        deadline = Deadline(timeout, f"Job {job_id}")
        while not follower.ended:
            broken: httpx.TransportError | None = None
            try:
                async with contextlib.aclosing(self._events(follower, deadline)) as events:
                    async for event in events:
                        yield event
            except httpx.TransportError as error:
                broken = error
            if not follower.ended:
                deadline.left()
                await asyncio.sleep(deadline.cut(follower.pause(broken)))

    async def wait(
        self, job_id: str, timeout: float | None = None, *, on_text: Callable[[str], None] | None = None
    ) -> Job:
        text = GrowingText()
        async with contextlib.aclosing(self.watch(job_id, timeout=timeout)) as events:
            async for event in events:
                if event.job is not None and event.job.ended:
                    return event.job
                if event.text_delta is not None and on_text is not None and text.add(event.text_delta) != (False, ""):
                    on_text(text.text)
        return await self.get_job(job_id)

    # workspace

    async def assets(self, job_id: str = "", *, page_size: int | None = None, page_token: str = "") -> Page[Asset]:
        return await self._send(workspace.list_assets(job_id, page_size, page_token))

    async def get_asset(self, asset_id: str) -> Asset:
        return await self._send(workspace.get_asset(asset_id))

    async def discard(self, asset_id: str) -> Asset:
        return await self._send(workspace.discard_asset(asset_id))

    async def upload(self, source: Path | bytes, filename: str = "", *, import_key: str = "") -> Asset:
        file = await asyncio.to_thread(Outgoing, source, filename, import_key, self._policy)
        if file.whole:
            return await self._send(await asyncio.to_thread(file.create))
        reached = await self._send(file.begin())
        while (piece := await asyncio.to_thread(file.append, reached)) is not None:
            try:
                reached = await self._send(piece)
            except AtelierError as error:
                await asyncio.sleep(file.pause_after(error))
                reached = await self._send(file.look(reached))
        return await self._send(file.complete(reached))

    async def describe_import(self, import_key: str, **description: Unpack[ImportDescription]) -> Described:
        return await self._send(workspace.describe_import(import_key, description))

    # library

    async def save(self, *asset_ids: str) -> tuple[SaveResult, ...]:
        return await self._send(workspace.save_to_library(asset_ids))

    async def clear(self, *asset_ids: str) -> tuple[SaveResult, ...]:
        return await self._send(workspace.clear_assets(asset_ids))

    async def clear_job(self, job_id: str) -> tuple[SaveResult, ...]:
        return await self._send(workspace.clear_job(job_id))

    async def clear_workspace(self, *, page_token: str = "") -> Page[SaveResult]:
        return await self._send(workspace.clear_workspace(page_token))

    async def sweep(
        self, part: str, *, dry_run: bool = True, page_token: str = "", verify: bool = False
    ) -> Page[SweepFinding]:
        return await self._send(workspace.sweep(part, dry_run, page_token, verify))

    async def erase_owner(self, part: str, owner_id: str, *, tenant_id: str = "") -> Erased:
        return await self._send(workspace.erase_owner(part, owner_id, tenant_id))

    async def items(
        self, *, sort: str = "", page_size: int | None = None, page_token: str = "", **filters: Unpack[ItemFilters]
    ) -> Page[Item]:
        return await self._send(library.list_items(filters, sort, page_size, page_token))

    async def count_items(self, **filters: Unpack[ItemFilters]) -> ItemCounts:
        return await self._send(library.count_items(filters))

    async def get_item(self, item_id: str) -> Item:
        return await self._send(library.get_item(item_id))

    async def update_item(
        self,
        item_id: str,
        *,
        title: str | None = None,
        notes: str | None = None,
        is_favourite: bool | None = None,
        tags: Iterable[str] | None = None,
    ) -> Item:
        return await self._send(library.update_item(item_id, title, notes, is_favourite, tags))

    async def change_items(self, *item_ids: str, **changes: Unpack[ItemChanges]) -> tuple[ChangeResult, ...]:
        return await self._send(library.change_items(item_ids, changes))

    async def recipe(self, item_id: str, *, as_enhanced: bool = False) -> dict[str, Any]:
        return await self._send(library.get_recipe(item_id, as_enhanced))

    async def create_collection(self, name: str) -> Collection:
        return await self._send(library.create_collection(name))

    async def collections(self) -> Page[Collection]:
        return await self._send(library.list_collections())

    async def rename_collection(self, collection_id: str, name: str) -> Collection:
        return await self._send(library.rename_collection(collection_id, name))

    async def delete_collection(self, collection_id: str) -> None:
        await self._send(library.delete_collection(collection_id))

    async def delete_item(self, item_id: str, *, permanently: bool = False) -> None:
        await self._send(library.delete_item(item_id, permanently))

    async def download(self, source: Source, to: Path | str = ".") -> Path:
        try:
            return await self._fetch(Fetch.of(source, to))
        except (NotAllowed, NotFound):
            if isinstance(source, str):
                raise
            fresh = await (
                self.get_asset(source.asset_id) if isinstance(source, Asset) else self.get_item(source.item_id)
            )
            return await self._fetch(Fetch.of(fresh, to))

    async def download_zip(
        self, *item_ids: str, to: Path | str = "atelier.zip", **filters: Unpack[ItemFilters]
    ) -> Path:
        return await self._fetch(Fetch.archive(self.url, library.archived(item_ids, filters), to))

    # operators

    async def models(self) -> Page[Model]:
        return await self._send(operation.list_models())

    async def workers(self, *, page_size: int | None = None, page_token: str = "") -> Page[Worker]:
        return await self._send(operation.list_workers(page_size, page_token))

    async def put_model(self, model: Model) -> Model:
        return await self._send(operation.put_model(model))

    async def delete_model(self, name: str) -> None:
        await self._send(operation.delete_model(name))

    async def create_key(
        self,
        owner_id: str,
        *,
        kind: str = "",
        tenant_id: str = "",
        name: str = "",
        valid_days: int | None = None,
        worker_types: Sequence[str] = (),
        **limits: Unpack[KeyLimits],
    ) -> NewKey:
        return await self._send(operation.create_key(owner_id, kind, tenant_id, name, valid_days, worker_types, limits))

    async def keys(self, *, owner_id: str = "", page_size: int | None = None, page_token: str = "") -> Page[Key]:
        return await self._send(operation.list_keys(owner_id, page_size, page_token))

    async def update_key(self, key_id: str, **limits: Unpack[KeyLimits]) -> Key:
        return await self._send(operation.update_key(key_id, limits))

    async def revoke_key(self, key_id: str) -> Key:
        return await self._send(operation.revoke_key(key_id))

    async def create_sign_in_code(self) -> SignInCode:
        return await self._send(operation.create_sign_in_code())

    async def webhook_deliveries(
        self, *, job_id: str = "", state: str = "", page_size: int | None = None, page_token: str = ""
    ) -> Page[WebhookDelivery]:
        return await self._send(operation.list_webhook_deliveries(job_id, state, page_size, page_token))

    async def redeliver_webhook(self, delivery_id: str) -> WebhookDelivery:
        return await self._send(operation.redeliver_webhook(delivery_id))

    async def webhook_secret(self) -> WebhookSecret:
        return await self._send(operation.get_webhook_secret())

    async def rotate_webhook_secret(self) -> WebhookSecret:
        return await self._send(operation.rotate_webhook_secret())

    async def identity(self) -> Identity:
        return await self._send(operation.get_identity())

    async def health(self) -> Health:
        return await self._send(operation.health())
