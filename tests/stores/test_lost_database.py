"""A database that is away for a while: nothing is learned that could not be kept, and then all goes on."""

import pytest

from tests.stores.control import create, take, verified_snapshots, view
from tests.stores.process import started
from tests.stores.programs import wait_until
from tests.stores.requests import Request, answer_of, infer, post

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(make_store, tmp_path_factory):
    settings = {"ACCLIMATE_PERIOD_STEPS": "2", "ACCLIMATE_PERIOD_SECONDS": "1"}
    with started(tmp_path_factory.mktemp("server"), make_store("postgres+s3"), **settings) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as connected:
        yield connected


def learned(client, stream, durability):
    """Create a stream and let it make its first step."""
    create(client, stream, durability)
    return infer(client, Request(stream, "first", seed=1))


def returned(client, request):
    """Send a request until it is answered."""
    answered = []

    def is_answered():
        response = post(client, request)
        assert response.status_code in {200, 503}, response.text
        answered.append(response)
        return response.status_code == 200

    wait_until(is_answered, f"{request} is answered", every=0.2)
    return answer_of(request, answered[-1])


def test_without_its_database_sync_streams_refuse_to_learn_and_go_on_when_it_is_back(postgres_cluster, client):
    learned(client, "sync", "sync")
    request = Request("sync", "second", seed=2)
    postgres_cluster.stop()
    refused = [post(client, request) for _ in range(3)]
    during = view(client, "sync")
    postgres_cluster.start()

    answer = returned(client, request)
    again = infer(client, request)

    for response in refused:
        assert response.status_code == 503, response.text
        assert int(response.headers["Retry-After"]) >= 1
        assert response.json()["error"]
    assert (during["generation"], during["steps"]) == (1, 1)
    assert answer.steps == 2
    assert answer.generation == answer.durable_generation == 2
    assert again.same_as(answer)
    assert view(client, "sync")["steps"] == 2


@pytest.mark.parametrize("durability", ["periodic", "ephemeral"])
def test_without_its_database_other_streams_go_on(postgres_cluster, client, durability):
    learned(client, durability, durability)
    postgres_cluster.stop()
    during = [infer(client, Request(durability, f"during-{number}", seed=number)) for number in range(7)]
    postgres_cluster.start()
    after = infer(client, Request(durability, "after", seed=20))

    assert [answer.steps for answer in during] == list(range(2, 9))
    assert after.steps == 9


def test_what_a_periodic_stream_learned_without_its_database_is_kept_when_it_is_back(postgres_cluster, client):
    learned(client, "late", "periodic")
    postgres_cluster.stop()
    last = [infer(client, Request("late", f"during-{number}", seed=number)) for number in range(7)][-1]
    assert last.durable_generation < last.generation
    postgres_cluster.start()

    infer(client, Request("late", "after", seed=20))

    def is_durable():
        return view(client, "late")["durable_generation"] >= last.generation

    wait_until(is_durable, "the steps are durable", every=0.2)


def test_snapshots_are_refused_without_the_database_and_taken_again_with_it(postgres_cluster, client):
    learned(client, "snapped", "periodic")
    before, _ = take(client, "snapped")
    postgres_cluster.stop()
    refused = client.post("/v1/streams/snapped/snapshots")
    listed = client.get("/v1/streams/snapped/snapshots")
    created = client.post("/v1/streams", json={"id": "new", "durability": "sync"})
    postgres_cluster.start()

    def is_taken():
        return client.post("/v1/streams/snapped/snapshots").status_code == 201

    wait_until(is_taken, "a snapshot is taken", every=0.2)
    for response in (refused, listed, created):
        assert response.status_code in {503, 507}, response.text
        assert "Traceback" not in response.json()["error"]
    found = verified_snapshots(client, "snapped")
    assert before["id"] in found
    assert len(found) == 2


def test_a_start_without_the_database_is_refused_with_a_reason_that_shows_no_password(postgres_cluster, server):
    server.stop()
    postgres_cluster.stop()

    with pytest.raises(AssertionError, match="did not start") as refused:
        server.start()
    postgres_cluster.start()
    server.start()

    assert "Traceback" not in str(refused.value)
