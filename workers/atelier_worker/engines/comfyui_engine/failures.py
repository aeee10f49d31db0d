"""What goes wrong in ComfyUI, as one sentence: the node's type and the field, and no path of any machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from atelier_worker.engine import EngineError

_LONGEST = 240
_PATH = re.compile(r"(?:\b[A-Za-z]:)?(?:[\\/][^\s\\/'\":,;]+){2,}")
_NO_MEMORY = ("out of memory", "allocation on device", "outofmemory")


def refused(workflow: str, answer: object) -> EngineError:
    """Return why ComfyUI did not take a workflow, from its answer 400 to POST /prompt."""
    found = answer if isinstance(answer, Mapping) else {}
    reasons = [reason for node in _items(found.get("node_errors")) for reason in _of_node(node)]
    if not reasons:
        error = found.get("error")
        message = error.get("message") if isinstance(error, Mapping) else error
        reasons = [clean(message) or "it does not say why"]
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return EngineError(f"ComfyUI refused the workflow {workflow}: {reasons[0].rstrip('.')}{more}.")


def failed(workflow: str, messages: object) -> EngineError:
    """Return why a workflow ended without success, from the messages in its history."""
    for name, data in _pairs(messages):
        node = clean(data.get("node_type")) or "a node"
        if name == "execution_interrupted":
            return EngineError(f"The workflow {workflow} was stopped in ComfyUI by somebody else.", retryable=True)
        if name == "execution_error":
            kind, said = clean(data.get("exception_type")), clean(data.get("exception_message"))
            if any(sign in f"{kind} {said}".lower() for sign in _NO_MEMORY):
                return EngineError(f"ComfyUI ran out of memory in {node} of the workflow {workflow}.", retryable=True)
            return EngineError(
                f"The workflow {workflow} failed in {node}: {(said or kind or 'it does not say why').rstrip('.')}."
            )
    return EngineError(f"The workflow {workflow} failed in ComfyUI, which does not say why.")


def clean(text: object) -> str:
    """Return the first line of what another program said: no paths, no control characters, of a bounded length."""
    if not isinstance(text, str):
        return ""
    line = next((one.strip() for one in text[:4096].splitlines() if one.strip()), "")
    line = _PATH.sub("(a file)", "".join(sign if sign.isprintable() else " " for sign in line))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _of_node(node: Mapping[str, Any]) -> list[str]:
    reasons = []
    for error in _items(node.get("errors")):
        extra = error.get("extra_info")
        name = clean(extra.get("input_name")) if isinstance(extra, Mapping) else ""
        where = ".".join(part for part in (clean(node.get("class_type")), name) if part)
        said = clean(error.get("message"))
        # The details of this one are a list of all that is installed there.
        if error.get("type") == "value_not_in_list" and isinstance(extra, Mapping):
            said = f"{clean(str(extra.get('received_value')))} is not there"
        elif error.get("type") in ("custom_validation_failed", "exception_during_validation"):
            said = clean(error.get("details")) or said
        reasons.append(f"{where}: {said}" if where else said)
    return reasons


def _items(value: object) -> list[Mapping[str, Any]]:
    values = list(value.values()) if isinstance(value, Mapping) else value
    return [one for one in values if isinstance(one, Mapping)] if isinstance(values, list) else []


def _pairs(messages: object) -> list[tuple[str, Mapping[str, Any]]]:
    found = messages if isinstance(messages, list) else []
    return [
        (one[0], one[1])
        for one in found
        if isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], Mapping)
    ]
