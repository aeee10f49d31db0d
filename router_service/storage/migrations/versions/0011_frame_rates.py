"""The shipped rows of Wan have the frame rate that its weights learnt, unless an operator has changed them.

The release before reads these rows as they are, and makes videos of 24 frames a second.
"""

import sqlalchemy as sa
from alembic import op

from router_service.storage.shipped_models import SHIPPED
from service_kit.database import Json

revision = "0011"
down_revision = "0010"

_RATE = "default_frame_rate"


def upgrade() -> None:
    models = sa.table("models", sa.column("name", sa.String), sa.column("document", Json))
    rows = op.get_bind().execute(sa.select(models.c.name, models.c.document)).all()
    documents = {row.name: row.document for row in rows}
    for row in SHIPPED:
        document = row["document"]
        before = {name: value for name, value in document.items() if name != _RATE}
        if _RATE in document and documents.get(row["name"]) == before:
            op.execute(sa.update(models).where(models.c.name == row["name"]).values(document=document))
