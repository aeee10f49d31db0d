"""Alembic's environment for every service: migrations run in the transaction that `migrate` opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
