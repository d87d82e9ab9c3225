"""`acclimate streams`, `snapshots` and `events` against a real server, as an operator runs them."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version

import httpx
import pytest

from service.cli.main import LATER, loaded
from service.client import Client
from service.demo.drift import drifting
from tests.serving import ROOT, called, serving, wait_ready

pytestmark = pytest.mark.e2e
HELD = ("list", "show", "create", "set", "reset", "delete", "watch")
KEPT = ("list", "take", "show", "restore", "delete", "download", "upload")
TOLD = ("list", "follow")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("operating")) as running:
        wait_ready(running)
        with Client(running.url) as client:
            for part in list(drifting(32, 16, 3))[:4]:
                client.infer("fashion", "input", part.images, "camera-7")
        yield running


def started(server, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ACCLIMATE_URL": server.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(server, *arguments, **variables):
    return called(*arguments, **{"COLUMNS": "120", "ACCLIMATE_URL": server.url, **variables})


def done(server, *arguments, **variables):
    ended = run(server, *arguments, **variables)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def told(server, *arguments):
    return json.loads(done(server, *arguments, "--json"))


def take(server, stream="camera-7"):
    return told(server, "snapshots", "take", stream, "--name", "kept")["id"]


def test_streams_are_listed_for_people_and_as_the_servers_own_json(server):
    table = done(server, "streams", "list")
    listed = told(server, "streams", "list")

    assert all(word in table for word in ("stream", "entropy", "drift", "agreement", "gap", "camera-7", "kB", "used"))
    assert "\x1b" not in table
    assert listed == httpx.get(f"{server.url}/v1/streams").json()["items"]


def test_a_narrow_terminal_gets_fewer_columns_and_is_told_which(server):
    table = done(server, "streams", "list", COLUMNS="60")

    assert "too narrow for: " in table
    assert max(len(line) for line in table.splitlines()) <= 60


def test_a_stream_is_shown_in_full(server):
    shown = done(server, "streams", "show", "camera-7")

    assert all(word in shown for word in ("generation 4, 4 steps", "64 images", "collapse=roll_back", "nats"))
    assert told(server, "streams", "show", "camera-7") == httpx.get(f"{server.url}/v1/streams/camera-7").json()


def test_a_stream_is_created_changed_and_ended(server):
    options = ("-o", "eta.lr=1e-4", "-o", "seed=7")
    created = told(server, "streams", "create", "made", "--adapter", "batch+eta", *options, "--idempotent")
    guarded = told(server, "streams", "set", "made", "--mode", "frozen", "--guard", "collapse=off", "--not-idempotent")
    guarded = told(server, "streams", "set", "made", "--guard", "every=100")
    changed = told(server, "streams", "set", "made", "--option", "eta.d_margin=0.4", "--yes")
    ended = done(server, "streams", "delete", "made", "--yes")

    assert created["options"] == {"eta": {"lr": 1e-4}, "seed": 7}
    assert (created["idempotent"], guarded["idempotent"]) == (True, False)
    assert (guarded["mode"], guarded["guard"]["collapse"], guarded["guard"]["every"]) == ("frozen", "off", 100)
    assert changed["options"] == {"eta": {"lr": 1e-4, "d_margin": 0.4}, "seed": 7}
    assert "made has ended" in ended
    assert httpx.get(f"{server.url}/v1/streams/made").status_code == 404


def test_what_is_lost_is_said_and_nothing_done_without_a_terminal_or_a_yes(server):
    snapshot = take(server)
    before = httpx.get(f"{server.url}/v1/streams/camera-7").json()
    refused = [
        run(server, "streams", "reset", "camera-7"),
        run(server, "streams", "delete", "camera-7"),
        run(server, "streams", "set", "camera-7", "--adapter", "batch"),
        run(server, "snapshots", "restore", "camera-7", snapshot),
        run(server, "snapshots", "delete", snapshot),
    ]

    for ended in refused:
        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == 1
        assert "generation 4, 4 steps" in ended.stderr
        assert "nothing was done; --yes" in ended.stderr
    assert httpx.get(f"{server.url}/v1/streams/camera-7").json() == before
    assert httpx.get(f"{server.url}/v1/snapshots/{snapshot}").status_code == 200


def test_a_stream_that_moved_on_is_left_alone(server):
    refused = run(server, "streams", "reset", "camera-7", "--yes", "--if-generation", "1")

    assert refused.returncode == 2
    assert "generation" in refused.stderr
    assert told(server, "streams", "show", "camera-7")["generation"] == 4


def test_a_snapshot_is_taken_shown_restored_and_removed(server):
    told(server, "streams", "create", "twin")
    snapshot = take(server)
    listed = done(server, "snapshots", "list", "camera-7")
    shown = done(server, "snapshots", "show", snapshot)
    restored = done(server, "snapshots", "restore", "twin", snapshot, "--yes")
    undone = done(server, "streams", "reset", "twin", "--yes")
    removed = done(server, "snapshots", "delete", snapshot, "--yes")

    assert snapshot in listed
    assert "bit for bit" in shown
    assert "4 steps" in restored
    assert "twin is in the source state" in undone
    assert "removed" in removed
    assert snapshot not in [one["id"] for one in told(server, "snapshots", "list", "camera-7")]


def test_a_snapshot_travels_as_a_file_that_is_not_overwritten_by_accident(server, tmp_path):
    snapshot, file = take(server), tmp_path / "kept.safetensors"
    written = done(server, "snapshots", "download", snapshot, str(file))
    again = run(server, "snapshots", "download", snapshot, str(file))
    done(server, "snapshots", "delete", snapshot, "--yes")
    uploaded = told(server, "snapshots", "upload", str(file))

    assert "wrote" in written
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert uploaded["id"] == snapshot


def test_events_are_listed_and_the_word_list_may_be_left_out(server):
    table = done(server, "events", "--last", "1000")
    listed = told(server, "events", "list", "--stream", "camera-7")

    assert "by its first request" in table
    assert {event["stream"] for event in listed} == {"camera-7"}


def test_an_event_is_told_as_it_happens(server):
    newest = max(event["id"] for event in told(server, "events"))
    follower = started(server, "events", "follow", "--since", str(newest), "--count", "1", "--json")
    told(server, "streams", "create", "newcomer")
    said, _ = follower.communicate(timeout=60)

    assert (json.loads(said)["kind"], json.loads(said)["stream"]) == ("created", "newcomer")


def test_watching_prints_a_line_and_its_json(server):
    said = done(server, "streams", "watch", "camera-7", "--count", "1")
    told_once = told(server, "streams", "watch", "camera-7", "--count", "1")

    assert said.split()[0] == "time"
    assert told_once["id"] == "camera-7"


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["streams", "watch", "camera-7"], "time "),
        (["streams", "watch", "camera-7", "--json"], "{"),
        (["events", "follow", "--since", "0"], ""),
        (["events", "follow", "--since", "0", "--json"], "{"),
    ],
    ids=["watch", "watch as JSON", "follow", "follow as JSON"],
)
def test_ctrl_c_ends_what_goes_on_until_it_is_stopped(server, arguments, first):
    process = started(server, *arguments)
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=60)

    assert line.startswith(first)
    assert line.endswith("\n")
    assert (process.returncode, complained) == (0, "")


def test_ctrl_c_while_the_command_is_being_loaded_ends_it_quietly():
    code = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "httpx":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
from service.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["streams", "show", "nope"], "there is no stream 'nope'"),
        (["streams", "create", "x", "--option", "lr"], "expected one such as tent.lr=1e-4"),
        (["streams", "create", "x", "--mode", "sleep"], "'adapt', 'frozen' or 'shadow'"),
        (["streams", "set", "camera-7"], "nothing is given to change"),
        (["snapshots", "upload", "missing.safetensors"], "missing.safetensors cannot be read"),
        (["streams", "list", "--json", "--url", "127.0.0.1:1"], "no server answers at http://127.0.0.1:1"),
        (["streams", "list", "--key-file", "missing"], "the key file missing cannot be read"),
        (["streams", "list", "--url", "ftp://x"], "the server's address is 'ftp://x', expected http://HOST:PORT"),
        (["streams", "list", "--url", "http://"], "the server's address is 'http://', expected http://HOST:PORT"),
        (["streams", "list", "--url", "http://127.0.0.1:1"], ":1: Connection refused; start one with"),
        (["streams", "watch", "x", "--every", "x"], "'--every': 'x', expected a number; see `acclimate streams watch"),
        (["streams", "watch", "x", "--every", "0"], "'--every': '0', expected at least 0.1; see"),
        (["streams", "show"], "Missing argument 'stream'; see `acclimate streams show --help`"),
        (["streams", "shw"], "No such command 'shw'. Did you mean 'show'"),
        (["streams", "list", "--nope"], "No such option: --nope; see `acclimate streams list --help`"),
        (["streams", "create", "x", "--guard", "collapse=explode"], "guard.collapse is 'explode', expected 'off', "),
        (["streams", "create", "../x"], "id is '../x', expected a letter or digit, then"),
        (["models", "nope"], "there is no model 'nope'; served are fashion"),
        (["adapters", "nope"], "there is no part 'nope'; there are: alpha, "),
        (["adapters", "--kind", "x"], "--kind is 'x', expected one of normalizer, learner, output, selector"),
        (["feedback", "camera-7"], "no labels are given; expected REQUEST=LABEL"),
        (["feedback", "camera-7", "r1"], "the label is 'r1', expected REQUEST=LABEL"),
        (["feedback", "camera-7", "--file", "missing"], "missing cannot be read (No such file or directory)"),
    ],
)
def test_an_error_is_one_line_that_says_what_would_be_right(server, arguments, said):
    ended = run(server, *arguments)

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["streams", "show", "nope"],
        ["streams", "set", "nope", "--mode", "frozen"],
        ["streams", "reset", "nope"],
        ["streams", "delete", "nope"],
        ["streams", "watch", "nope", "--json"],
        ["snapshots", "list", "nope"],
        ["snapshots", "list", "nope", "--json"],
        ["snapshots", "take", "nope"],
        ["events", "--stream", "nope"],
        ["events", "list", "--stream", "nope", "--json"],
        ["events", "follow", "--stream", "nope"],
        ["feedback", "nope", "r1=Coat"],
    ],
    ids=" ".join,
)
def test_a_stream_that_is_not_there_is_an_error_in_every_command_that_names_one(server, arguments):
    ended = run(server, *arguments)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "acclimate: there is no stream 'nope'\n"


def test_what_the_server_would_refuse_is_refused_before_anybody_is_asked(server):
    other = told(server, "streams", "create", "of-another-spec", "--adapter", "batch+tent")["id"]
    snapshot = take(server)
    before = httpx.get(f"{server.url}/v1/streams/camera-7").json()
    refused = {
        "no adapter part is named 'tnet'": ("streams", "set", "camera-7", "--adapter", "tnet"),
        "which is no part of": ("streams", "set", "camera-7", "--option", "tent.lr=1"),
        "is at generation 4, not 1": ("streams", "set", "camera-7", "--adapter", "batch", "--if-generation", "1"),
        "mode is 'sleep', expected 'adapt'": ("streams", "set", "camera-7", "--adapter", "batch", "--mode", "sleep"),
        "generation 4, not 2": ("streams", "reset", "camera-7", "--if-generation", "2"),
        "generation 4, not 3": ("streams", "delete", "camera-7", "--if-generation", "3"),
        "the snapshot is of": ("snapshots", "restore", other, snapshot),
    }

    for said, arguments in refused.items():
        ended = run(server, *arguments)
        assert ended.returncode == 2
        assert said in ended.stderr
        assert "--yes" not in ended.stderr
    assert httpx.get(f"{server.url}/v1/streams/camera-7").json() == before


def test_models_and_parts_are_listed_and_shown_in_full(server):
    served, parts = told(server, "models"), told(server, "adapters")

    assert served == httpx.get(f"{server.url}/v1/models").json()["items"]
    assert parts == httpx.get(f"{server.url}/v1/adapters").json()["items"]
    assert "fashion" in done(server, "models")
    assert "T-shirt/top" in done(server, "models", "fashion")
    assert told(server, "models", "fashion") == served[0]
    assert {part["kind"] for part in told(server, "adapters", "--kind", "output")} == {"output"}
    shown = done(server, "adapters", "eata")
    assert "eata.lr" in shown
    assert "default 0.001; 0.0 to 10.0" in shown


def test_labels_are_given_by_request_and_from_a_file(server, tmp_path):
    images = next(drifting(4, 16, 1)).images[:2]
    with Client(server.url) as client:
        for request in ("a=1", "b"):
            client.infer("fashion", "input", images, "labelled", request_id=request)
    file = tmp_path / "labels.json"
    file.write_text('{"b": ["Coat", 3]}')

    shown = done(server, "feedback", "labelled", "a=1=Coat,Bag", "unheard-of=1")
    told_so_far = told(server, "feedback", "labelled", "--file", str(file))

    assert "labels of 2 images" in shown
    assert "unheard-of" in shown
    assert (told_so_far["accepted"], told_so_far["images"]) == (2, 4)
    assert "knows none of the requests" in run(server, "feedback", "labelled", "b=1,2").stderr


def completions(server, *words):
    asked = {
        "_ACCLIMATE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["acclimate", *words]),
        "COMP_CWORD": str(len(words)),
    }
    return done(server, **asked).split()


def test_the_shell_completes_ids_from_the_server_and_is_silent_without_one(server):
    snapshot = take(server)

    assert completions(server, "streams", "show", "came") == ["camera-7"]
    assert completions(server, "snapshots", "restore", "camera-7", snapshot[:6]) == [snapshot]
    assert completions(server, "events", "") == ["list", "follow"]
    assert completions(server, "streams", "show", "--url", "127.0.0.1:1", "came") == []


def test_a_batch_sent_twice_under_one_request_id_is_learned_from_once(server):
    x = next(drifting(16, 16, 1)).images
    with Client(server.url, retries=2) as client:
        first, again = (client.infer("fashion", "input", x, "twice", request_id="r1") for _ in range(2))
        named = client.infer("fashion", "input", x, "twice")
        labelled = client.feedback("twice", {"r1": ["Coat"] * 16, "unheard-of": ["Coat"]})
        history = client.history("twice")

    assert first.id == again.id == "r1"
    assert first.facts["tta_generation"] == again.facts["tta_generation"] == 1
    assert len(named.id) == 32
    assert (labelled.accepted, labelled.unknown) == (16, ["unheard-of"])
    assert len(history.points) == 2


def test_a_key_is_taken_from_a_file_or_the_environment(tmp_path):
    made = called("key").stdout.splitlines()
    secret, line = (said.partition(":")[2].strip() for said in made)
    keys, key = tmp_path / "keys", tmp_path / "key"
    keys.write_text(f"{line}\n")
    key.write_text(f"{secret}\n")
    with serving(tmp_path, "--keys-file", str(keys)) as server:
        wait_ready(server)
        without = run(server, "streams", "list")

        assert without.returncode == 2
        assert "ACCLIMATE_KEY or --key-file" in without.stderr
        assert told(server, "streams", "list", "--key-file", str(key)) == []
        assert json.loads(done(server, "streams", "list", "--json", ACCLIMATE_KEY=secret)) == []
        assert "holds more than a key" in run(server, "streams", "list", "--key-file", str(keys)).stderr


COMMANDS = [["models"], ["adapters"], ["feedback"]] + [
    [group, name] for group, names in (("streams", HELD), ("snapshots", KEPT), ("events", TOLD)) for name in names
]


@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_every_command_teaches_by_an_example(command):
    helped = called(*command, "--help").stdout

    assert f"Example: acclimate {' '.join(command)}" in " ".join(helped.split())
    assert "--key-file" in helped
    assert "--key " not in helped


def test_the_list_of_commands_says_of_each_what_its_own_help_says():
    assert {name: loaded(name).help.splitlines()[0] for name in LATER} == LATER


SERVER = """import service.app
from adapters import create
from tests.models import reference_source
create("batch+tent").prepare(reference_source())"""


@pytest.mark.parametrize(
    ("started", "spared"),
    [
        ("import service.cli.main", {"torch", "fastapi"}),
        ("from service.cli.main import app; app(['--help'], standalone_mode=False)", {"torch", "fastapi"}),
        (SERVER, {"torch._dynamo", "torch._inductor"}),
    ],
    ids=["operators", "help", "server"],
)
def test_operators_do_not_wait_for_torch_nor_servers_for_its_compiler(started, spared):
    code = f"import sys\n{started}\nprint(sorted({spared} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert said.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ACCLIMATE_PORT": "x"}, "ACCLIMATE_PORT is 'x', expected a whole number"),
        ({"ACCLIMATE_MAX_BATCH": "0"}, "ACCLIMATE_MAX_BATCH is '0', expected at least 1"),
        ({"ACCLIMATE_DURABILITY": "x"}, "ACCLIMATE_DURABILITY is 'x', expected 'ephemeral', 'periodic' or 'sync'"),
        ({"ACCLIMATE_BUNDLES": "x"}, 'ACCLIMATE_BUNDLES is \'x\', expected a JSON list such as ["a", "b"]'),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_by_its_variable_with_what_was_expected(variables, said):
    ended = called("serve", **variables)

    assert (ended.returncode, ended.stderr) == (2, f"acclimate: {said}\n")


def test_a_first_key_without_a_keys_file_is_refused():
    ended = called("serve", "--first-key", ACCLIMATE_PORT="0")

    said = "acclimate: --first-key needs a keys file to create; expected --keys-file FILE with it\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", said)


def test_the_version_is_printed():
    said = subprocess.run(
        [sys.executable, "-m", "service", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert said == f"acclimate {version('acclimate')}\n"


def test_a_stream_whose_checkpoint_is_damaged_can_be_reset_and_deleted(tmp_path):
    data = tmp_path / "data"
    with serving(tmp_path, data=data) as server, Client(server.url) as client:
        wait_ready(server)
        client.infer("fashion", "input", next(drifting(4, 16, 1)).images[:2], "damaged")
        client.infer("fashion", "input", next(drifting(4, 16, 1)).images[:2], "unwanted")
    for checkpoint in (data / "checkpoints").iterdir():
        checkpoint.write_bytes(b"broken")
    with serving(tmp_path, data=data) as server:
        wait_ready(server)
        asked = run(server, "streams", "reset", "damaged")
        undone = told(server, "streams", "reset", "damaged", "--yes")
        asked_to_delete = run(server, "streams", "delete", "unwanted")
        deleted = run(server, "streams", "delete", "unwanted", "--yes")
        left = told(server, "streams", "list")

    assert asked.returncode == 2
    assert "is unfit: its checkpoint is damaged" in asked.stderr
    assert "What it has learned is lost. There is no terminal to ask at" in asked.stderr
    assert undone["steps"] == 0
    assert asked_to_delete.returncode == 2
    assert "What it has learned is lost. There is no terminal to ask at" in asked_to_delete.stderr
    assert (deleted.returncode, deleted.stdout) == (0, "unwanted has ended; its snapshots stay\n")
    assert [stream["id"] for stream in left] == ["damaged"]
