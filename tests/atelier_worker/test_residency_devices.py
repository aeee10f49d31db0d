"""What is free on a machine, read from files as kernels write them, and what estimates say."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from atelier_worker.engine import EngineError
from atelier_worker.engines.residency.device_memory import HostMemory, memory_of
from atelier_worker.engines.residency.estimates import image_working_bytes, video_working_bytes, weights_bytes_of

GIB = 1 << 30
MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(MEMINFO)
    return folder


def _group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_text(text)


def test_without_control_groups_it_is_what_the_kernel_calls_available(proc: Path, tmp_path: Path) -> None:
    memory = HostMemory(proc=proc, cgroups=tmp_path / "none")
    assert (memory.free_bytes(), memory.total_bytes()) == (8 * GIB, 16 * GIB)


def test_a_control_group_of_version_2_limits_it_and_its_page_cache_is_free(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/slice/job\n")
    groups = tmp_path / "cgroup"
    _group(groups / "slice", memory_dot_max=f"{4 * GIB}\n", memory_dot_current=f"{3 * GIB}\n")
    (groups / "slice" / "memory.stat").write_text(f"anon {GIB}\ninactive_file {2 * GIB}\n")
    _group(groups / "slice" / "job", memory_dot_max="max\n", memory_dot_current=f"{GIB}\n")
    memory = HostMemory(proc=proc, cgroups=groups)
    assert (memory.free_bytes(), memory.total_bytes()) == (3 * GIB, 4 * GIB)


def test_in_a_container_only_the_root_of_the_groups_may_be_visible(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/somewhere/else\n")
    groups = tmp_path / "cgroup"
    _group(groups, memory_dot_max=f"{2 * GIB}\n", memory_dot_current=f"{GIB}\n")
    assert HostMemory(proc=proc, cgroups=groups).free_bytes() == GIB


def test_a_control_group_of_version_1_limits_it(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("4:cpu,cpuacct:/\n3:memory:/job\n0::/\n")
    groups = tmp_path / "cgroup"
    unlimited = "9223372036854771712\n"
    _group(groups / "memory", memory_dot_limit_in_bytes=unlimited)
    limits = groups / "memory" / "job"
    limits.mkdir()
    (limits / "memory.limit_in_bytes").write_text(f"{6 * GIB}\n")
    (limits / "memory.usage_in_bytes").write_text(f"{5 * GIB}\n")
    (limits / "memory.stat").write_text(f"total_inactive_file {GIB}\n")
    memory = HostMemory(proc=proc, cgroups=groups)
    assert (memory.free_bytes(), memory.total_bytes()) == (2 * GIB, 6 * GIB)


def test_this_machine_has_memory() -> None:
    memory = memory_of("cpu")
    assert 0 < memory.free_bytes() <= memory.total_bytes()


def test_a_device_that_is_none_is_named() -> None:
    with pytest.raises(EngineError, match='device must be "cpu" or "cuda:N", got "tpu"'):
        memory_of("tpu")


def test_estimates_grow_with_what_is_asked_for() -> None:
    one = image_working_bytes(1024, 1024, batch=1, dtype="bfloat16")
    assert 2 * GIB < one < 4 * GIB
    assert image_working_bytes(1024, 1024, batch=1, dtype="float16") > one * 3 // 2
    assert image_working_bytes(1024, 1024, batch=8, dtype="bfloat16") > one
    assert image_working_bytes(1024, 1024, batch=1, dtype="bfloat16", tiled=True) < one * 2 // 3
    video = video_working_bytes(832, 480, 81, dtype="bfloat16")
    assert 4 * GIB < video < 16 * GIB
    assert video_working_bytes(1280, 720, 81, dtype="bfloat16") > video
    with pytest.raises(ValueError, match="dtype must be one of"):
        image_working_bytes(64, 64, batch=1, dtype="int4")


def test_weights_are_counted_from_headers_in_the_dtype_they_are_loaded_in(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [10, 20], "data_offsets": [0, 800]},
        "ids": {"dtype": "I64", "shape": [7], "data_offsets": [800, 856]},
    }
    encoded = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(856))
    assert weights_bytes_of([file], dtype="bfloat16") == 200 * 2 + 7 * 8
    assert weights_bytes_of([file, file], dtype="float32") == 2 * (200 * 4 + 7 * 8)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs", struct.pack("<Q", 40) + b"{", b"\2\0\0\0\0\0\0\0[]"]
)
def test_a_file_that_holds_no_weights_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(EngineError, match=r"model\.safetensors is no safetensors file, or it is damaged"):
        weights_bytes_of([file], dtype="float32")
