"""The one table of settings: a dataclass per section, each field with its type, default and meaning."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from service_kit.secret import Secret

TypeName = Literal["str", "int", "float", "bool", "duration", "path", "list", "secret"]

_TYPE_NAMES: dict[str, TypeName] = {
    "str": "str",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "timedelta": "duration",
    "Path": "path",
    "tuple[str, ...]": "list",
    "Secret": "secret",
}


def type_name_of(entry: Field[Any]) -> TypeName:
    """Return what kind of value a setting takes."""
    return _TYPE_NAMES[str(entry.type)]


def default_of(entry: Field[Any]) -> Any:
    """Return the default of a setting."""
    if entry.default_factory is not MISSING:
        return entry.default_factory()
    return entry.default


def _is(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


_DATABASE_URL = "URL of this service's own database; empty for core.database_url."
_ADDRESS = " address as host:port; port 0 takes any free port."


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What every process shares."""

    data_dir: Path = field(
        default_factory=lambda: Path("~/.local/share/atelier").expanduser(),
        metadata={"doc": "Folder in which databases, blobs and keys are kept."},
    )
    database_url: Secret = _is(
        Secret(""),
        "The PostgreSQL database, postgresql://user:password@host:port/name, in which each service has its own schema; "
        "empty for SQLite files in the data folder.",
    )
    database_connections: int = _is(12, "How many connections a service opens to PostgreSQL at most.")
    public_url: str = _is(
        "http://127.0.0.1:7400", "The address under which clients reach the gateway; signed URLs start with it."
    )
    media_key_lifetime: timedelta = _is(
        timedelta(days=30),
        "How long a key signs media URLs before a new one does; URLs of the old one work on for as long again.",
    )
    log_level: str = _is("info", "What is logged: debug, info, warning or error.")
    log_format: str = _is("text", "How it is logged: text for people, json for machines.")
    reflection: bool = _is(False, "Whether gRPC servers answer the reflection protocol.")
    insecure: bool = _is(False, "Whether gRPC servers may listen beyond loopback, although they speak without TLS.")
    crash_point: str = _is("", "For tests: the durable step at which the process kills itself; empty for none.")


@dataclass(frozen=True, slots=True)
class BlobSettings:
    """Where bytes lie."""

    url: str = _is(
        "",
        "Where blobs are kept: a folder's path, or gs://PREFIX for the Google Cloud Storage buckets "
        "PREFIX-workspace-temp and PREFIX-user-library; empty for the folder blobs in the data folder.",
    )
    redirect: bool = _is(
        True,
        "Whether the gateway sends whoever asks for media on to an address that Google Cloud Storage serves; otherwise "
        "the bytes go through the gateway.",
    )
    signing_account: str = _is(
        "",
        "Whose key signs the addresses that Google Cloud Storage serves, where the credentials have none: a service "
        "account's e-mail address, or `default` for that of the credentials. Google is asked for each signature. "
        "Empty for the credentials' own key; without one the bytes go through the gateway.",
    )
    connections: int = _is(10, "How many requests to Google Cloud Storage a process makes at a time.")
    request_timeout: timedelta = _is(
        timedelta(seconds=30), "How long one request to Google Cloud Storage may take without an answer."
    )
    retry_timeout: timedelta = _is(
        timedelta(seconds=60), "How long a request to Google Cloud Storage that fails is repeated."
    )


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """The router: jobs, leases, workers, identities."""

    listen: str = _is("127.0.0.1:7401", "The router's gRPC" + _ADDRESS)
    database_url: Secret = _is(Secret(""), _DATABASE_URL)
    asset_target: str = _is("127.0.0.1:7402", "Where the router reaches the asset service, as host:port.")
    upload_endpoint: str = _is("", "Where workers upload outputs, as host:port; empty for asset_target.")
    lease_ttl: timedelta = _is(timedelta(seconds=30), "How long a lease lives without a heartbeat.")
    heartbeat_interval: timedelta = _is(timedelta(seconds=10), "How often workers send a heartbeat.")
    lease_ack_timeout: timedelta = _is(
        timedelta(seconds=5), "How long a worker may take to acknowledge a lease before it is given to another."
    )
    max_sessions_per_key: int = _is(
        1000, "How many sessions the workers of one key may have with one router at a time."
    )
    max_attempts: int = _is(3, "How often a stage is started before its job fails.")
    max_leases: int = _is(10, "How often a stage is leased, acknowledged or not, before its job fails.")
    most_running_per_owner: int = _is(
        0, "How many stages of one owner may run at once in one pool; 0 for as many as there are workers."
    )
    queued_jobs_per_owner: int = _is(
        0, "How many jobs of one owner may wait at once; 0 for any number. An operator may set another for an owner."
    )
    running_jobs_per_owner: int = _is(
        0,
        "How many jobs of one owner may run at once, in all pools; 0 for any number. An operator may set another for "
        "an owner.",
    )
    queued_jobs_per_key: int = _is(
        0,
        "How many jobs submitted with one key may wait at once; 0 for any number. An operator may set another for a "
        "key.",
    )
    running_jobs_per_key: int = _is(
        0,
        "How many jobs submitted with one key may run at once, in all pools; 0 for any number. An operator may set "
        "another for a key.",
    )
    owner_shares: tuple[str, ...] = _is(
        (),
        "What some owners are granted, as `TENANT/OWNER tier=1 weight=2 most_running=8`: higher tiers go first, and an "
        "owner of weight 2 has twice as much running as the others.",
    )
    raise_tier_after: timedelta = _is(
        timedelta(minutes=5), "How long a stage waits before it rises to the next tier that is granted to anybody."
    )
    retry_backoff: timedelta = _is(
        timedelta(seconds=1), "How long a stage waits before its second attempt; doubled for each further one."
    )
    retention_jobs: timedelta = _is(timedelta(days=30), "How long finished jobs and their texts are kept.")
    retention_events: timedelta = _is(timedelta(days=3), "How long events are kept for watchers that come back.")
    retention_deliveries: timedelta = _is(
        timedelta(days=30), "How long the log of webhooks that were delivered or given up is kept."
    )
    idempotency_retention: timedelta = _is(timedelta(days=7), "How long idempotency keys are remembered.")


@dataclass(frozen=True, slots=True)
class AssetSettings:
    """The asset service: uploads, the workspace, expiry."""

    listen: str = _is("127.0.0.1:7402", "The asset service's gRPC" + _ADDRESS)
    database_url: Secret = _is(Secret(""), _DATABASE_URL)
    asset_expiry: timedelta = _is(timedelta(days=7), "How long an asset stays in the workspace.")
    max_asset_age: timedelta = _is(
        timedelta(days=90), "How long an asset stays in the workspace at most, however often its owner prolongs it."
    )
    media_url_ttl: timedelta = _is(timedelta(hours=1), "How long a signed media URL works, less a twelfth at most.")
    max_upload_bytes: int = _is(64 << 20, "The largest file that a client may upload, in bytes.")
    max_output_bytes: int = _is(1 << 30, "The largest output that a worker may upload, in bytes.")
    upload_ttl: timedelta = _is(
        timedelta(hours=1), "How long an upload that belongs to no job may take before it is removed."
    )
    fill_renditions: bool = _is(True, "Whether this process makes the thumbnails and clips that assets lack.")
    expiry_interval: timedelta = _is(
        timedelta(seconds=60), "How often expired assets and finished deletions are looked for."
    )
    sweep_interval: timedelta = _is(timedelta(days=1), "How often the bucket is compared with the rows.")
    retention_events: timedelta = _is(timedelta(days=3), "How long events are kept for watchers that come back.")
    retention_settlements: timedelta = _is(
        timedelta(days=30), "How long it is known how a job was settled. A lease token that lives longer is refused."
    )
    retention_tombstones: timedelta = _is(
        timedelta(days=30), "How long ids and times of a removed asset are kept, from when it would have expired."
    )
    retention_audit: timedelta = _is(timedelta(days=365), "How long the audit is kept.")


@dataclass(frozen=True, slots=True)
class LibrarySettings:
    """The library service: saving, items."""

    listen: str = _is("127.0.0.1:7403", "The library service's gRPC" + _ADDRESS)
    database_url: Secret = _is(Secret(""), _DATABASE_URL)
    asset_target: str = _is("127.0.0.1:7402", "Where the library reaches the asset service, as host:port.")
    identity_target: str = _is("127.0.0.1:7401", "Where the library exchanges its key, as host:port of the router.")
    hold_ttl: timedelta = _is(
        timedelta(minutes=2), "How long a hold on an asset lasts while it is copied, unless renewed."
    )
    media_url_ttl: timedelta = _is(timedelta(hours=1), "How long a signed media URL works, less a twelfth at most.")
    sweep_interval: timedelta = _is(timedelta(days=1), "How often the bucket is compared with the rows.")
    idempotency_retention: timedelta = _is(timedelta(days=7), "How long idempotency keys are remembered.")
    retention_events: timedelta = _is(timedelta(days=3), "How long events are kept for watchers that come back.")
    retention_trash: timedelta = _is(timedelta(days=30), "How long an item stays in the trash before it is deleted.")
    retention_tombstones: timedelta = _is(timedelta(days=30), "How long ids and times of a deleted item are kept.")
    retention_audit: timedelta = _is(timedelta(days=365), "How long the audit is kept.")


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The gateway: HTTP in, gRPC out."""

    listen: str = _is("127.0.0.1:7400", "The gateway's HTTP" + _ADDRESS)
    router_target: str = _is("127.0.0.1:7401", "Where the gateway reaches the router, as host:port.")
    asset_target: str = _is("127.0.0.1:7402", "Where the gateway reaches the asset service, as host:port.")
    library_target: str = _is("127.0.0.1:7403", "Where the gateway reaches the library service, as host:port.")
    insecure: bool = _is(False, "Whether the gateway may listen beyond loopback without TLS.")
    tls_cert: str = _is("", "PEM file with the certificate chain; with tls_key it switches TLS on.")
    tls_key: str = _is("", "PEM file with the certificate's private key.")
    max_body_bytes: int = _is(1 << 20, "The largest request body that is accepted, but for uploads, in bytes.")
    request_timeout: timedelta = _is(timedelta(seconds=30), "How long a request that is not a stream may take.")
    requests_per_minute_per_key: int = _is(
        0, "How many requests a minute one key may make at this gateway; 0 for any number. A key may have its own."
    )
    requests_per_minute_per_owner: int = _is(
        0,
        "How many requests a minute an owner may make at this gateway, with all keys together; 0 for any number. An "
        "owner may have its own.",
    )
    event_streams_per_owner: int = _is(
        5000, "How many event streams an owner may have open at this gateway; 0 for any number."
    )
    cors_origins: tuple[str, ...] = _is(
        (), "Origins of web pages that may call the gateway from a browser, such as https://shop.example; * for all."
    )


@dataclass(frozen=True, slots=True)
class OutgoingSettings:
    """Where webhooks are sent and files are fetched from, when clients name the address."""

    allow: tuple[str, ...] = _is(
        (),
        "What may be reached although it is not public, at any port and without TLS: networks as 10.1.0.0/16, hosts as "
        "hooks.internal or hooks.internal:8080.",
    )
    ports: tuple[str, ...] = _is(("80", "443"), "The ports that may be reached elsewhere.")
    plain_http: bool = _is(False, "Whether addresses elsewhere may begin with http: instead of https:.")
    tls_ca: str = _is("", "PEM file with certificate authorities to trust besides the well-known ones.")
    max_fetch_bytes: int = _is(32 << 20, "The largest file that is fetched from an address in a request, in bytes.")
    fetch_timeout: timedelta = _is(timedelta(seconds=30), "How long fetching a file may take, with all redirects.")
    fetches: int = _is(
        16, "How many files a gateway fetches at once, at most half for one owner; more are refused with limit_reached."
    )
    webhook_timeout: timedelta = _is(timedelta(seconds=10), "How long the receiver of a webhook may take to answer.")
    webhooks: int = _is(32, "How many webhooks a gateway sends at once, at most a quarter for one owner; 0 for none.")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """A worker."""

    connect: str = _is(
        "127.0.0.1:7401",
        "Where the worker reaches the router, as host:port; several, separated by commas, or a name with several "
        "addresses: when one fails, the next is tried.",
    )
    key: Secret = _is(Secret(""), "The worker's API key; empty for the key file in the data folder.")
    name: str = _is("", "The worker's name; empty for one made from the host, which its folder remembers.")
    engine: str = _is("sketch", "The engine that does the work, by its entry point.")
    worker_types: tuple[str, ...] = _is((), "Pools that the worker joins; empty for all that its engine serves.")
    models: tuple[str, ...] = _is((), "Models that the worker serves; empty for all that its engine serves.")
    slots: int = _is(4, "How many stages the worker runs at once; never more than its engine can.")
    labels: tuple[str, ...] = _is(
        (), "What an operator wants to know the worker by, as name=value; nothing is routed by it."
    )
    drain_grace: timedelta = _is(
        timedelta(seconds=10), "How long a worker that is told to stop works on before it hands back what it holds."
    )
    spool_dir: str = _is("", "Folder for running tasks and unanswered outcomes; empty for one in the data folder.")


@dataclass(frozen=True, slots=True)
class SketchSettings:
    """The sketch engine."""

    step_delay: timedelta = _is(
        timedelta(milliseconds=50), "How long the sketch engine pauses at each step, so that progress can be seen."
    )


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The command line and the Python client."""

    url: str = _is("", "The gateway that the command line talks to; empty for core.public_url.")
    key: Secret = _is(
        Secret(""), "The API key that the command line uses; empty for the admin key file in the data folder."
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All sections."""

    core: CoreSettings
    blobs: BlobSettings
    router: RouterSettings
    asset: AssetSettings
    library: LibrarySettings
    gateway: GatewaySettings
    outgoing: OutgoingSettings
    worker: WorkerSettings
    sketch: SketchSettings
    client: ClientSettings


SECTIONS: dict[str, type[Any]] = {
    "core": CoreSettings,
    "blobs": BlobSettings,
    "router": RouterSettings,
    "asset": AssetSettings,
    "library": LibrarySettings,
    "gateway": GatewaySettings,
    "outgoing": OutgoingSettings,
    "worker": WorkerSettings,
    "sketch": SketchSettings,
    "client": ClientSettings,
}
