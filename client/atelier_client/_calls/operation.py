"""The requests of operators: models, workers, keys, webhooks, health."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from atelier_client._calls.call import Call, one, only_given, page_of, path_of
from atelier_client._decode import decode
from atelier_client.models import (
    Health,
    Identity,
    Key,
    Model,
    NewKey,
    Page,
    SignInCode,
    WebhookDelivery,
    WebhookSecret,
    Worker,
)


def list_models() -> Call[Page[Model]]:
    """`GET /v1/models`."""
    return Call("GET", "/v1/models", page_of(Model, "models"))


def list_workers(page_size: int | None, page_token: str) -> Call[Page[Worker]]:
    """`GET /v1/workers`."""
    params = only_given(page_size=page_size, page_token=page_token)
    return Call("GET", "/v1/workers", page_of(Worker, "workers"), params=params)


def put_model(model: Model) -> Call[Model]:
    """`PUT /v1/models/{model.name}`; zeros are left to the server's defaults."""
    body = only_given(
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
    return Call("PUT", path_of("/v1/models/{}", model.name), one(Model, "model"), json=body)


def delete_model(name: str) -> Call[None]:
    """`DELETE /v1/models/{name}`."""
    return Call("DELETE", path_of("/v1/models/{}", name), lambda body: None)


class KeyLimits(TypedDict, total=False):
    """What a key may do; what is left out is as the settings of the services say, and 0 is any number.

    Attributes:
        requests_per_minute: requests, at each gateway.
        queued_jobs: jobs submitted with it that may wait.
        running_jobs: such jobs that may run.
    """

    requests_per_minute: int | None
    queued_jobs: int | None
    running_jobs: int | None


def create_key(
    owner_id: str,
    kind: str,
    tenant_id: str,
    name: str,
    valid_days: int | None,
    worker_types: Sequence[str],
    limits: KeyLimits,
) -> Call[NewKey]:
    """`POST /v1/keys`. A repeat would make a second key."""
    types = list(worker_types) or None
    body = only_given(
        owner_id=owner_id,
        kind=kind,
        tenant_id=tenant_id,
        name=name,
        valid_days=valid_days,
        worker_types=types,
        **limits,
    )
    return Call("POST", "/v1/keys", lambda reply: decode(NewKey, reply), json=body, repeatable=False)


def list_keys(owner_id: str, page_size: int | None, page_token: str) -> Call[Page[Key]]:
    """`GET /v1/keys`."""
    params = only_given(owner_id=owner_id, page_size=page_size, page_token=page_token)
    return Call("GET", "/v1/keys", page_of(Key, "keys"), params=params)


def update_key(key_id: str, limits: KeyLimits) -> Call[Key]:
    """`PUT /v1/keys/{key_id}`."""
    return Call("PUT", path_of("/v1/keys/{}", key_id), one(Key, "key"), json=only_given(**limits))


def revoke_key(key_id: str) -> Call[Key]:
    """`DELETE /v1/keys/{key_id}`."""
    return Call("DELETE", path_of("/v1/keys/{}", key_id), one(Key, "key"))


def create_sign_in_code() -> Call[SignInCode]:
    """`POST /v1/sign-in-codes`."""
    return Call("POST", "/v1/sign-in-codes", lambda reply: decode(SignInCode, reply), json={})


def list_webhook_deliveries(
    job_id: str, state: str, page_size: int | None, page_token: str
) -> Call[Page[WebhookDelivery]]:
    """`GET /v1/webhooks/deliveries`."""
    params = only_given(job_id=job_id, state=state, page_size=page_size, page_token=page_token)
    return Call("GET", "/v1/webhooks/deliveries", page_of(WebhookDelivery, "deliveries"), params=params)


def redeliver_webhook(delivery_id: str) -> Call[WebhookDelivery]:
    """`POST /v1/webhooks/deliveries/{delivery_id}/redeliver`."""
    path = path_of("/v1/webhooks/deliveries/{}/redeliver", delivery_id)
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
