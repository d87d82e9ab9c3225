"""The documentation cannot lie: its blocks run, its links lead somewhere, its site builds strictly."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from PIL import Image

from service.settings import EMBEDDED
from tests.project.generated.commands import walked
from tests.project.pages import CONTRIBUTING, DOCS, PAGES, README, WRITTEN, blocks, short
from tests.project.picture import MOST_BYTES, PICTURE, SIZE, make
from tests.serving import ROOT, serving, wait_ready

START = DOCS / "getting-started.md"
SPEAKING = [page for page in PAGES if blocks(page, "bash") and page != START]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, environment={"ACCLIMATE_COMPILED": "true", "ACCLIMATE_GROUP_STREAMS": "1"}) as running:
        wait_ready(running)
        yield running


@pytest.fixture(scope="module")
def started(server):
    """What the blocks of the first page said; all other pages may go on from there."""
    return ran(START, server)


def ran(page, server):
    """Run a page's bash blocks in the repository's root; return what each said."""
    return [told(["bash", "-e", "-c", addressed(block, server)]) for block in blocks(page, "bash")]


def addressed(block, server):
    return block.replace("localhost:8000", server.address).replace("curl -s", "curl -sS --fail-with-body")


def told(command):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.e2e
def test_the_first_answer_is_as_shown(started):
    shown, answered = json.loads(blocks(START, "json")[0]), json.loads(started[0])

    assert shown["parameters"].keys() == answered["parameters"].keys()
    assert shown["parameters"]["tta_backend"] == answered["parameters"]["tta_backend"]
    assert [output["name"] for output in shown["outputs"]] == [output["name"] for output in answered["outputs"]]
    assert shown["outputs"][2] == answered["outputs"][2]
    assert '"items":[{"id":' in started[1]


@pytest.mark.e2e
@pytest.mark.parametrize("page", [README, *SPEAKING], ids=short)
def test_the_bash_blocks_of_a_page_run_against_a_server(page, server, started):
    assert all(ran(page, server))


@pytest.mark.e2e
@pytest.mark.parametrize("page", [page for page in [README, *PAGES] if blocks(page, "python")], ids=short)
def test_the_python_blocks_of_a_page_print_as_they_say(page, server):
    for block in blocks(page, "python"):
        expected = re.findall(r"^# prints: (.*)$", block, re.MULTILINE)
        assert expected
        assert told([sys.executable, "-c", addressed(block, server)]).splitlines() == expected


def test_the_readme_is_one_page_that_shows_the_demo_a_call_and_five_methods():
    text = README.read_text(encoding="utf-8")

    assert len(text.encode()) <= 8_000
    assert len(blocks(README, "bash")) == 1
    methods = text.partition("## Which method")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\| [^-`]", methods, re.MULTILINE)) == 1 + 5


@pytest.mark.parametrize("page", WRITTEN, ids=short)
def test_every_link_leads_to_a_file(page):
    missing = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]

    assert missing == []


def test_every_decision_is_in_the_index_once():
    index = (DOCS / "adr" / "README.md").read_text()

    missing = [file.name for file in (DOCS / "adr").glob("0*.md") if index.count(f"({file.name})") != 1]

    assert not missing, f"docs/adr/README.md: add a row for each of {missing}"


def test_the_site_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "settings.html").exists()


@pytest.mark.parametrize("kept", [False, True], ids=["committed", "made now"])
def test_the_readmes_picture_is_small_and_shows_the_top_of_a_page(kept, tmp_path):
    picture = tmp_path / "made.webp" if kept else PICTURE
    if kept:
        Image.linear_gradient("L").resize((1280, 4000)).save(tmp_path / "kept.png")
        make(tmp_path / "kept.png", picture)

    assert PICTURE.name in README.read_text(encoding="utf-8")
    assert picture.stat().st_size <= MOST_BYTES
    with Image.open(picture) as opened:
        assert (opened.format, opened.size) == ("WEBP", SIZE)


@pytest.mark.parametrize("page", [README, CONTRIBUTING, *PAGES], ids=short)
def test_every_file_and_test_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"`((?:adapters|service|tests|docs|benchmarks|examples|deploy)/[\w/.-]+)`", text)
    defined = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }

    assert [file for file in files if not (ROOT / file).exists()] == []
    assert set(re.findall(r"`(test_\w+)`", text)) <= defined


def test_the_bundle_that_a_page_shows_is_the_embedded_one():
    assert blocks(DOCS / "your-model.md", "toml") == [(EMBEDDED / "bundle.toml").read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", [*WRITTEN, ROOT / "deploy" / "README.md"], ids=short)
def test_every_command_that_a_page_shows_is_there_with_its_options(page):
    known = {name: {option for each in command.params for option in each.opts} for name, command in walked()}
    for line in re.findall(r"^(?:\w+=\$\()?acclimate (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        words = shlex.split(line, comments=True)
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        name = "events list" if name == "events" else name
        assert name in known, line
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known[name], line
