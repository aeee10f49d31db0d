"""Events are numbered for each owner, in the order of commits; replicas tell each other through a table."""

from alembic import op

from service_kit.events.exchange.postgres import create_exchange_table
from service_kit.events.tables import number_events_per_owner

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    number_events_per_owner(op)
    create_exchange_table(op)
