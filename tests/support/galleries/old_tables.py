"""A dump of the tables that came before Atelier, and the files that their rows name."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.galleries.pictures import LARGEST, picture_bytes


@dataclass
class Dump:
    """A dump of the seed's old tables, by name, that is written with `write`."""

    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, folder: Path, kind: str = "csv") -> None:
        """Write tables and files below a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            target = folder / f"{name}.{kind}"
            target.write_text(_csv(rows) if kind == "csv" else json.dumps(rows, ensure_ascii=False), "utf-8")
        for path, data in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)


def seed_dump(user: str = "11111111-1111-4111-8111-111111111111") -> Dump:
    """Return rows as the old tables kept them: paths, prefixed paths, addresses; settings in columns and in JSON."""
    dump = Dump()
    dump.tables["workspace_items"] = [
        {
            "id": "i1",
            "user_id": user,
            "prompt": "a red door",
            "model_type": "sdxl_image_high",
            "seed": "12",
            "bucket_name": "sdxl_image_high",
            "storage_path": f"{user}/door.png",
            "generation_params": json.dumps({"steps": 25, "guidance_scale": 7.5}),
            "created_at": "2025-08-01 10:00:00+00",
        },
        {
            "id": "i2",
            "user_id": user,
            "prompt": "the file of this row is gone",
            "model_type": "sdxl",
            "seed": "",
            "bucket_name": "sdxl_image_high",
            "storage_path": f"{user}/lost.png",
            "generation_params": "",
            "created_at": "",
        },
    ]
    dump.tables["workspace_assets"] = [
        {
            "id": "a1",
            "user_id": user,
            "asset_type": "image",
            "temp_storage_path": f"workspace-temp/{user}/job/0.png",
            "job_id": "j1",
            "asset_index": "0",
            "generation_seed": str(LARGEST),
            "original_prompt": "提灯, twice",
            "model_used": "sdxl",
            "generation_settings": json.dumps({"width": 1024, "height": 1024, "negative_prompt": "blurry"}),
            "created_at": "2025-08-02T10:00:00Z",
        }
    ]
    dump.tables["user_library"] = [
        {
            "id": "l1",
            "user_id": user,
            "asset_type": "image",
            "storage_path": f"https://old.example/storage/v1/object/sign/user-library/{user}/kept%20one.png?token=x",
            "original_prompt": "a kept picture",
            "model_used": "wan",
            "generation_seed": "0",
            "custom_title": "Café at dawn",
            "tags": '{dawn,"blue hour"}',
            "is_favorite": "true",
            "created_at": "2025-07-01T10:00:00Z",
        },
        {
            "id": "l2",
            "user_id": user,
            "asset_type": "image",
            "storage_path": "../../etc/passwd",
            "original_prompt": "a way out",
            "model_used": "wan",
            "generation_seed": "1",
            "custom_title": "",
            "tags": "",
            "is_favorite": "false",
            "created_at": "",
        },
    ]
    dump.files = {
        f"sdxl_image_high/{user}/door.png": picture_bytes(701),
        f"workspace-temp/{user}/job/0.png": picture_bytes(702),
        f"user-library/{user}/kept one.png": picture_bytes(703),
    }
    return dump


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
