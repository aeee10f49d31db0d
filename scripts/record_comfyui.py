"""Records what a real ComfyUI answers, for the stand-in of the tests: `record_comfyui.py URL FOLDER`.

Each scenario becomes one JSON file: every request with its answer, and every frame of the socket, in the order in which
they came. No weights are needed. `steps` is only recorded where `comfyui_steps_node.py` lies in `custom_nodes`.
What names a machine (paths, memory, times) is replaced.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from websockets.sync.client import ClientConnection, connect

_WAIT_S = 60.0
_NODES = ("EmptyImage", "ImageInvert", "SaveImage", "LoadImage", "AtelierSteps")
_PATH = re.compile(r"(?:/[\w.+-]+){2,}/(?=[\w.+-])")
_FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}

Graph = dict[str, dict[str, Any]]


class Recorder:
    """One scenario: its exchanges and the frames that came meanwhile."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self._http = httpx.Client(base_url=url, timeout=_WAIT_S, trust_env=False)
        self._ws = url.replace("http", "ws", 1)
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """Make a request and keep it with its answer."""
        answer = self._http.request(method, path, **parts)
        self.events.append(
            {
                "request": {"method": method, "path": path} | _request_of(parts),
                "answer": {"status": answer.status_code} | _answer_of(answer),
            }
        )
        return answer

    @contextmanager
    def listen(self, client_id: str, *, flags: bool = False) -> Iterator[ClientConnection]:
        """Open a socket; say that previews may carry metadata when `flags`."""
        with connect(f"{self._ws}/ws?clientId={client_id}", max_size=2**24, proxy=None) as socket:
            if flags:
                socket.send(json.dumps(_FLAGS))
                self.events.append({"sent": _FLAGS})
            yield socket

    def hear(self, socket: ClientConnection, until: Callable[[dict[str, Any]], bool]) -> None:
        """Keep frames until one of them is what was waited for, which is kept, too."""
        end = time.monotonic() + _WAIT_S
        while True:
            frame = socket.recv(timeout=end - time.monotonic())
            if isinstance(frame, bytes):
                self.events.append({"binary": base64.b64encode(frame).decode()})
                continue
            message = json.loads(frame)
            if not message["type"].startswith("crystools"):
                self.events.append({"text": _scrubbed(message)})
            if until(message):
                return

    def save(self, folder: Path) -> None:
        """Write the scenario."""
        self._http.close()
        file = folder / f"{self.name}.json"
        lines = ",\n".join(json.dumps(event, ensure_ascii=False) for event in self.events)
        file.write_text(f"[\n{lines}\n]\n")
        print(f"{file}: {len(self.events)} events")


def invert(*, width: Any = 64, colour: int = 0x336699) -> Graph:
    """Return EmptyImage → ImageInvert → SaveImage."""
    return {
        "1": _node("EmptyImage", width=width, height=64, batch_size=1, color=colour),
        "2": _node("ImageInvert", image=["1", 0]),
        "3": _node("SaveImage", images=["2", 0], filename_prefix="recorded/invert"),
    }


def loaded(image: str) -> Graph:
    """Return LoadImage → ImageInvert → SaveImage."""
    return {
        "1": _node("LoadImage", image=image),
        "2": _node("ImageInvert", image=["1", 0]),
        "3": _node("SaveImage", images=["2", 0], filename_prefix="recorded/loaded"),
    }


def steps(number: int, milliseconds: int, seed: int = 7) -> Graph:
    """Return a graph that takes its time."""
    graph = invert(colour=0x112233)
    graph["4"] = _node("AtelierSteps", image=["1", 0], seed=seed, steps=number, milliseconds=milliseconds)
    graph["2"]["inputs"]["image"] = ["4", 0]
    return graph


def prompt(graph: Graph, prompt_id: str, client_id: str) -> dict[str, Any]:
    """Return the body of POST /prompt."""
    return {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id}


def ended(prompt_id: str) -> Callable[[dict[str, Any]], bool]:
    """Return what tells the frame that comes last: nothing of this prompt is executed any more."""
    return lambda message: (
        message["type"] == "executing"
        and message["data"]["node"] is None
        and message["data"].get("prompt_id") == prompt_id
    )


def record_about(one: Recorder) -> None:
    """What the machine and the nodes are."""
    one.ask("GET", "/system_stats")
    for node in _NODES:
        one.ask("GET", f"/object_info/{node}")
    one.ask("GET", "/queue")
    one.ask("GET", "/history/none-of-that-id")


def record_run(one: Recorder) -> None:
    """A graph, the file that it saved, and the same graph again, which is not run but answered from memory."""
    for number in (1, 2):
        name = f"run-{number}"
        with one.listen("recorder") as socket:
            one.hear(socket, lambda message: message["type"] == "status")
            one.ask("POST", "/prompt", json=prompt(invert(), name, "recorder"))
            one.hear(socket, ended(name))
        history = one.ask("GET", f"/history/{name}").json()
        image = history[name]["outputs"]["3"]["images"][0]
        one.ask("GET", "/view", params=image)
    one.ask("GET", "/view", params={"filename": "no-such-file.png", "type": "output", "subfolder": ""})
    one.ask("GET", "/view", params={"filename": "../main.py", "type": "output", "subfolder": ""})


def record_refused(one: Recorder) -> None:
    """Graphs that are no good."""
    one.ask("POST", "/prompt", json=prompt(invert(width="wide"), "refused-1", "recorder"))
    one.ask("POST", "/prompt", json=prompt(invert(width=-5), "refused-2", "recorder"))
    unknown = invert() | {"2": _node("NoSuchNode", image=["1", 0])}
    one.ask("POST", "/prompt", json=prompt(unknown, "refused-3", "recorder"))
    no_output = {"1": invert()["1"]}
    one.ask("POST", "/prompt", json=prompt(no_output, "refused-4", "recorder"))
    missing = invert()
    del missing["2"]["inputs"]["image"]
    one.ask("POST", "/prompt", json=prompt(missing, "refused-5", "recorder"))
    one.ask("POST", "/prompt", json=prompt(loaded("atelier/missing.png"), "refused-6", "recorder"))
    one.ask("POST", "/prompt", json={"client_id": "recorder"})
    one.ask("GET", "/queue")


def record_upload(one: Recorder) -> None:
    """A picture sent twice, used in a graph; and one that is none, which fails where it is loaded."""
    form = {"type": "input", "subfolder": "atelier", "overwrite": "true"}
    for _ in range(2):
        one.ask("POST", "/upload/image", data=form, files={"image": ("recorded.png", _png(), "image/png")})
    one.ask("POST", "/upload/image", data=form, files={"image": ("broken.png", b"no picture", "image/png")})
    beyond = form | {"subfolder": "../.."}
    one.ask("POST", "/upload/image", data=beyond, files={"image": ("beyond.png", _png(), "image/png")})
    for name, image in (("loaded-1", "atelier/recorded.png"), ("loaded-2", "atelier/broken.png")):
        with one.listen("recorder") as socket:
            one.ask("POST", "/prompt", json=prompt(loaded(image), name, "recorder"))
            one.hear(socket, ended(name))
        one.ask("GET", f"/history/{name}")


def record_steps(one: Recorder) -> None:
    """Steps with previews, in the old and in the new form of frames."""
    for flags in (False, True):
        name = f"steps-{int(flags)}"
        with one.listen(name, flags=flags) as socket:
            one.ask("POST", "/prompt", json=prompt(steps(3, 20, seed=int(flags)), name, name))
            one.hear(socket, ended(name))
        history = one.ask("GET", f"/history/{name}").json()
        one.ask("GET", "/view", params=history[name]["outputs"]["3"]["images"][0])


def record_stopped(one: Recorder) -> None:
    """One prompt that runs and one that waits, both stopped; and a client that comes back in the middle."""
    with one.listen("recorder") as socket:
        one.ask("POST", "/prompt", json=prompt(steps(400, 50, seed=41), "stop-running", "recorder"))
        one.hear(socket, lambda message: message["type"] == "progress")
        one.ask("POST", "/prompt", json=prompt(steps(400, 50, seed=42), "stop-waiting", "recorder"))
        one.ask("GET", "/queue")
        one.ask("POST", "/queue", json={"delete": ["stop-waiting"]})
        one.ask("GET", "/queue")
        one.ask("POST", "/interrupt", json={"prompt_id": "stop-another"})
    with one.listen("recorder") as socket:
        one.hear(socket, lambda message: message["type"] == "progress")
        one.ask("POST", "/interrupt", json={"prompt_id": "stop-running"})
        one.hear(socket, ended("stop-running"))
    one.ask("GET", "/history/stop-running")
    one.ask("GET", "/history/stop-waiting")
    one.ask("GET", "/queue")


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 200, 30)).save(out, "PNG")
    return out.getvalue()


def _request_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: parts[name] for name in ("json", "params", "data") if name in parts}
    for field, (filename, content, kind) in parts.get("files", {}).items():
        kept["file"] = {"field": field, "filename": filename, "content_type": kind, "size_bytes": len(content)}
    return kept


def _answer_of(answer: httpx.Response) -> dict[str, Any]:
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind == "application/json":
        return {"content_type": kind, "json": _scrubbed(answer.json())}
    return {"content_type": kind, "base64": base64.b64encode(answer.content).decode()}


def _scrubbed(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _scrubbed(one, name) for name, one in value.items()}
    if key in ("argv", "traceback"):
        return ["…"]
    if key == "image" and isinstance(value, list) and value and isinstance(value[0], list):
        return [["atelier/recorded.png"], *value[1:]]  # every file in the input folder
    if isinstance(value, list):
        return [_scrubbed(one) for one in value]
    if key in ("timestamp", "ram_total", "ram_free", "torch_vram_total", "torch_vram_free", "vram_total", "vram_free"):
        return 1
    if key in ("python_version", "pytorch_version", "os"):
        return "…"
    return _PATH.sub("/comfyui/", value) if isinstance(value, str) else value


def main() -> None:
    """Record every scenario."""
    url, folder = sys.argv[1].rstrip("/"), Path(sys.argv[2])
    scenarios = {"about": record_about, "run": record_run, "refused": record_refused, "upload": record_upload}
    if httpx.get(f"{url}/object_info/AtelierSteps", trust_env=False).json():
        scenarios |= {"steps": record_steps, "stopped": record_stopped}
    for name, record in scenarios.items():
        one = Recorder(url, name)
        record(one)
        one.save(folder)


if __name__ == "__main__":
    main()
