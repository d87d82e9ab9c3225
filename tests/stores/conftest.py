"""The stores that the tests run on: real programs for the session, an empty store for each test."""

import pytest
from obstore.store import LocalStore

from tests.stores import postgres, seaweed
from tests.stores.places import Store
from tests.stores.process import started

STORES = ("sqlite+folder", "postgres+s3")


@pytest.fixture(scope="session")
def postgres_cluster():
    with postgres.running() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    with seaweed.running(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def local_store(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    return Store("sqlite+folder", data, {}, LocalStore(data))


@pytest.fixture
def shared_store(tmp_path, postgres_cluster, s3):
    if not postgres_cluster.runs:  # a test that stopped it failed
        postgres_cluster.start()
    prefix = s3.new_prefix()
    environment = {
        "ACCLIMATE_DATABASE": postgres_cluster.new_database(),
        "ACCLIMATE_BLOBS": f"s3://{seaweed.BUCKET}/{prefix}",
        **s3.environment,
    }
    return Store("postgres+s3", tmp_path / "data", environment, s3.store(prefix))


@pytest.fixture(params=STORES)
def store(request):
    """Each kind of store in turn, empty."""
    return request.getfixturevalue("local_store" if request.param == "sqlite+folder" else "shared_store")


@pytest.fixture
def server(store, tmp_path):
    """A server on each kind of store in turn."""
    with started(tmp_path / "server", store) as running:
        yield running
