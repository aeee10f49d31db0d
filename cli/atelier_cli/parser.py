"""The commands and their options. It imports nothing that a command needs, so that `atelier --help` is quick."""

from __future__ import annotations

import argparse

from atelier_cli.tree import EXITS, Parser, Tree, common_options
from service_kit.version import __version__

FORMATS = ("image", "video")
QUALITIES = ("draft", "standard", "high")
ASPECTS = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3")
REFERENCE_KINDS = ("style", "composition", "init", "mask", "first_frame", "last_frame")
SORTS = ("newest", "oldest", "title")
WEBHOOK_EVENTS = ("started", "output", "completed")
WEBHOOK_DIALECTS = ("native", "openai", "fal", "replicate")
DELIVERY_STATES = ("pending", "delivered", "given_up")
KEY_KINDS = ("user", "worker", "admin", "internal")
JOB_STATES = ("queued", "running", "publishing", "succeeded", "failed", "cancelled")
SERVICES = ("router", "asset", "library", "gateway")
SHELLS = ("bash", "zsh", "fish")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="atelier",
        description="Atelier: images, video and richer prompts from your own machines.",
        parents=[common_options()],
        epilog=EXITS,
    )
    parser.add_argument("--version", action="version", version=f"atelier {__version__}")
    tree = Tree(parser.add_subparsers(metavar="COMMAND"))
    _add_start(tree)
    _add_generate(tree)
    _add_enhance(tree)
    _add_again(tree)
    _add_jobs(tree.group("jobs", "what was asked for, and how far it is"))
    _add_workspace(tree.group("workspace", "what jobs made, until it expires"))
    _add_library(tree.group("library", "what was saved for good"))
    _add_keys(tree.group("keys", "API keys: who may do what"))
    _add_webhooks(tree.group("webhooks", "what was posted, and what it is signed with"))
    _add_models(tree.group("models", "the routing table: models and the workers that run them"))
    _add_comfy(tree.group("comfy", "workflows of a ComfyUI as templates that a worker runs"))
    _add_moving(tree)
    _add_care(tree)
    return parser


def _add_start(tree: Tree) -> None:
    up = tree.leaf("up", "up:up", "start everything on this machine and keep it running")
    up.add_argument("--no-worker", action="store_true", help="start no worker")
    _insecure(up)
    serve = tree.leaf("serve", "serve:serve", "start one service alone")
    serve.add_argument("service", choices=SERVICES, help="which one")
    _insecure(serve)
    worker = tree.leaf("worker", "serve:worker", "run a worker that takes work from a router")
    worker.add_argument("--connect", metavar="HOST:PORT", help="the router")
    # --key-file is an option of every command; here it holds the worker's key.
    worker.add_argument(
        "--engine",
        metavar="NAME",
        help="the engine that does the work: one of those installed, or module:Class of your own",
    )
    worker.add_argument("--types", metavar="TYPE,…", help="the worker types to serve (else all that the engine serves)")
    worker.add_argument("--slots", metavar="N", help="how many stages to run at once")
    worker.add_argument("--name", metavar="NAME", help="a name for people")
    below = Tree(worker.add_subparsers(metavar="COMMAND"))
    init = below.leaf("init", "worker_init:init", "write a worker.toml from the GPUs, models and servers here")
    init.add_argument("--write", nargs="?", const="worker.toml", metavar="FILE", help="write it (default: print it)")
    init.add_argument("--force", action="store_true", help="write over a file that is there")
    init.add_argument("--models", action="append", default=[], metavar="FOLDER", help="a folder to look for models in")
    init.add_argument("--connect", metavar="HOST:PORT", help="the router")


def _insecure(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--insecure", action="store_true", help="listen beyond this machine without TLS: keys can be read on the way"
    )


def _add_generate(tree: Tree) -> None:
    command = tree.leaf("generate", "generate:generate", "make images or a video from a prompt")
    command.add_argument("prompt", metavar="PROMPT", help="what to make, in words")
    what = command.add_argument_group("what to make")
    what.add_argument("--model", default="sdxl", metavar="MODEL", help="the model (default: %(default)s)")
    what.add_argument("--format", default="image", choices=FORMATS, help="what to make (default: %(default)s)")
    what.add_argument("--quantity", type=int, metavar="N", help="how many (default: 1)")
    what.add_argument("--seed", type=int, metavar="N", help="the first seed; the others follow it (default: random)")
    what.add_argument("--negative", metavar="TEXT", help="what should not be in it")
    what.add_argument("--quality", choices=QUALITIES, help="how much work goes into each (default: standard)")
    what.add_argument("--aspect", choices=ASPECTS, help="width to height (default: 1:1, for a video 16:9)")
    what.add_argument("--steps", type=int, metavar="N", help="steps of the engine (default: the model's own)")
    what.add_argument("--guidance", type=float, metavar="N", help="how closely to follow the prompt, 0 to 30")
    what.add_argument("--scheduler", metavar="NAME", help="how to take the noise away, such as euler")
    what.add_argument(
        "--lora", action="append", default=[], metavar="NAME[:WEIGHT]", help="add to the model's weights (weight: 1)"
    )
    what.add_argument("--duration", type=float, metavar="SECONDS", help="length of a video (default: 3)")
    what.add_argument("--frame-rate", type=int, metavar="N", help="frames a second of a video, 1 to 60")
    what.add_argument("--enhance", action="store_true", help="write a richer prompt first, and use that")
    what.add_argument("--priority", type=int, metavar="N", help="order among your own waiting jobs, higher first")
    start = command.add_argument_group("pictures to start from (uploaded first)")
    kinds = ", ".join(REFERENCE_KINDS)
    start.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="FILE[:KIND[:STRENGTH]]",
        help=f"a picture; KIND is {kinds} (default: style)",
    )
    start.add_argument("--init", metavar="FILE", help="the picture to begin with")
    start.add_argument("--mask", metavar="FILE", help="white where the picture of --init may change")
    start.add_argument("--first-frame", metavar="FILE", help="the first frame of a video")
    start.add_argument("--last-frame", metavar="FILE", help="its last frame, together with --first-frame")
    told = command.add_argument_group("whom to tell")
    told.add_argument(
        "--webhook", metavar="URL", help="where to post when the job has ended, signed (atelier webhooks)"
    )
    told.add_argument(
        "--webhook-event", action="append", default=[], choices=WEBHOOK_EVENTS, help="tell of this (default: completed)"
    )
    told.add_argument("--webhook-dialect", default="", choices=WEBHOOK_DIALECTS, help="its body (default: native)")
    after = command.add_argument_group("what to do with the result")
    after.add_argument("--save", action="store_true", help="save it to the library")
    after.add_argument("--out", metavar="FOLDER", help="download it into this folder")
    after.add_argument("--no-wait", action="store_true", help="hand in the job and print its id")
    after.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="how long to wait (default: until the job's deadline)"
    )


def _add_enhance(tree: Tree) -> None:
    command = tree.leaf("enhance", "generate:enhance", "write a richer prompt, and print it as it is written")
    command.add_argument("prompt", metavar="PROMPT", help="what to start from")
    command.add_argument(
        "--model", default="sdxl", metavar="MODEL", help="the model it is meant for (default: %(default)s)"
    )
    command.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="how long to wait (default: until the job's deadline)"
    )


def _add_again(tree: Tree) -> None:
    command = tree.leaf(
        "again", "again:again", "print the request that makes an item or a file of Atelier again, or hand it in"
    )
    command.add_argument("thing", metavar="ITEM|FILE", help="an item of the library, or a picture or video on disk")
    command.add_argument("--as-enhanced", action="store_true", help="with the prompt as it was enhanced")
    command.add_argument("--submit", action="store_true", help="hand it in, and print the job's id")


def _paging(command: argparse.ArgumentParser, default: str = "50") -> None:
    command.add_argument(
        "--limit", type=int, dest="page_size", metavar="N", help=f"how many at most (default: {default})"
    )
    command.add_argument("--page-token", default="", metavar="TOKEN", help="next_page_token of the page before")


def _add_jobs(tree: Tree) -> None:
    listing = tree.leaf("list", "jobs:list_jobs", "list jobs, newest first")
    listing.add_argument("--state", default="", choices=JOB_STATES, help="only jobs in this state")
    _paging(listing)
    tree.leaf("show", "jobs:show", "show one job").add_argument("job_id", metavar="JOB")
    watch = tree.leaf("watch", "jobs:watch", "follow a job until it ends")
    watch.add_argument("job_id", metavar="JOB")
    watch.add_argument("--after", default="", metavar="CURSOR", help="go on after this cursor")
    watch.add_argument("--timeout", type=float, metavar="SECONDS", help="how long to follow (default: until it ends)")
    tree.leaf("cancel", "jobs:cancel", "stop a job").add_argument("job_id", metavar="JOB")


def _out(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", default=".", metavar="FOLDER", help="where to put the files (default: here)")


def _add_workspace(tree: Tree) -> None:
    listing = tree.leaf("list", "workspace:list_assets", "list assets, newest first")
    listing.add_argument("--job", default="", dest="job_id", metavar="JOB", help="only those of this job")
    _paging(listing)
    tree.leaf("show", "workspace:show", "show one asset").add_argument("asset_id", metavar="ASSET")
    tree.leaf("open", "workspace:open_asset", "open an asset in the browser").add_argument("asset_id", metavar="ASSET")
    download = tree.leaf("download", "workspace:download", "download assets")
    download.add_argument("asset_ids", nargs="+", metavar="ASSET")
    _out(download)
    discard = tree.leaf("discard", "workspace:discard", "remove assets; saved items stay")
    discard.add_argument("asset_ids", nargs="+", metavar="ASSET")
    clear = tree.leaf("clear", "workspace:clear", "save what is not saved, and remove it from the workspace")
    clear.add_argument("asset_ids", nargs="*", metavar="ASSET", help="these assets (else --job or --all)")
    clear.add_argument("--job", default="", dest="job_id", metavar="JOB", help="all assets of this job")
    clear.add_argument("--all", action="store_true", help="the whole workspace")
    upload = tree.leaf("upload", "workspace:upload", "bring in pictures, to be used as references")
    upload.add_argument("files", nargs="+", metavar="FILE")


def _add_library(tree: Tree) -> None:
    listing = tree.leaf("list", "library:list_items", "list items, newest first")
    listing.add_argument("--format", default="", choices=FORMATS, help="only this format")
    _paging(listing)
    tree.leaf("show", "library:show", "show one item").add_argument("item_id", metavar="ITEM")
    tree.leaf("open", "library:open_item", "open an item in the browser").add_argument("item_id", metavar="ITEM")
    tree.leaf("save", "library:save", "save assets for good").add_argument("asset_ids", nargs="+", metavar="ASSET")
    download = tree.leaf("download", "library:download", "download items")
    download.add_argument("item_ids", nargs="*", metavar="ITEM")
    _out(download)
    download.add_argument("--zip", metavar="FILE", help="as one archive, instead of files in a folder")
    download.add_argument("--query", default="", metavar="WORDS", help="with --zip: what these words find")
    download.add_argument("--collection", default="", metavar="ID", help="with --zip: what is in this collection")
    tree.leaf("delete", "library:delete", "delete items, for good").add_argument("item_ids", nargs="+", metavar="ITEM")
    _add_shelves(tree)


def _add_shelves(tree: Tree) -> None:
    search = tree.leaf("search", "shelves:search", "find items by words of their prompts, titles and tags")
    search.add_argument("words", nargs="*", metavar="WORD", help="all of these; the last may be the beginning of one")
    search.add_argument("--format", default="", choices=FORMATS, help="only this format")
    search.add_argument("--model", default="", metavar="MODEL", help="only this model")
    search.add_argument("--seed", type=int, metavar="N", help="only this seed")
    search.add_argument("--tag", action="append", default=[], dest="tags", metavar="TAG", help="only with this tag")
    search.add_argument("--collection", default="", metavar="COLLECTION", help="only in this collection")
    search.add_argument("--favourites", action="store_true", help="only favourites")
    search.add_argument("--trashed", action="store_true", help="in the trash, instead of outside")
    search.add_argument("--sort", default="newest", choices=SORTS, help="the order (default: %(default)s)")
    search.add_argument("--count", action="store_true", help="say only how many there are, and of what")
    _paging(search)
    tag = tree.leaf("tag", "shelves:tag", "give items tags, take them away, make favourites")
    tag.add_argument("item_ids", nargs="+", metavar="ITEM")
    tag.add_argument("--add", action="append", default=[], metavar="TAG", help="a tag that they get")
    tag.add_argument("--remove", action="append", default=[], metavar="TAG", help="a tag that they lose")
    tag.add_argument("--favourite", action=argparse.BooleanOptionalAction, help="whether they are favourites")
    trash = tree.leaf("trash", "shelves:trash", "put items into the trash, or list what is in it")
    trash.add_argument("item_ids", nargs="*", metavar="ITEM")
    restore = tree.leaf("restore", "shelves:restore", "take items out of the trash")
    restore.add_argument("item_ids", nargs="+", metavar="ITEM")
    collect = tree.leaf("collect", "shelves:collect", "put items into a collection, or take them out of one")
    collect.add_argument("item_ids", nargs="+", metavar="ITEM")
    collect.add_argument("--into", default="", metavar="COLLECTION", help="the collection that they are put into")
    collect.add_argument("--out-of", default="", metavar="COLLECTION", help="the collection that they are taken out of")
    heaps = tree.leaf("collections", "shelves:collections", "list collections; make, rename or delete one")
    what = heaps.add_mutually_exclusive_group()
    what.add_argument("--create", metavar="NAME", help="make one")
    what.add_argument("--rename", nargs=2, metavar=("COLLECTION", "NAME"), help="rename one")
    what.add_argument("--delete", metavar="COLLECTION", help="delete one; its items stay")


def _key_limits(command: argparse.ArgumentParser) -> None:
    for name, what in (
        ("requests-per-minute", "requests a minute it may make at each gateway"),
        ("queued-jobs", "jobs submitted with it that may wait"),
        ("running-jobs", "such jobs that may run"),
    ):
        command.add_argument(f"--{name}", type=int, metavar="N", help=f"{what}; 0: any number (default: the setting)")


def _add_keys(tree: Tree) -> None:
    create = tree.leaf("create", "keys:create", "make a key and print its text, this one time")
    create.add_argument("--owner", required=True, dest="owner_id", metavar="NAME", help="the owner it acts as")
    create.add_argument("--kind", default="user", choices=KEY_KINDS, help="what it is for (default: %(default)s)")
    create.add_argument("--tenant", default="", dest="tenant_id", metavar="NAME", help="the tenant (default: your own)")
    create.add_argument("--name", default="", metavar="TEXT", help="a name for people")
    create.add_argument(
        "--worker-type", action="append", default=[], metavar="TYPE", help="a worker type that its workers may serve"
    )
    create.add_argument("--valid-days", type=int, metavar="N", help="days until it stops working (default: never)")
    _key_limits(create)
    create.add_argument("--out", metavar="FILE", help="write the text into a new file that only you can read")
    listing = tree.leaf("list", "keys:list_keys", "list keys, newest first, without their texts")
    listing.add_argument("--owner", default="", dest="owner_id", metavar="NAME", help="only those of this owner")
    _paging(listing)
    limit = tree.leaf("limit", "keys:limit", "set what a key may do, in place of what was set before")
    limit.add_argument("key_id", metavar="KEY_ID")
    _key_limits(limit)
    tree.leaf("revoke", "keys:revoke", "revoke a key").add_argument("key_id", metavar="KEY_ID")


def _add_webhooks(tree: Tree) -> None:
    listing = tree.leaf("deliveries", "webhooks:deliveries", "list your deliveries, newest first")
    listing.add_argument("--job", default="", dest="job_id", metavar="JOB", help="only those of this job")
    listing.add_argument("--state", default="", choices=DELIVERY_STATES, help="only those in this state")
    _paging(listing)
    again = tree.leaf("redeliver", "webhooks:redeliver", "send a delivery again, at once")
    again.add_argument("delivery_id", metavar="DELIVERY")
    tree.leaf("secret", "webhooks:secret", "print the secret that your webhooks are signed with")
    tree.leaf("rotate-secret", "webhooks:rotate_secret", "make a new secret; for 24 hours the old one signs, too")


def _add_models(tree: Tree) -> None:
    tree.leaf("list", "models:list_models", "list the routing table with the connected workers")
    _paging(tree.leaf("workers", "models:list_workers", "list the connected workers with their labels"), "all")
    put = tree.leaf("put", "models:put", "add a row, or replace the row of that name", aliases=("add",))
    put.add_argument("name", metavar="NAME", help="the model; a name that ends in * matches what begins like it")
    put.add_argument("--worker-type", required=True, metavar="TYPE", help="the pool that does the work")
    put.add_argument(
        "--stage", default="generate", choices=("generate", "enhance", "chat"), help="(default: %(default)s)"
    )
    put.add_argument("--format", action="append", default=[], dest="formats", choices=FORMATS, help="what it makes")
    put.add_argument("--alias", action="append", default=[], dest="aliases", metavar="NAME", help="another name")
    put.add_argument("--max-quantity", type=int, default=0, metavar="N", help="the most outputs in one job")
    put.add_argument("--base-size", type=int, default=0, metavar="PIXELS", help="the longer side of a square output")
    put.add_argument(
        "--steps", type=int, default=0, dest="default_steps", metavar="N", help="steps at standard quality"
    )
    put.add_argument(
        "--frame-rate",
        type=int,
        default=0,
        dest="default_frame_rate",
        metavar="N",
        help="frames a second of its videos (default: 24)",
    )
    put.add_argument(
        "--deadline", type=int, default=0, dest="deadline_seconds", metavar="SECONDS", help="how long a job may take"
    )
    put.add_argument("--position", type=int, default=0, metavar="N", help="lower is tried first among patterns")
    tree.leaf("delete", "models:delete", "remove a row").add_argument("name", metavar="NAME")


def _add_comfy(tree: Tree) -> None:
    bring = tree.leaf("import", "comfy:import_workflow", "list the inputs of a workflow and write its template")
    bring.add_argument("file", metavar="WORKFLOW", help="the workflow in the API format (Workflow > Export (API))")
    bring.add_argument("--out", metavar="FILE", help="where to write the template (default: WORKFLOW.template.json)")
    bring.add_argument(
        "--input", action="append", default=[], metavar="NAME=NODE.FIELD,…", help="where an input goes; nothing: none"
    )
    bring.add_argument("--output", action="append", default=[], metavar="NODE", help="the node whose files are kept")
    bring.add_argument(
        "--ignore", action="append", default=[], metavar="NAME", help="jobs may ask for this input, which it lacks"
    )
    bring.add_argument("--batches", action="store_true", help="make all outputs of a job in one run")


def _add_moving(tree: Tree) -> None:
    bring = tree.leaf("import", "moving:import_gallery", "bring in a gallery of another tool, or of the old tables")
    bring.add_argument("path", metavar="PATH", help="a folder of images and videos, or of dumped tables, or one dump")
    bring.add_argument(
        "--to",
        default="library",
        choices=("library", "workspace"),
        help="where images and videos of a folder go (default: %(default)s); rows of tables go where they were",
    )
    bring.add_argument(
        "--files", default="", metavar="FOLDER", help="where the tables' files are (default: beside them)"
    )
    bring.add_argument("--user", default="", metavar="ID", help="take only the tables' rows of this user")
    bring.add_argument("--report", default="", metavar="FILE", help="where to write what was not taken, and why")
    bring.add_argument("--state", default="", metavar="FILE", help="where to remember what is done")
    keep = tree.leaf("backup", "backup:backup", "copy everything that this system keeps, also while it runs")
    keep.add_argument("dest", metavar="DEST", help="a folder of backups; what it has already is not copied again")
    keep.add_argument(
        "--keep", type=int, default=3, metavar="N", help="how many snapshots stay there (default: %(default)s)"
    )
    keep.add_argument(
        "--allow-missing", action="store_true", help="end well although blobs are missing that rows say are there"
    )
    back = tree.leaf("restore", "backup:restore", "put a backup in its place on an empty machine")
    back.add_argument(
        "source", metavar="SRC", help="a folder of backups, of which the newest is taken, or one snapshot"
    )


def _add_care(tree: Tree) -> None:
    config = tree.group("config", "what is set, and where")
    config.leaf("show", "care:config_show", "show every setting, its value (secrets masked) and where it comes from")
    migrate = tree.leaf("migrate", "care:migrate", "bring the databases of all services up to date")
    migrate.add_argument("--service", choices=("router", "asset", "library"), help="only that one (default: all)")
    sweep = tree.leaf("sweep", "sweep:sweep", "compare the buckets with the rows, and delete what nothing knows")
    sweep.add_argument("--dry-run", action="store_true", help="delete nothing, only tell")
    sweep.add_argument("--verify", action="store_true", help="read the bytes, too, and tell which are damaged; slow")
    sweep.add_argument("--bucket", choices=("workspace", "library"), help="only that one (default: both)")
    erase = tree.leaf("erase", "sweep:erase", "remove an owner from every service, for good")
    erase.add_argument("--owner", required=True, dest="owner_id", metavar="NAME", help="whom")
    erase.add_argument("--tenant", default="", dest="tenant_id", metavar="NAME", help="the tenant (default: your own)")
    erase.add_argument("--yes", action="store_true", help="do not ask")
    tree.leaf("doctor", "doctor:doctor", "check this machine and the running system, and say what to do")
    completion = tree.leaf("completion", "care:completion", "print a completion script for a shell")
    completion.add_argument("shell", choices=SHELLS, help="which shell")
