"""`acclimate demo`, as a new user runs it."""

import re
import subprocess
import sys

import pytest

from tests.serving import ROOT, called

pytestmark = pytest.mark.e2e


def test_the_demo_adapts_resets_and_restores():
    done = subprocess.run(
        [sys.executable, "-m", "service", "demo"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )

    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    reduction = re.search(r"(\d+) % lower", said)
    assert int(reduction[1]) >= 35
    assert "answers differ from the source model's by 0.0e+00" in said
    assert "answers are bit-equal to the snapshot's" in said
    assert all(domain in said for domain in ("clean", "gaussian_noise", "rotation", "clean again"))


def test_a_refusal_is_one_line_and_no_traceback():
    done = called("demo", "--url", "http://127.0.0.1:1")

    assert done.returncode == 2
    assert "no server answers at http://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


COMMANDS = [[], ["serve"], ["demo"], ["calibrate"], ["key"], ["bundle"], ["bundle", "check"]]


@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_every_command_teaches_by_its_help(command):
    done = called(*command, "--help")

    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert len(done.stdout.splitlines()) > 8
