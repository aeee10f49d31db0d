"""The shipped rows of Wan have the frame rate that its weights learnt, unless an operator has changed them.

The release before reads these rows as they are, and makes videos of 24 frames a second.
"""

import sqlalchemy as sa
from alembic import op

from service_kit.database import Json

revision = "0011"
down_revision = "0010"

_RATE = 16
# As the first release shipped them, whatever later ones ship.
_COMMON = {
    "stage": "generate",
    "worker_type": "wan",
    "formats": ["video", "image"],
    "base_size": 640,
    "default_steps": 12,
    "max_quantity": 4,
    "deadline_seconds": 1800,
}
_SHIPPED = (
    {"name": "wan", "position": 40, "aliases": ["wan-2.1"], **_COMMON},
    {"name": "*", "position": 1000, **_COMMON},
)


def upgrade() -> None:
    models = sa.table("models", sa.column("name", sa.String), sa.column("document", Json))
    rows = op.get_bind().execute(sa.select(models.c.name, models.c.document)).all()
    documents = {row.name: row.document for row in rows}
    for before in _SHIPPED:
        if documents.get(before["name"]) == before:
            document = before | {"default_frame_rate": _RATE}
            op.execute(sa.update(models).where(models.c.name == before["name"]).values(document=document))
