"""Runs migrations on the connection that the server hands in."""

from alembic import context

from service.store.tables import NAMES

context.configure(connection=context.config.attributes["connection"], target_metadata=NAMES)
with context.begin_transaction():
    context.run_migrations()
