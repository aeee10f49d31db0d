"""`atelier comfy`: ComfyUI workflows as templates that a worker runs."""

from __future__ import annotations

from pathlib import Path

from atelier_cli.comfy_graph import Found, find
from atelier_cli.context import Context
from atelier_cli.exits import OK, UsageError
from service_kit.comfy_template import (
    LIMIT_BYTES,
    Target,
    Template,
    TemplateError,
    Workflow,
    check_target,
    is_input,
    read_template,
    read_workflow,
    write_template,
)

# These have no default: a job always says them, or they are pictures.
_ALWAYS_SAID = ("prompt", "seed", "batch_size", "init", "mask", "style", "composition", "first_frame", "last_frame")


def import_workflow(context: Context) -> int:
    """Read a workflow, list what may be set in it, and write the template."""
    arguments = context.arguments
    try:
        workflow = read_workflow(_read(Path(arguments.file)))
        found = _with_wishes(find(workflow), arguments.input, arguments.output, workflow)
        template = _template(found, workflow, ignores=arguments.ignore, batches=arguments.batches)
    except TemplateError as error:
        raise UsageError(str(error)) from error
    _show(context, template, found)
    if found.choices:
        _refuse(found, workflow)
    target = Path(arguments.out or f"{Path(arguments.file).stem.removesuffix('_api')}.template.json")
    text = write_template(template)
    read_template(text)
    target.write_text(text, encoding="utf-8")
    context.note(f'{target} written. A worker runs it as: engine = "comfyui", template = "{target}"')
    return OK


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error


def _with_wishes(found: Found, inputs: list[str], outputs: list[str], workflow: Workflow) -> Found:
    """Put what was named on the command line in the place of what was found."""
    for wish in inputs:
        name, sign, places = wish.partition("=")
        if not sign or not is_input(name):
            raise TemplateError(
                f"--input takes NAME=NODE.FIELD with a known name, such as prompt=6.text; got {wish!r}."
            )
        found.choices.pop(name, None)
        found.inputs.pop(name, None)
        if places:
            found.inputs[name] = [Target.of(place) for place in places.split(",")]
            for target in found.inputs[name]:
                check_target(target, workflow)
    for node in outputs:
        if node not in workflow:
            raise TemplateError(f"--output names node {node!r}, which the workflow does not have.")
    if outputs:
        found.outputs = list(outputs)
    if not found.outputs:
        raise TemplateError("The workflow saves nothing: add a node that saves an image or a video, or name --output.")
    if len(found.outputs) > 1:
        named = ", ".join(f"{node} ({workflow[node]['class_type']})" for node in found.outputs)
        raise TemplateError(f"The workflow has several outputs: {named}. Name the one to deliver with --output.")
    return found


def _template(found: Found, workflow: Workflow, *, ignores: list[str], batches: bool) -> Template:
    for name in ignores:
        if not is_input(name):
            raise TemplateError(f"--ignore takes the name of an input, such as prompt; got {name!r}.")
    if batches and "batch_size" not in found.inputs:
        raise TemplateError("--batches needs an input batch_size: name it with --input batch_size=NODE.FIELD.")
    first = {name: workflow[places[0].node]["inputs"][places[0].field] for name, places in found.inputs.items()}
    defaults = {
        name: value
        for name, value in first.items()
        if name not in _ALWAYS_SAID and isinstance(value, str | int | float)
    }
    return Template(
        workflow,
        {name: tuple(places) for name, places in found.inputs.items()},
        tuple(found.outputs),
        format="video" if found.is_video else "image",
        defaults=defaults,
        ignores=frozenset(ignores),
        batches=batches,
    )


def _show(context: Context, template: Template, found: Found) -> None:
    workflow = template.workflow
    rows = [
        (name, str(place), workflow[place.node]["class_type"], workflow[place.node]["inputs"][place.field])
        for name, places in template.inputs.items()
        for place in places
    ]
    rows += [("(output)", node, workflow[node]["class_type"], template.format) for node in template.outputs]
    if context.json:
        keys = ("name", "place", "node_type", "value")
        listed = [dict(zip(keys, row, strict=True)) for row in rows]
        choices = {name: [str(place) for place in places] for name, places in found.choices.items()}
        context.print_json({"inputs": listed, "choices": choices, "notes": found.notes})
        return
    context.table(("INPUT", "PLACE", "NODE", "VALUE"), [(*row[:3], _short(row[3])) for row in rows])
    for note in found.notes:
        context.note(note)


def _refuse(found: Found, workflow: Workflow) -> None:
    lines = []
    for name, places in found.choices.items():
        named = ", ".join(f"{place} = {_short(workflow[place.node]['inputs'][place.field])}" for place in places)
        lines.append(f"{name} could be {named}.")
    name, places = next(iter(found.choices.items()))
    raise UsageError(
        " ".join(lines) + f" Say which: --input {name}={places[0]}, all of them with commas, or none: --input {name}="
    )


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:39]}…"
