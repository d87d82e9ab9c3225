"""Connections to a real PostgreSQL: what the kernel was told, so that a peer that is gone is noticed."""

import math
import os
import socket

import pytest

from service.storage.backends.database import open_database

NAMES = ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")


@pytest.fixture
def limits(make_store, tmp_path):
    """Return the limits of a connection that is opened with a query in the URL."""

    def of(store_seconds, query=""):
        url = make_store("postgres+s3").environment["ACCLIMATE_DATABASE"] + query
        database = open_database(url, tmp_path, sharded=False, store_seconds=store_seconds)
        try:
            connection = database.engine.raw_connection()
            with socket.socket(fileno=os.dup(connection.driver_connection.fileno())) as there:
                assert there.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                found = [there.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in NAMES]
            connection.close()
        finally:
            database.close()
        return found

    return of


@pytest.mark.parametrize(
    ("store_seconds", "expected"),
    [
        (12.0, [12_000, 6, 2, 3]),
        (0.25, [250, 1, 1, 3]),
        (math.inf, [2**31 - 1, 32_767, 32_767, 3]),
    ],
)
def test_a_peer_that_is_gone_is_noticed_within_the_time_of_a_call(limits, store_seconds, expected):
    assert limits(store_seconds) == expected


def test_what_the_url_sets_is_left_as_it_is(limits):
    assert limits(12.0, "?tcp_user_timeout=7000&keepalives_idle=9&keepalives_count=5") == [7000, 9, 2, 5]
