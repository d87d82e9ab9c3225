"""Catalogues, checkpoints and snapshots that earlier versions wrote are opened with all that they hold."""

import json
import tarfile
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from adapters.state import flatten
from service.storage.backends.database import MIGRATIONS
from tests.applications import application
from tests.bundles import torch_bundle
from tests.earlier.make import STREAMS, last_request

HERE = Path(__file__).parent
SCHEMAS = sorted(file.name.removesuffix(".tar.xz") for file in HERE.glob("*.tar.xz"))


@pytest.fixture(params=SCHEMAS)
def earlier(request, tmp_path):
    """An application on the store of an earlier version, and what that version held in memory."""
    (tmp_path / "data").mkdir()
    with tarfile.open(HERE / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path / "data", filter="data")
    expected = json.loads((tmp_path / "data" / "expected.json").read_text())
    with application(tmp_path, torch_bundle(tmp_path / "reference")) as api:
        yield api, expected


def test_there_is_a_store_of_every_schema():
    revisions = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]

    assert sorted(revisions) == SCHEMAS, "see tests/earlier/make.py"


def test_streams_of_an_earlier_version_go_on_where_they_were(earlier):
    api, expected = earlier

    for name, before in expected["streams"].items():
        told = api.stream(name)
        stream = api.app.state.services.residence.table.find(name)
        monitors = {key: tensor.tolist() for key, tensor in flatten(stream.current.state.monitors).items()}
        there = {key: monitors[key] for key in before["monitors"]}
        assert (told["generation"], told["steps"]) == (before["generation"], before["steps"])
        assert told["waiting_images"] == before["waiting"]
        assert there == before["monitors"]
        assert api.infer(*last_request(name)) == before["answer"]  # out of the log of retries
        x, _, _ = last_request(name)
        assert api.infer(x, name)["parameters"]["tta_generation"] >= before["generation"]
    assert api.app.state.services.residence.table.find("paused").current.state.monitors.pause == 31
    assert sorted(api.ids()) == sorted(STREAMS)


def test_a_snapshot_of_an_earlier_version_is_restored(earlier):
    api, expected = earlier

    answer = api("POST", "/v1/streams/tent/restore", json={"snapshot": expected["snapshot"]["id"]})

    assert answer.status_code == 200, answer.text
    assert answer.json()["steps"] == expected["streams"]["tent"]["steps"]
