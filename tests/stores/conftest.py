"""The stores that the tests run on: real programs for the session, an empty store for each test."""

import pytest
from obstore.store import LocalStore

from tests.stores import postgres, seaweed
from tests.stores.places import Store
from tests.stores.process import started

KINDS = ("sqlite+folder", "postgres+s3")


@pytest.fixture(scope="session")
def postgres_cluster():
    with postgres.running() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    with seaweed.running(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def make_store(request, tmp_path_factory):
    """Make an empty store of a kind; the programs that it needs are started when the first one is made."""

    def make(kind):
        data = tmp_path_factory.mktemp("data")
        if kind == "sqlite+folder":
            return Store(kind, data, {}, LocalStore(data))
        postgres_cluster, s3 = request.getfixturevalue("postgres_cluster"), request.getfixturevalue("s3")
        if not postgres_cluster.runs:  # a test that stopped it failed
            postgres_cluster.start()
        prefix = s3.new_prefix()
        environment = {
            "ACCLIMATE_DATABASE": postgres_cluster.new_database(),
            "ACCLIMATE_BLOBS": f"s3://{seaweed.BUCKET}/{prefix}",
            **s3.environment,
        }
        return Store(kind, data, environment, s3.store(prefix))

    return make


@pytest.fixture(params=KINDS)
def store(request, make_store):
    """Each kind of store in turn, empty."""
    return make_store(request.param)


@pytest.fixture
def server(store, tmp_path):
    """A server on each kind of store in turn."""
    with started(tmp_path / "server", store) as running:
        yield running
