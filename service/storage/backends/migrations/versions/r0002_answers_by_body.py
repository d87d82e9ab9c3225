"""Answers are kept by request id, idempotency key and body, since one id may be used for several bodies."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Recreate the table, since SQLite cannot change a primary key, and copy its rows."""
    op.rename_table("answers", "answers_by_id")
    op.create_table(
        "answers",
        sa.Column("stream", sa.String(128), primary_key=True),
        sa.Column("request", sa.String(256), primary_key=True),
        sa.Column("key", sa.String(256), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.execute(
        "INSERT INTO answers (stream, request, key, digest, place, content) "
        "SELECT stream, request, '', digest, place, content FROM answers_by_id"
    )
    op.drop_table("answers_by_id")
