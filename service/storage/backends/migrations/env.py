"""Run by Alembic: migrates on the connection that the server passes in."""

from alembic import context

from service.storage.backends.tables import NAMES

if getattr(context, "config", None) is not None:
    context.configure(connection=context.config.attributes["connection"], target_metadata=NAMES)
    with context.begin_transaction():
        context.run_migrations()
