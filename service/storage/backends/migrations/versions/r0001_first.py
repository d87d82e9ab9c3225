"""The first catalogue: streams, answers, snapshots, garbage and processes; and events if that table does not exist."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
LONG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    if not sa.inspect(op.get_bind()).has_table("events"):
        _make_events()
    op.create_table(
        "processes",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("started", sa.Float, nullable=False),
    )
    op.create_table(
        "streams",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("adapter", sa.String(256), nullable=False),
        sa.Column("durability", sa.String(16), nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
        sa.Column("generation", LONG, nullable=False),
        sa.Column("ceiling", LONG, nullable=False),
        sa.Column("epoch", LONG, nullable=False),
        sa.Column("blob", sa.String(64), nullable=False),
        sa.Column("reserved", sa.String(32), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("last_used", sa.Float, nullable=False),
    )
    op.create_table(
        "answers",
        sa.Column("stream", sa.String(128), primary_key=True),
        sa.Column("request", sa.String(256), primary_key=True),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(24), primary_key=True),
        sa.Column("stream", sa.String(128), nullable=False, index=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("size", LONG, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
    )
    op.create_table(
        "garbage",
        sa.Column("blob", sa.String(128), primary_key=True),
        sa.Column("time", sa.Float, nullable=False),
    )


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", LONG, primary_key=True),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("stream", sa.String(128), nullable=False, index=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
    )
