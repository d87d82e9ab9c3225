"""A catalogue that is empty, damaged, of a newer version or gone: never a start without its streams."""

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy import insert, select
from structlog.testing import capture_logs

from service.errors import SettingsError, StoreDownError
from service.storage.backends.database import open_database
from service.storage.backends.tables import EVENTS, PROCESSES
from tests.applications import INFER, application
from tests.bundles import torch_bundle
from tests.serving import ROOT, images, infer_body
from tests.stored import wait

PAGE = 4096


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data folder whose catalogue has some forty pages."""
    folder = tmp_path_factory.mktemp("whole")
    database = open_database("", folder, sharded=False)
    row = {"time": 0.0, "kind": "reset", "stream": "s", "model": "m", "action": "reset", "figures": "{}"}
    with database.engine.begin() as connection:
        connection.execute(insert(EVENTS), [{**row, "reason": "x" * 1000}] * 120)
    database.close()
    assert not (folder / "acclimate.db-wal").exists()
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def emptied(file):
    file.write_bytes(b"")


def cut_in_half(file):
    os.truncate(file, file.stat().st_size // 2)


def cut_within_a_page(file):
    os.truncate(file, file.stat().st_size - PAGE // 2)


def zeroed_from_the_start(file):
    file.write_bytes(bytes(PAGE) + file.read_bytes()[PAGE:])


def zeroed_pages_within(file):
    content = bytearray(file.read_bytes())
    for page in range(2, len(content) // PAGE, 3):
        content[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    file.write_bytes(content)


def zeroed_whole(file):
    file.write_bytes(bytes(file.stat().st_size))


def random_bytes(file):
    file.write_bytes(os.urandom(file.stat().st_size))


def random_page_within(file):
    content = bytearray(file.read_bytes())
    content[3 * PAGE : 4 * PAGE] = b"\x5a" * PAGE
    file.write_bytes(content)


def no_database(file):
    file.write_text("streams: []\n")


DAMAGES = [
    emptied, cut_in_half, cut_within_a_page, zeroed_from_the_start, zeroed_pages_within, zeroed_whole, random_bytes,
    random_page_within, no_database,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_catalogue_is_refused_by_one_sentence_that_names_the_file_and_the_way_on(folder, damage):
    file = folder / "acclimate.db"
    damage(file)
    before = file.read_bytes()

    with pytest.raises(SettingsError) as refused:
        open_database("", folder, sharded=False)

    said = str(refused.value)
    assert str(file) in said
    assert "empty (0 bytes)" in said if damage is emptied else "is damaged (" in said
    assert "put back a backup" in said
    assert "\n" not in said
    assert "--new-catalogue" in said
    assert file.read_bytes() == before


def test_a_catalogue_that_is_whole_is_opened(folder):
    open_database("", folder, sharded=False).close()


def test_a_catalogue_that_a_killed_process_left_is_opened_with_all_that_was_committed(tmp_path):
    left = tmp_path / "left"
    database = open_database("", tmp_path / "data", sharded=False)
    shutil.copytree(tmp_path / "data", left)  # with its write-ahead log, as a kill leaves it
    database.close()

    again = open_database("", left, sharded=False)

    assert again.process == 2
    again.close()


def test_a_catalogue_of_a_newer_version_is_refused_and_left_as_it_was(folder):
    with sqlite3.connect(folder / "acclimate.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    with pytest.raises(SettingsError, match=r"has schema 9999.*a newer version made it; start that version"):
        open_database("", folder, sharded=False)

    with sqlite3.connect(folder / "acclimate.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()


def removed(file):
    file.unlink()


def replaced(file):
    copy = file.with_suffix(".copy")
    shutil.copy(file, copy)
    copy.replace(file)


def folder_removed(file):
    shutil.rmtree(file.parent)


@pytest.mark.parametrize("lose", [removed, replaced, folder_removed])
def test_nothing_is_written_to_a_catalogue_that_is_gone_or_another_one(folder, lose):
    file = folder / "acclimate.db"
    database = open_database("", folder, sharded=False)
    lose(file)

    for write in (lambda c: c.execute(insert(PROCESSES).values(started=0.0)), lambda c: c.execute(select(PROCESSES))):
        with (
            pytest.raises(StoreDownError, match="its file is gone or was replaced"),
            database.engine.begin() as connection,
        ):
            write(connection)
    database.engine.dispose()
    with pytest.raises(StoreDownError), database.engine.connect():
        pass

    assert file.exists() == (lose is replaced), "a new connection made an empty file"
    database.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


@pytest.fixture
def learned(bundle, tmp_path):
    """A data folder with a stream that was kept."""
    with application(tmp_path, bundle) as api:
        api.infer(images(2), "s")
    return tmp_path / "data"


def catalogue_without_streams(folder):
    with sqlite3.connect(folder / "acclimate.db") as connection:
        connection.execute("DELETE FROM streams")
    connection.close()


def no_catalogue(folder):
    (folder / "acclimate.db").unlink()


@pytest.mark.parametrize("lose", [catalogue_without_streams, no_catalogue])
def test_checkpoints_beside_a_catalogue_that_knows_no_streams_are_not_passed_over_in_silence(
    bundle, learned, tmp_path, lose
):
    lose(learned)
    checkpoints = sorted((learned / "checkpoints").iterdir())

    said = r"knows no streams, but there are 1 checkpoints .*--new-catalogue"
    with pytest.raises(SettingsError, match=said), application(tmp_path, bundle):
        pass
    with application(tmp_path, bundle, new_catalogue=True) as api:
        assert api.ids() == []
    assert sorted((learned / "checkpoints").iterdir()) == checkpoints


def test_an_empty_catalogue_is_begun_anew_where_that_was_asked_for(bundle, learned, tmp_path):
    emptied(learned / "acclimate.db")

    with pytest.raises(SettingsError, match="is empty"), application(tmp_path, bundle):
        pass
    with application(tmp_path, bundle, new_catalogue=True) as api:
        assert api.ids() == []


def test_checkpoints_of_streams_that_ended_are_no_reason_to_refuse(bundle, learned, tmp_path):
    with application(tmp_path, bundle) as api:
        assert api("DELETE", "/v1/streams/s").status_code == 204
    assert list((learned / "checkpoints").iterdir())

    with application(tmp_path, bundle) as api:
        assert api.ids() == []


def folder_moved_away(folder):
    folder.rename(folder.with_name("moved"))


def moved_back(folder):
    folder.with_name("moved").rename(folder)


def ready(api):
    response = api("GET", "/v2/health/ready")
    return response.status_code, response.json()


def test_a_server_without_its_data_folder_is_not_ready_says_why_and_acknowledges_nothing_durable(bundle, tmp_path):
    reason = "the data folder or the catalogue is gone or was replaced; put it back, or restart the server"
    with capture_logs() as logs, application(tmp_path, bundle) as api:
        api.create(id="s", durability="sync")
        assert ready(api) == (200, {"ready": True})
        folder_moved_away(tmp_path / "data")
        wait(api, lambda: ready(api) == (503, {"ready": False, "reason": reason}))
        refused = api("POST", INFER, json=infer_body(images(2), "s"))
        moved_back(tmp_path / "data")
        wait(api, lambda: ready(api) == (200, {"ready": True}))
        answered = api.infer(images(2), "s")

    assert refused.status_code in {503, 507}
    assert answered["parameters"]["tta_durable_generation"] == 1
    (line,) = [line for line in logs if line["event"] == "store_lost"]
    assert line["found"] == f"{tmp_path / 'data'} is gone"
    assert [line["event"] for line in logs if line["event"] == "store_is_back"] == ["store_is_back"]


def test_a_snapshot_of_a_newer_version_is_refused_in_words_and_hides_no_other(bundle, learned, tmp_path):
    with application(tmp_path, bundle) as api:
        newer, known = (api("POST", "/v1/streams/s/snapshots").json()["id"] for _ in range(2))
    with sqlite3.connect(learned / "acclimate.db") as connection:
        change = "UPDATE snapshots SET manifest = replace(manifest, 'snapshot-1', 'snapshot-2') WHERE id = ?"
        connection.execute(change, [newer])
    connection.close()

    with application(tmp_path, bundle) as api:
        listed = api("GET", "/v1/streams/s/snapshots").json()["items"]
        refused = api("GET", f"/v1/snapshots/{newer}")

    assert [snapshot["id"] for snapshot in listed] == [known]
    assert refused.status_code == 422
    assert "format is 'acclimate-snapshot-2', expected 'acclimate-snapshot-1'" in refused.json()["error"]


@pytest.mark.e2e
def test_a_server_says_what_is_wrong_in_one_line_and_exits_with_2(folder):
    cut_in_half(folder / "acclimate.db")
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--data", str(folder)]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "acclimate.db is damaged" in line
