"""Every request of the API as a value: what to send, and how to read the answer. Nothing here does I/O."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote

from atelier_client._decode import decode
from atelier_client.errors import BadReply
from atelier_client.models import (
    Asset,
    ChangeResult,
    Collection,
    Described,
    Erased,
    Health,
    Identity,
    Item,
    ItemCounts,
    Job,
    Key,
    Lora,
    Model,
    NewKey,
    Page,
    ReferenceImage,
    SaveResult,
    SignInCode,
    Submitted,
    SweepFinding,
    WebhookDelivery,
    WebhookSecret,
    Worker,
)

T = TypeVar("T")
Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request.

    Attributes:
        repeatable: whether a repeat after a broken connection does no harm.
        accept: HTTP statuses other than 2xx that carry an answer and not an error.
    """

    method: str
    path: str
    read: Callable[[Body], T]
    params: Mapping[str, str | int | Sequence[str]] = field(default_factory=dict)
    json: Body | None = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    accept: frozenset[int] = frozenset()


def one(cls: type[T], name: str) -> Callable[[Body], T]:
    """Read `{"job": {...}}`."""

    def read(body: Body) -> T:
        if name not in body:
            raise BadReply(f"The reply has no {name!r}.")
        return decode(cls, body[name])

    return read


def _page(cls: type[T], name: str) -> Callable[[Body], Page[T]]:
    """Read `{"jobs": [...], "next_page_token": ""}`."""

    def read(body: Body) -> Page[T]:
        entries = tuple(decode(cls, entry) for entry in body.get(name) or ())
        return Page(entries, body.get("next_page_token") or "", body.get("empty_state") or "", raw=body)

    return read


def _path(template: str, *parts: str) -> str:
    """Fill `{}` with percent-encoded parts. Raises ValueError for an empty one, which would be another route."""
    if not all(parts):
        raise ValueError(f"an empty id cannot be put into {template}")
    return template.format(*(quote(part, safe="") for part in parts))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != ""}


def reference_body(reference: ReferenceImage) -> dict[str, Any]:
    """Return a reference as the API takes it."""
    return _given(asset_id=reference.asset_id, kind=reference.kind, strength=reference.strength)


class GenerateOptions(TypedDict, total=False):
    """What a request to generate may say beside prompt and model; what is left out takes the server's default.

    Attributes:
        format: `image` or `video`; required unless `enhancement_only`.
        quantity: how many outputs.
        seed: the seed of the first output; the output at index i uses seed + i.
        quality: `draft`, `standard` or `high`.
        aspect_ratio: width to height, such as `16:9`.
        width: of the outputs in pixels, in place of `aspect_ratio`; together with `height`.
        height: of the outputs in pixels.
        annotations: what the caller wants to find again on the job.
        duration_seconds: length of a video.
        frame_rate: frames a second of a video.
        guidance: how closely the engine follows the prompt.
        scheduler: how the engine takes the noise away, such as `euler`.
        loras: what to add to the model's weights.
        on_enhancement_failure: `fail` or `warn`.
        idempotency_key: a name for this very request; one is made when it is left out.
    """

    format: str
    quantity: int | None
    seed: int | None
    negative_prompt: str
    quality: str
    aspect_ratio: str
    width: int | None
    height: int | None
    annotations: Mapping[str, str]
    steps: int | None
    duration_seconds: float | None
    frame_rate: int | None
    guidance: float | None
    scheduler: str
    loras: Sequence[Lora]
    reference_images: Sequence[ReferenceImage]
    enhance_prompt: bool
    enhancement_only: bool
    on_enhancement_failure: str
    priority: int | None
    idempotency_key: str


class ChatOptions(TypedDict, total=False):
    """How a conversation goes on; what is left out is the model's own.

    Attributes:
        max_tokens: the most tokens to write.
        temperature: how freely the next token is drawn.
        top_p: the share of likeliest tokens that are drawn among.
        stop: texts before any of which the reply ends.
    """

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: Sequence[str]


def chat(messages: Sequence[Mapping[str, str]], model: str, seed: int | None, options: ChatOptions) -> Call[Submitted]:
    """`POST /v1/generate-content` with a conversation. A key is made here, so that repeats give one job."""
    body = {"messages": [dict(message) for message in messages], **_given(**options)}
    return Call(
        "POST",
        "/v1/generate-content",
        lambda reply: decode(Submitted, reply),
        json={"model": model, "chat": body} | _given(seed=seed),
        headers={"idempotency-key": uuid.uuid4().hex},
    )


def generate_content(prompt: str, model: str, options: GenerateOptions) -> Call[Submitted]:
    """`POST /v1/generate-content`. Without an idempotency key one is made here, so that repeats give one job."""
    given = _given(**options)
    key = given.pop("idempotency_key", None) or uuid.uuid4().hex
    references = [reference_body(reference) for reference in given.pop("reference_images", ())]
    if references:
        given["reference_images"] = references
    loras = [_given(name=lora.name, weight=lora.weight) for lora in given.pop("loras", ())]
    if loras:
        given["loras"] = loras
    return Call(
        "POST",
        "/v1/generate-content",
        lambda reply: decode(Submitted, reply),
        json={"prompt": prompt, "model": model} | given,
        headers={"idempotency-key": key},
    )


def get_job(job_id: str) -> Call[Job]:
    """`GET /v1/jobs/{job_id}`."""
    return Call("GET", _path("/v1/jobs/{}", job_id), one(Job, "job"))


def list_jobs(state: str, page_size: int | None, page_token: str) -> Call[Page[Job]]:
    """`GET /v1/jobs`."""
    params = _given(state=state, page_size=page_size, page_token=page_token)
    return Call("GET", "/v1/jobs", _page(Job, "jobs"), params=params)


def cancel_job(job_id: str) -> Call[Job]:
    """`POST /v1/jobs/{job_id}/cancel`."""
    return Call("POST", _path("/v1/jobs/{}/cancel", job_id), one(Job, "job"), json={})


def watch_job(job_id: str, after: str) -> Call[None]:
    """`GET /v1/jobs/{job_id}/events`, a stream."""
    headers = {"accept": "text/event-stream", "cache-control": "no-store"}
    if after:
        headers["last-event-id"] = after
    return Call("GET", _path("/v1/jobs/{}/events", job_id), lambda body: None, headers=headers)


def list_assets(job_id: str, page_size: int | None, page_token: str) -> Call[Page[Asset]]:
    """`GET /v1/assets`."""
    params = _given(job_id=job_id, page_size=page_size, page_token=page_token)
    return Call("GET", "/v1/assets", _page(Asset, "assets"), params=params)


def get_asset(asset_id: str) -> Call[Asset]:
    """`GET /v1/assets/{asset_id}`."""
    return Call("GET", _path("/v1/assets/{}", asset_id), one(Asset, "asset"))


def discard_asset(asset_id: str) -> Call[Asset]:
    """`DELETE /v1/assets/{asset_id}`."""
    return Call("DELETE", _path("/v1/assets/{}", asset_id), one(Asset, "asset"))


def create_upload(data: bytes, filename: str, sha256: str, import_key: str = "") -> Call[Asset]:
    """`POST /v1/uploads`: the body is the file itself. A repeat would make a second asset, unless it has a key."""
    return Call(
        "POST",
        "/v1/uploads",
        one(Asset, "asset"),
        params=_given(filename=filename, size_bytes=len(data), sha256=sha256, import_key=import_key),
        content=data,
        headers={"content-type": "application/octet-stream"},
        repeatable=bool(import_key),
    )


class ImportDescription(TypedDict, total=False):
    """How a file was made that is brought in from another system; what is not known is left out.

    Attributes:
        seed: a whole number of any size, as text.
        tool: what said it, such as `automatic1111`.
        path: where the file was, relative to its gallery.
        made_at: when the file was made.
    """

    prompt: str
    negative_prompt: str
    enhanced_prompt: str
    model: str
    seed: str
    width: int | None
    height: int | None
    steps: int | None
    sampler: str
    guidance: float | None
    tool: str
    path: str
    made_at: datetime | None


def describe_import(import_key: str, description: ImportDescription) -> Call[Described]:
    """`POST /v1/imports`."""
    given = _given(**description)
    made_at = given.get("made_at")
    if isinstance(made_at, datetime):
        given["made_at"] = made_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    body = {"import_key": import_key} | given
    return Call("POST", "/v1/imports", lambda reply: decode(Described, reply), json=body)


def save_to_library(asset_ids: Iterable[str]) -> Call[tuple[SaveResult, ...]]:
    """`POST /v1/save-to-library`."""

    def read(body: Body) -> tuple[SaveResult, ...]:
        return tuple(decode(SaveResult, entry) for entry in body.get("results") or ())

    return Call("POST", "/v1/save-to-library", read, json={"asset_ids": list(asset_ids)})


def clear_assets(asset_ids: Iterable[str]) -> Call[tuple[SaveResult, ...]]:
    """`POST /v1/clear-assets`."""
    return Call("POST", "/v1/clear-assets", _cleared, json={"asset_ids": list(asset_ids)})


def clear_job(job_id: str) -> Call[tuple[SaveResult, ...]]:
    """`POST /v1/jobs/{job_id}/clear`."""
    return Call("POST", _path("/v1/jobs/{}/clear", job_id), _cleared, json={})


def _cleared(body: Body) -> tuple[SaveResult, ...]:
    return tuple(decode(SaveResult, entry) for entry in body.get("results") or ())


def clear_workspace(page_token: str) -> Call[Page[SaveResult]]:
    """`POST /v1/clear-workspace`: one page."""
    return Call("POST", "/v1/clear-workspace", _page(SaveResult, "results"), json=_given(page_token=page_token))


def sweep(part: str, dry_run: bool, page_token: str) -> Call[Page[SweepFinding]]:
    """`POST /v1/sweep/{part}`: one page; `part` is `workspace` or `library`."""
    body = {"dry_run": dry_run} | _given(page_token=page_token)
    return Call("POST", _path("/v1/sweep/{}", part), _page(SweepFinding, "findings"), json=body)


def erase_owner(part: str, owner_id: str, tenant_id: str) -> Call[Erased]:
    """`POST /v1/erase-owner/{part}`; `part` is `jobs`, `workspace` or `library`."""
    body = _given(owner_id=owner_id, tenant_id=tenant_id)
    return Call("POST", _path("/v1/erase-owner/{}", part), lambda reply: decode(Erased, reply), json=body)


class ItemFilters(TypedDict, total=False):
    """What narrows a list of items; what is left out does not.

    Attributes:
        format: `image` or `video`.
        query: words of prompts, titles and tags; the last may be the beginning of one.
        model: the model's name, as the item's settings have it.
        seed: the very seed.
        tags: all of these.
        collection_id: in this collection.
        favourites: only favourites.
        created_from_at: saved then or later; with a time zone.
        created_until_at: saved before; with a time zone.
        trashed: what is in the trash, instead of what is not.
    """

    format: str
    query: str
    model: str
    seed: int | None
    tags: Sequence[str]
    collection_id: str
    favourites: bool
    created_from_at: datetime | None
    created_until_at: datetime | None
    trashed: bool


def _filters(filters: ItemFilters) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, value in filters.items():
        match value:
            case datetime():
                params[name] = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
            case bool():
                params |= {name: "true"} if value else {}
            case None | "" | () | []:
                continue
            case _:
                params[name] = value
    return params


def archived(item_ids: Sequence[str], filters: ItemFilters) -> dict[str, Any]:
    """Return what `POST /v1/items.zip` is asked: some items, or those that filters leave, or both."""
    # In a body a truth value is one; in an address it is a word.
    truths = {name: value for name, value in filters.items() if value is True}
    asked = _filters(filters) | truths | {"item_ids": list(item_ids)}
    return {name: value for name, value in asked.items() if value != []}


def list_items(filters: ItemFilters, sort: str, page_size: int | None, page_token: str) -> Call[Page[Item]]:
    """`GET /v1/items`."""
    params = _filters(filters) | _given(sort=sort, page_size=page_size, page_token=page_token)
    return Call("GET", "/v1/items", _page(Item, "items"), params=params)


def count_items(filters: ItemFilters) -> Call[ItemCounts]:
    """`GET /v1/item-counts`."""
    return Call("GET", "/v1/item-counts", lambda body: decode(ItemCounts, body), params=_filters(filters))


class ItemChanges(TypedDict, total=False):
    """What is done to many items; what is left out stays as it is.

    Attributes:
        move: `trash`, `restore` or `delete` (for good).
        add_tags: tags that they get.
        remove_tags: tags that they lose.
        is_favourite: whether they are favourites.
        add_to_collection_id: the collection that they are put into.
        remove_from_collection_id: the collection that they are taken out of.
    """

    move: str
    add_tags: Sequence[str]
    remove_tags: Sequence[str]
    is_favourite: bool
    add_to_collection_id: str
    remove_from_collection_id: str


def change_items(item_ids: Iterable[str], changes: ItemChanges) -> Call[tuple[ChangeResult, ...]]:
    """`POST /v1/change-items`."""

    def read(body: Body) -> tuple[ChangeResult, ...]:
        return tuple(decode(ChangeResult, entry) for entry in body.get("results") or ())

    lists = {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in changes.items()}
    return Call("POST", "/v1/change-items", read, json={"item_ids": list(item_ids)} | lists)


def get_recipe(item_id: str, as_enhanced: bool) -> Call[dict[str, Any]]:
    """`GET /v1/items/{item_id}/recipe`."""
    params = {"as_enhanced": "true"} if as_enhanced else {}
    path = _path("/v1/items/{}/recipe", item_id)
    return Call("GET", path, lambda body: dict(body.get("request") or {}), params=params)


def create_collection(name: str) -> Call[Collection]:
    """`POST /v1/collections`."""
    return Call("POST", "/v1/collections", one(Collection, "collection"), json={"name": name})


def list_collections() -> Call[Page[Collection]]:
    """`GET /v1/collections`."""
    return Call("GET", "/v1/collections", _page(Collection, "collections"))


def rename_collection(collection_id: str, name: str) -> Call[Collection]:
    """`PATCH /v1/collections/{collection_id}`."""
    path = _path("/v1/collections/{}", collection_id)
    return Call("PATCH", path, one(Collection, "collection"), json={"name": name})


def delete_collection(collection_id: str) -> Call[None]:
    """`DELETE /v1/collections/{collection_id}`."""
    return Call("DELETE", _path("/v1/collections/{}", collection_id), lambda body: None)


def get_item(item_id: str) -> Call[Item]:
    """`GET /v1/items/{item_id}`."""
    return Call("GET", _path("/v1/items/{}", item_id), one(Item, "item"))


def update_item(
    item_id: str, title: str | None, notes: str | None, is_favourite: bool | None, tags: Iterable[str] | None
) -> Call[Item]:
    """`PATCH /v1/items/{item_id}`; what is None stays as it is."""
    said = {"title": title, "notes": notes, "is_favourite": is_favourite}
    body: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if tags is not None:
        body["tags"] = {"tags": list(tags)}
    return Call("PATCH", _path("/v1/items/{}", item_id), one(Item, "item"), json=body)


def delete_item(item_id: str, permanently: bool) -> Call[None]:
    """`DELETE /v1/items/{item_id}`."""
    params = {"permanently": "true"} if permanently else {}
    return Call("DELETE", _path("/v1/items/{}", item_id), lambda body: None, params=params)


def list_models() -> Call[Page[Model]]:
    """`GET /v1/models`."""
    return Call("GET", "/v1/models", _page(Model, "models"))


def list_workers() -> Call[Page[Worker]]:
    """`GET /v1/workers`."""
    return Call("GET", "/v1/workers", _page(Worker, "workers"))


def put_model(model: Model) -> Call[Model]:
    """`PUT /v1/models/{model.name}`; zeros are left to the server's defaults."""
    body = _given(
        stage=model.stage,
        worker_type=model.worker_type,
        max_quantity=model.max_quantity or None,
        base_size=model.base_size or None,
        default_steps=model.default_steps or None,
        default_frame_rate=model.default_frame_rate or None,
        deadline_seconds=model.deadline_seconds or None,
        position=model.position or None,
    )
    if model.aliases:
        body["aliases"] = list(model.aliases)
    if model.formats:
        body["formats"] = list(model.formats)
    return Call("PUT", _path("/v1/models/{}", model.name), one(Model, "model"), json=body)


def delete_model(name: str) -> Call[None]:
    """`DELETE /v1/models/{name}`."""
    return Call("DELETE", _path("/v1/models/{}", name), lambda body: None)


def create_key(
    owner_id: str, kind: str, tenant_id: str, name: str, valid_days: int | None, worker_types: Sequence[str]
) -> Call[NewKey]:
    """`POST /v1/keys`. A repeat would make a second key."""
    types = list(worker_types) or None
    body = _given(
        owner_id=owner_id, kind=kind, tenant_id=tenant_id, name=name, valid_days=valid_days, worker_types=types
    )
    return Call("POST", "/v1/keys", lambda reply: decode(NewKey, reply), json=body, repeatable=False)


def list_keys(owner_id: str, page_size: int | None, page_token: str) -> Call[Page[Key]]:
    """`GET /v1/keys`."""
    params = _given(owner_id=owner_id, page_size=page_size, page_token=page_token)
    return Call("GET", "/v1/keys", _page(Key, "keys"), params=params)


def revoke_key(key_id: str) -> Call[Key]:
    """`DELETE /v1/keys/{key_id}`."""
    return Call("DELETE", _path("/v1/keys/{}", key_id), one(Key, "key"))


def create_sign_in_code() -> Call[SignInCode]:
    """`POST /v1/sign-in-codes`."""
    return Call("POST", "/v1/sign-in-codes", lambda reply: decode(SignInCode, reply), json={})


def list_webhook_deliveries(
    job_id: str, state: str, page_size: int | None, page_token: str
) -> Call[Page[WebhookDelivery]]:
    """`GET /v1/webhooks/deliveries`."""
    params = _given(job_id=job_id, state=state, page_size=page_size, page_token=page_token)
    return Call("GET", "/v1/webhooks/deliveries", _page(WebhookDelivery, "deliveries"), params=params)


def redeliver_webhook(delivery_id: str) -> Call[WebhookDelivery]:
    """`POST /v1/webhooks/deliveries/{delivery_id}/redeliver`."""
    path = _path("/v1/webhooks/deliveries/{}/redeliver", delivery_id)
    return Call("POST", path, one(WebhookDelivery, "delivery"), json={})


def get_webhook_secret() -> Call[WebhookSecret]:
    """`GET /v1/webhooks/secret`."""
    return Call("GET", "/v1/webhooks/secret", lambda reply: decode(WebhookSecret, reply))


def rotate_webhook_secret() -> Call[WebhookSecret]:
    """`POST /v1/webhooks/secret/rotate`. Each call makes a new one."""
    path = "/v1/webhooks/secret/rotate"
    return Call("POST", path, lambda reply: decode(WebhookSecret, reply), json={}, repeatable=False)


def get_identity() -> Call[Identity]:
    """`GET /v1/identity`."""
    return Call("GET", "/v1/identity", lambda reply: decode(Identity, reply))


def health() -> Call[Health]:
    """`GET /v1/health`; 503 is an answer, too."""
    return Call("GET", "/v1/health", lambda reply: decode(Health, reply), accept=frozenset({503}))
