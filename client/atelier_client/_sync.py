"""The client that blocks: one request, or one stream, at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import httpx

from atelier_client._calls import jobs, library, operation, workspace
from atelier_client._calls.jobs import ChatOptions, GenerateOptions
from atelier_client._calls.library import ItemChanges, ItemFilters
from atelier_client._calls.operation import KeyLimits
from atelier_client._calls.workspace import ImportDescription
from atelier_client._connection import Connection
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


class Atelier(Connection):
    """A connection to one Atelier gateway.

    >>> with Atelier("http://127.0.0.1:7400", key) as atelier:
    ...     made = atelier.generate("a lighthouse in a storm", model="sdxl", format="image")
    ...     atelier.download(made.assets[0], "lighthouse.png")

    Every method raises AtelierError or one of its subclasses. Requests that may be repeated without harm are repeated
    when a connection breaks, or when the server says that it is busy.
    """

    # jobs

    def submit(self, prompt: str, *, model: str, **options: Unpack[GenerateOptions]) -> Submitted:
        """Hand in one job and return at once with its id and effective values."""
        return self._send(jobs.generate_content(prompt, model, options))

    def generate(
        self, prompt: str, *, model: str, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Generated:
        """Hand in one job, wait for it and return it with its assets.

        Raises:
            JobFailed: it failed or was cancelled. Timeout: it did not end within `timeout` seconds; it goes on.
        """
        job = succeeded(self.wait(self.submit(prompt, model=model, **options).job_id, timeout))
        return generated(job, self.assets(job.job_id, page_size=200))

    def enhance(
        self,
        prompt: str,
        *,
        model: str = "sdxl",
        timeout: float | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Enhancement:
        """Have a richer prompt written, meant for `model`; `on_text` gets the text as it is written, whole each time.

        Raises:
            JobFailed: it failed or was cancelled. Timeout: it did not end within `timeout` seconds.
        """
        job_id = self.submit(prompt, model=model, enhancement_only=True).job_id
        job = succeeded(self.wait(job_id, timeout, on_text=on_text))
        return Enhancement(job, job.enhanced_prompt)

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        model: str = "chat",
        seed: int | None = None,
        timeout: float | None = None,
        on_text: Callable[[str], None] | None = None,
        **options: Unpack[ChatOptions],
    ) -> ChatReply:
        """Have the next message of a conversation written: `messages` have a `role` and a `content`, oldest first.

        `on_text` gets the text as it is written, whole each time.

        Raises:
            JobFailed: it failed or was cancelled. Timeout: it did not end within `timeout` seconds.
        """
        job_id = self._send(jobs.chat(messages, model, seed, options)).job_id
        job = succeeded(self.wait(job_id, timeout, on_text=on_text))
        return job.reply or ChatReply()

    def get_job(self, job_id: str) -> Job:
        """Return one job. Raises NotFound."""
        return self._send(jobs.get_job(job_id))

    def list_jobs(self, *, state: str = "", page_size: int | None = None, page_token: str = "") -> Page[Job]:
        """Return a page of jobs, newest first."""
        return self._send(jobs.list_jobs(state, page_size, page_token))

    def cancel(self, job_id: str) -> Job:
        """Stop a job; one that has ended is returned as it is. Raises Refused with the reason `too_late`."""
        return self._send(jobs.cancel_job(job_id))

    def watch(self, job_id: str, after: str = "", *, timeout: float | None = None) -> Iterator[JobEvent]:
        """Yield a job's events until it ends, over as many connections as it takes.

        Args:
            job_id: the job.
            after: the cursor of the last event that was seen; empty begins with a snapshot.
            timeout: seconds after which Timeout is raised.
        """
        follower = Follower(job_id, after, self._policy, self.url)
        deadline = Deadline(timeout, f"Job {job_id}")
        while not follower.ended:
            broken: httpx.TransportError | None = None
            try:
                yield from self._events(follower, deadline)
            except httpx.TransportError as error:
                broken = error
            if not follower.ended:
                deadline.left()
                time.sleep(deadline.cut(follower.pause(broken)))

    def wait(self, job_id: str, timeout: float | None = None, *, on_text: Callable[[str], None] | None = None) -> Job:
        """Return a job when it has ended, in whatever state. Raises Timeout after `timeout` seconds."""
        text = GrowingText()
        for event in self.watch(job_id, timeout=timeout):
            if event.job is not None and event.job.ended:
                return event.job
            if event.text_delta is not None and on_text is not None and text.add(event.text_delta) != (False, ""):
                on_text(text.text)
        return self.get_job(job_id)

    # workspace

    def assets(self, job_id: str = "", *, page_size: int | None = None, page_token: str = "") -> Page[Asset]:
        """Return a page of assets, newest first; with `job_id` those of one job."""
        return self._send(workspace.list_assets(job_id, page_size, page_token))

    def get_asset(self, asset_id: str) -> Asset:
        """Return one asset with fresh addresses. Raises NotFound."""
        return self._send(workspace.get_asset(asset_id))

    def discard(self, asset_id: str) -> Asset:
        """Remove an asset from the workspace; an item that was saved from it stays."""
        return self._send(workspace.discard_asset(asset_id))

    def upload(self, source: Path | bytes, filename: str = "", *, import_key: str = "") -> Asset:
        """Bring in a picture, to be used as a reference; with `import_key` the file of an import that was described."""
        file = Outgoing(source, filename, import_key, self._policy)
        if file.whole:
            return self._send(file.create())
        reached = self._send(file.begin())
        while (piece := file.append(reached)) is not None:
            try:
                reached = self._send(piece)
            except AtelierError as error:
                time.sleep(file.pause_after(error))
                reached = self._send(file.look(reached))
        return self._send(file.complete(reached))

    def describe_import(self, import_key: str, **description: Unpack[ImportDescription]) -> Described:
        """Say how a file was made that is about to be uploaded with this key: 64 hexadecimal digits of its own."""
        return self._send(workspace.describe_import(import_key, description))

    # library

    def save(self, *asset_ids: str) -> tuple[SaveResult, ...]:
        """Save assets for good; each has its own result."""
        return self._send(workspace.save_to_library(asset_ids))

    def clear(self, *asset_ids: str) -> tuple[SaveResult, ...]:
        """Save assets that are not saved, and remove them from the workspace; what cannot be saved stays."""
        return self._send(workspace.clear_assets(asset_ids))

    def clear_job(self, job_id: str) -> tuple[SaveResult, ...]:
        """Clear all assets of a job."""
        return self._send(workspace.clear_job(job_id))

    def clear_workspace(self, *, page_token: str = "") -> Page[SaveResult]:
        """Clear one page of the workspace, from the newest; go on with the page's token until it is empty."""
        return self._send(workspace.clear_workspace(page_token))

    def sweep(
        self, part: str, *, dry_run: bool = True, page_token: str = "", verify: bool = False
    ) -> Page[SweepFinding]:
        """Compare a page of a bucket, `workspace` or `library`, with its rows. For operators."""
        return self._send(workspace.sweep(part, dry_run, page_token, verify))

    def erase_owner(self, part: str, owner_id: str, *, tenant_id: str = "") -> Erased:
        """Erase an owner from the `jobs`, the `workspace` or the `library`; repeat until it is done. For operators."""
        return self._send(workspace.erase_owner(part, owner_id, tenant_id))

    def items(
        self, *, sort: str = "", page_size: int | None = None, page_token: str = "", **filters: Unpack[ItemFilters]
    ) -> Page[Item]:
        """Return a page of items that have everything that is asked; `sort` is `newest`, `oldest` or `title`."""
        return self._send(library.list_items(filters, sort, page_size, page_token))

    def count_items(self, **filters: Unpack[ItemFilters]) -> ItemCounts:
        """Count items, and what there is of each format, model and tag; exact up to 10,000."""
        return self._send(library.count_items(filters))

    def get_item(self, item_id: str) -> Item:
        """Return one item with fresh addresses. Raises NotFound."""
        return self._send(library.get_item(item_id))

    def update_item(
        self,
        item_id: str,
        *,
        title: str | None = None,
        notes: str | None = None,
        is_favourite: bool | None = None,
        tags: Iterable[str] | None = None,
    ) -> Item:
        """Change what the owner says of an item; what is None stays as it is. Raises NotFound."""
        return self._send(library.update_item(item_id, title, notes, is_favourite, tags))

    def change_items(self, *item_ids: str, **changes: Unpack[ItemChanges]) -> tuple[ChangeResult, ...]:
        """Change many items (1,000 at most): tags, favourites, collections, trash. Each has its own result."""
        return self._send(library.change_items(item_ids, changes))

    def recipe(self, item_id: str, *, as_enhanced: bool = False) -> dict[str, Any]:
        """Return the request that makes an item again; `as_enhanced` with its prompt as it was enhanced."""
        return self._send(library.get_recipe(item_id, as_enhanced))

    def create_collection(self, name: str) -> Collection:
        """Make a collection, or return the one that has the name."""
        return self._send(library.create_collection(name))

    def collections(self) -> Page[Collection]:
        """Return all collections, by name."""
        return self._send(library.list_collections())

    def rename_collection(self, collection_id: str, name: str) -> Collection:
        """Rename a collection. Raises NotFound; Refused when another one has the name."""
        return self._send(library.rename_collection(collection_id, name))

    def delete_collection(self, collection_id: str) -> None:
        """Delete a collection; its items stay."""
        self._send(library.delete_collection(collection_id))

    def delete_item(self, item_id: str, *, permanently: bool = False) -> None:
        """Put an item into the trash; with `permanently` delete it and its bytes for good."""
        self._send(library.delete_item(item_id, permanently))

    def download(self, source: Source, to: Path | str = ".") -> Path:
        """Fetch the bytes of an asset, an item or a signed address into a file, or under its own name into a folder.

        The file appears only when it is whole and its size and SHA-256 are right. For an address that has expired
        a new one is asked.

        Raises:
            DownloadFailed: the bytes are not those that were stored. OSError: the file cannot be written.
        """
        try:
            return self._fetch(Fetch.of(source, to))
        except (NotAllowed, NotFound):
            if isinstance(source, str):
                raise
            fresh = self.get_asset(source.asset_id) if isinstance(source, Asset) else self.get_item(source.item_id)
            return self._fetch(Fetch.of(fresh, to))

    def download_zip(self, *item_ids: str, to: Path | str = "atelier.zip", **filters: Unpack[ItemFilters]) -> Path:
        """Fetch many items as one ZIP file: those that are named, or those that the filters leave. 10,000 at most.

        Raises:
            InvalidArgument: neither is said what, or they are too many. OSError: the file cannot be written.
        """
        return self._fetch(Fetch.archive(self.url, library.archived(item_ids, filters), to))

    # operators

    def models(self) -> Page[Model]:
        """Return the routing table with the workers that are connected for each row."""
        return self._send(operation.list_models())

    def workers(self, *, page_size: int | None = None, page_token: str = "") -> Page[Worker]:
        """Return a page of the connected workers, with what their operators wrote on them."""
        return self._send(operation.list_workers(page_size, page_token))

    def put_model(self, model: Model) -> Model:
        """Add a row to the routing table, or replace the row of that name."""
        return self._send(operation.put_model(model))

    def delete_model(self, name: str) -> None:
        """Remove a row from the routing table. Raises NotFound."""
        self._send(operation.delete_model(name))

    def create_key(
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
        """Make a key; its text is in the answer this one time."""
        return self._send(operation.create_key(owner_id, kind, tenant_id, name, valid_days, worker_types, limits))

    def keys(self, *, owner_id: str = "", page_size: int | None = None, page_token: str = "") -> Page[Key]:
        """Return a page of keys, newest first, without their texts."""
        return self._send(operation.list_keys(owner_id, page_size, page_token))

    def update_key(self, key_id: str, **limits: Unpack[KeyLimits]) -> Key:
        """Set what a key may do, in place of what was set before. Raises NotFound."""
        return self._send(operation.update_key(key_id, limits))

    def revoke_key(self, key_id: str) -> Key:
        """Revoke a key. Raises NotFound."""
        return self._send(operation.revoke_key(key_id))

    def create_sign_in_code(self) -> SignInCode:
        """Make a code with which a browser signs in once, as the caller."""
        return self._send(operation.create_sign_in_code())

    def webhook_deliveries(
        self, *, job_id: str = "", state: str = "", page_size: int | None = None, page_token: str = ""
    ) -> Page[WebhookDelivery]:
        """Return the caller's deliveries of webhooks, newest first."""
        return self._send(operation.list_webhook_deliveries(job_id, state, page_size, page_token))

    def redeliver_webhook(self, delivery_id: str) -> WebhookDelivery:
        """Send a delivery again, at once and with all its repetitions, whatever became of it before."""
        return self._send(operation.redeliver_webhook(delivery_id))

    def webhook_secret(self) -> WebhookSecret:
        """Return what the caller's webhooks are signed with; it is made when it is first asked for."""
        return self._send(operation.get_webhook_secret())

    def rotate_webhook_secret(self) -> WebhookSecret:
        """Make a new secret. For 24 hours the one before signs, too."""
        return self._send(operation.rotate_webhook_secret())

    def identity(self) -> Identity:
        """Return who the caller is."""
        return self._send(operation.get_identity())

    def health(self) -> Health:
        """Return the gateway's health; needs no key."""
        return self._send(operation.health())
