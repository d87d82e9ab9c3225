"""The README cannot lie: its tables are generated, its blocks run."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.project.tables import README, filled
from tests.serving import ROOT, serving, wait_ready

TEXT = README.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_the_tables_are_those_of_the_code():
    assert filled(TEXT) == TEXT, "run: python -m tests.project.tables"


@pytest.mark.parametrize("block", blocks("python"))
def test_the_python_blocks_run(block):
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "torch.Size([32, 10])" in done.stdout


@pytest.mark.e2e
def test_the_bash_blocks_run_against_a_server_and_answer_as_shown(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
    }
    said = []
    with serving(tmp_path, environment={"ACCLIMATE_COMPILED": "true", "ACCLIMATE_GROUP_STREAMS": "1"}) as server:
        wait_ready(server)
        for block in blocks("bash"):
            script = block.replace("localhost:8000", server.address).replace("curl -s", "curl -sS --fail-with-body")
            done = subprocess.run(
                ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            said.append(done.stdout)

    shown, answered = json.loads(blocks("json")[0]), json.loads(said[0])
    assert shown["parameters"].keys() == answered["parameters"].keys()
    assert shown["parameters"]["tta_backend"] == answered["parameters"]["tta_backend"]
    assert [output["name"] for output in shown["outputs"]] == [output["name"] for output in answered["outputs"]]
    assert shown["outputs"][2] == answered["outputs"][2]
    assert '"items":[{"id":' in said[1]


def test_every_link_to_a_file_leads_to_one():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if "://" not in target:
            assert (ROOT / target).exists(), target
