"""The programs that the stores' tests stand on do what those tests take for granted."""

import obstore
import psycopg
import pytest
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError

from tests.stores.process import started
from tests.stores.programs import wait_until
from tests.stores.requests import Request, infer

pytestmark = pytest.mark.e2e


def connect(url):
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True, connect_timeout=10)


def test_a_stopped_database_refuses_and_a_started_one_has_what_was_committed(postgres_cluster):
    url = postgres_cluster.new_database()
    with connect(url) as connection:
        connection.execute("CREATE TABLE kept (number int)")
        connection.execute("INSERT INTO kept VALUES (7)")

        postgres_cluster.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT number FROM kept")
    with pytest.raises(psycopg.OperationalError):
        connect(url)
    postgres_cluster.start()

    with connect(url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]
        assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_each_database_is_empty(postgres_cluster):
    with connect(postgres_cluster.new_database()) as one, connect(postgres_cluster.new_database()) as other:
        one.execute("CREATE TABLE mine (number int)")

        assert other.execute("SELECT count(*) FROM pg_tables WHERE tablename = 'mine'").fetchone() == (0,)


def test_objects_are_put_once_listed_by_prefix_and_closed_to_a_wrong_secret(s3):
    prefix = s3.new_prefix()
    store, other = s3.store(prefix), s3.store(s3.new_prefix())
    content = bytes(range(256)) * 400

    obstore.put(store, "folder/one", content, mode="create")

    assert bytes(obstore.get(store, "folder/one").bytes()) == content
    assert [entry["path"] for page in obstore.list(store) for entry in page] == ["folder/one"]
    assert [entry for page in obstore.list(other) for entry in page] == []
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "folder/one", b"another", mode="create")
    with pytest.raises(PermissionDeniedError):
        obstore.get(s3.store(prefix, secret_key="wrong"), "folder/one")


def test_a_killed_server_starts_again_on_its_store_with_each_log_kept(store, tmp_path):
    with started(tmp_path / "server", store) as running:
        with running.client() as client:
            first = infer(client, Request("s", "one", seed=1))
        process = running.server.process
        running.kill()
        running.start()
        with running.client() as client:
            again = infer(client, Request("s", "two", seed=1))
        log = running.log()

    assert process.returncode == -9
    assert (first.generation, first.request.id) == (1, "one")
    assert again.outputs["labels"].shape == (4,)
    assert log.count('"event": "started"') == 2


def test_waiting_for_what_never_comes_is_bounded():
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: the end"):
        wait_until(lambda: False, "the end", seconds=0.05)
