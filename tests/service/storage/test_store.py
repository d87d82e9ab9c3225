"""The catalogue: claims, compare-and-swap, answers for retries, garbage; and a database that fails or is another's."""

from dataclasses import replace

import numpy as np
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import column, create_engine, select, table

from service.errors import ConflictError, SettingsError, StoreDownError
from service.storage.backends import answers, garbage
from service.storage.backends.blobs import FolderBlobs
from service.storage.backends.catalogue import CHECKPOINTS, HEADROOM, Catalogue, Kept, Move
from service.storage.backends.database import MIGRATIONS, open_database
from service.storage.backends.tables import GARBAGE
from service.streams.records import Record
from service.types import InferResponse


def record(stream_id="s", **changes):
    facts = {
        "id": stream_id, "model": "m", "fingerprint": "f", "adapter": "batch", "durability": "sync", "settings": "{}",
        "figures": "{}", "generation": 0, "ceiling": 0, "epoch": 1, "blob": "", "reserved": "r", "created": 1.0,
        "last_used": 2.0,
    }  # fmt: skip
    return Record(**facts | changes)


@pytest.fixture
def database(tmp_path):
    opened = open_database("", tmp_path, sharded=False)
    yield opened
    opened.close()


@pytest.fixture
def catalogue(database):
    made = Catalogue(database.engine)
    made.enrol(record())
    return made


def move(generation, before, epoch=1, blob="", replaced="", kept=()):
    return Move(record(generation=generation, ceiling=generation, epoch=epoch, blob=blob), before, replaced, kept)


def noted(database):
    with database.engine.connect() as connection:
        return set(connection.execute(select(GARBAGE.c.blob)).scalars())


def test_a_stream_moves_on_from_where_it_is_and_from_nowhere_else(catalogue):
    assert catalogue.advance([move(3, before=0)]) == set()
    assert catalogue.advance([move(4, before=0)]) == {"s"}
    assert catalogue.advance([move(4, before=3)]) == set()
    assert [there.generation for there in catalogue.records()] == [4]


def test_a_claim_ends_the_one_before(catalogue):
    _, claimed, _ = catalogue.claim("s")

    assert claimed.epoch == 2
    assert catalogue.advance([move(1, before=0, epoch=1)]) == {"s"}
    assert not catalogue.remove("s", 1, "r")
    assert catalogue.advance([Move(replace(claimed, generation=1), 0, "", ())]) == set()
    assert catalogue.remove("s", 2, claimed.reserved)
    assert catalogue.claim("s") is None


def test_one_fenced_stream_does_not_hold_up_the_others(catalogue):
    catalogue.enrol(record("other"))
    lost = Move(record("other", generation=1, epoch=7), 0, "", ())

    assert catalogue.advance([lost, move(5, before=0)]) == {"other"}
    assert {there.id: there.generation for there in catalogue.records()} == {"s": 5, "other": 0}


def test_an_id_that_is_taken_is_refused(catalogue):
    with pytest.raises(ConflictError, match="'s' already"):
        catalogue.enrol(record())


def test_a_claimed_stream_that_is_not_sync_may_go_on_by_so_many_generations(catalogue):
    catalogue.enrol(record("p", durability="periodic", generation=7, ceiling=7))

    before, after, _ = catalogue.claim("p")
    there, _, _ = Catalogue(catalogue._engine).claim("p")  # as another process

    assert (before.ceiling, after.ceiling, there.ceiling) == (7, 7 + HEADROOM, 7 + HEADROOM)


def test_a_stream_claimed_again_by_its_process_goes_on_as_if_the_first_claim_had_not_been(catalogue):
    catalogue.enrol(record("p", durability="periodic", generation=7, ceiling=9))
    another = Catalogue(catalogue._engine)
    claims = [another.claim("p") for _ in range(3)]

    assert [(before.ceiling, after.ceiling) for before, after, _ in claims] == [(9, 9 + HEADROOM)] * 3
    assert [after.epoch for _, after, _ in claims] == [2, 3, 4]
    assert catalogue.claim("p")[0].ceiling == 9 + HEADROOM  # the other process may have gone on from 9


def test_a_stream_that_its_process_put_to_rest_is_claimed_at_its_generation(catalogue):
    catalogue.enrol(record("p", durability="periodic", generation=7, ceiling=7))
    _, claimed, _ = catalogue.claim("p")
    catalogue.advance([Move(replace(claimed, generation=12, ceiling=12), 7, "", ())])

    before, after, _ = catalogue.claim("p")

    assert (before.ceiling, after.ceiling) == (12, 12 + HEADROOM)


def test_answers_follow_the_state_in_order_and_old_ones_leave(catalogue):
    kept = [Kept(f"r{number}", "", "d", bytes([number])) for number in range(6)]
    catalogue.advance([move(1, 0, kept=kept[:3])])
    catalogue.advance([move(2, 1, kept=kept[2:5])])
    catalogue.advance([move(3, 2, kept=[*kept[3:], kept[0]])])

    assert catalogue.claim("s")[2] == [kept[3], kept[4], kept[5], kept[0]]


def test_answers_to_one_id_are_kept_by_key_and_body(catalogue):
    kept = [Kept("r", "", "d1", b"1"), Kept("r", "", "d2", b"2"), Kept("r", "key", "d1", b"3")]
    catalogue.advance([move(1, 0, kept=kept[:2])])
    catalogue.advance([move(2, 1, kept=kept[1:])])

    assert catalogue.claim("s")[2] == kept[1:]


def test_answers_of_a_catalogue_that_kept_one_a_request_id_are_taken_over(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'acclimate.db'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        values = {"digest": "d", "content": b"1"}
        for stream, request, place in (("s", "r1", 2), ("s", "r2", 1), ("other", "r1", 1)):
            row = table("answers", *map(column, ("stream", "request", "place", "digest", "content")))
            connection.execute(row.insert().values(stream=stream, request=request, place=place, **values))
    engine.dispose()

    opened = open_database("", tmp_path, sharded=False)
    catalogue = Catalogue(opened.engine)
    catalogue.enrol(record())
    _, claimed, kept = catalogue.claim("s")
    catalogue.advance([Move(replace(claimed, generation=1), 0, "", [*kept, Kept("r1", "", "another", b"2")])])
    after = catalogue.claim("s")[2]
    opened.close()

    assert kept == [Kept("r2", "", "d", b"1"), Kept("r1", "", "d", b"1")]
    assert after == [*kept, Kept("r1", "", "another", b"2")]


def test_answers_of_a_move_that_is_fenced_are_not_kept(catalogue):
    catalogue.advance([move(9, before=8, kept=[Kept("r", "", "d", b"")])])

    assert catalogue.claim("s")[2] == []


def test_an_answer_survives_as_bytes():
    outputs = {"logits": np.array([[1.5, -2.0]], np.float32), "labels": np.array([0], np.int64)}
    response = InferResponse("m", "1", "r", {"tta_generation": 4, "tta_mode": "adapt", "ok": True}, outputs)

    again = answers.unpacked(answers.packed(response))

    assert (again.model, again.version, again.id, again.parameters) == ("m", "1", "r", response.parameters)
    assert list(again.outputs) == ["logits", "labels"]
    assert all(np.array_equal(again.outputs[name], array) for name, array in outputs.items())


def put(blobs, *names):
    for name in names:
        blobs.put(name, b"x", len)


def test_what_is_replaced_or_left_by_a_crash_is_collected_and_nothing_else(database, catalogue, tmp_path):
    blobs = FolderBlobs(tmp_path / "blobs")
    put(blobs, "r-1", "r-2", "r-orphan", "foreign", "r2-1")
    catalogue.advance([move(1, 0, blob="r-1")])
    catalogue.advance([move(2, 1, blob="r-2", replaced="r-1")])
    catalogue.claim("s")

    assert noted(database) == {f"{CHECKPOINTS}/r-1", f"{CHECKPOINTS}/r-*"}
    assert garbage.collect(database.engine, {CHECKPOINTS: blobs}) == 0
    assert garbage.collect(database.engine, {CHECKPOINTS: blobs}, older_seconds=-1) == 2

    assert set(blobs.names()) == {"r-2", "foreign", "r2-1"}
    assert noted(database) == set()


def test_a_removed_stream_leaves_its_blobs_to_be_collected(database, catalogue, tmp_path):
    blobs = FolderBlobs(tmp_path / "blobs")
    put(blobs, "r-1", "foreign")
    catalogue.advance([replace(move(1, 0, blob="r-1"), answers=[Kept("r", "", "d", b"")])])
    catalogue.remove("s", 1, "r")

    garbage.collect(database.engine, {CHECKPOINTS: blobs}, older_seconds=-1)

    assert list(blobs.names()) == ["foreign"]
    catalogue.enrol(record())
    assert catalogue.claim("s")[2] == []


@pytest.mark.parametrize("sharded", [False, True])
def test_a_process_that_is_not_sharded_owns_a_store_alone(tmp_path, sharded):
    first = open_database("", tmp_path, sharded=sharded)
    for other in (False, True):
        if not (sharded and other):
            with pytest.raises(SettingsError, match="another process serves this store"):
                open_database("", tmp_path, sharded=other)
    first.close()

    open_database("", tmp_path, sharded=False).close()


def test_sharded_processes_share_a_store_and_have_numbers_of_their_own(tmp_path):
    first, second = open_database("", tmp_path, sharded=True), open_database("", tmp_path, sharded=True)

    assert (first.process, second.process) == (1, 2)
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:secret@h/d", "expected sqlite"),
        ("nonsense", "cannot be opened"),
        ("sqlite:////no/such/dir/x.db", ""),
    ],
)
def test_a_database_that_cannot_be_opened_is_named_without_its_password(tmp_path, url, said):
    with pytest.raises(SettingsError, match="cannot be opened") as caught:
        open_database(url, tmp_path, sharded=False)

    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_database_that_fails_says_to_try_again(database, catalogue, tmp_path):
    database.engine.dispose()
    (tmp_path / "acclimate.db").write_bytes(b"broken" * 1000)

    with pytest.raises(StoreDownError, match="does not answer"):
        catalogue.records()
