"""The tables of the catalogue. `migrations` creates and changes them."""

from typing import Any

from sqlalchemy import BigInteger, Column, Float, Integer, LargeBinary, MetaData, String, Table, Text

LONG = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows only in columns of type INTEGER, which hold 64 bits there."""
NAMES = MetaData()
EVENTS = Table(
    "events",
    NAMES,
    Column("id", LONG, primary_key=True),
    Column("time", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("stream", String(128), nullable=False, index=True),
    Column("model", String(128), nullable=False),
    Column("action", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("figures", Text, nullable=False),
)


def _answer_columns() -> list[Column[Any]]:
    """Return new columns for an answer and its place among the stream's answers. Each table needs its own columns."""
    return [
        Column("stream", String(128), primary_key=True),
        Column("request", String(256), primary_key=True),
        Column("key", String(256), primary_key=True),
        Column("digest", String(64), primary_key=True),
        Column("place", Integer, nullable=False),
        Column("content", LargeBinary, nullable=False),
    ]


PROCESSES = Table(
    "processes",
    NAMES,
    Column("number", Integer, primary_key=True),
    Column("started", Float, nullable=False),
)
STREAMS = Table(
    "streams",
    NAMES,
    Column("id", String(128), primary_key=True),
    Column("model", String(128), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("adapter", String(256), nullable=False),
    Column("durability", String(16), nullable=False),
    Column("settings", Text, nullable=False),
    Column("figures", Text, nullable=False),
    Column("generation", LONG, nullable=False),
    Column("ceiling", LONG, nullable=False),
    Column("epoch", LONG, nullable=False),
    Column("blob", String(64), nullable=False),
    Column("reserved", String(32), nullable=False),
    Column("created", Float, nullable=False),
    Column("last_used", Float, nullable=False),
)
ANSWERS = Table(
    "answers",
    NAMES,
    *_answer_columns(),
)
ENDED_ANSWERS = Table(
    "ended_answers",
    NAMES,
    *_answer_columns(),
    Column("time", Float, nullable=False, index=True),
)
SNAPSHOTS = Table(
    "snapshots",
    NAMES,
    Column("id", String(24), primary_key=True),
    Column("stream", String(128), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("size", LONG, nullable=False),
    Column("manifest", Text, nullable=False),
)
GARBAGE = Table(
    "garbage",
    NAMES,
    Column("blob", String(128), primary_key=True),
    Column("time", Float, nullable=False),
)
