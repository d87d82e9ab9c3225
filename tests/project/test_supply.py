"""What the image installs: locked by hashes, within the project's ranges, and listed in a bill of materials."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
IN_IMAGE = ("postgres", "s3")
BUILT_WITH = "setuptools"


def entries(name):
    """Return a lock's entries: each a requirement and its hashes."""
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    return [(Requirement(line.partition(" --hash=")[0]), re.findall(r"--hash=(\S+)", line)) for line in lines if line]


LOCKED = [*entries("requirements.lock"), *entries("torch.lock")]
VERSIONS = {
    canonicalize_name(requirement.name): Version(str(requirement.specifier).removeprefix("=="))
    for requirement, _ in LOCKED
}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_locked_package_has_one_version_and_hashes():
    assert len(VERSIONS) == len(LOCKED) > 40
    for requirement, hashes in LOCKED:
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes)


def test_the_locks_satisfy_the_projects_ranges():
    stated = project()
    wanted = stated["project"]["dependencies"] + stated["build-system"]["requires"]
    for extra in IN_IMAGE:
        wanted += stated["project"]["optional-dependencies"][extra]

    for requirement in map(Requirement, wanted):
        version = VERSIONS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version.public, prereleases=True), (str(requirement), str(version))
    assert BUILT_WITH in VERSIONS, "the image builds the package without a network"


def test_torch_is_the_build_for_the_cpu_and_alone_in_its_lock():
    ((requirement, _),) = entries("torch.lock")

    assert requirement.name == "torch"
    assert VERSIONS["torch"].local == "cpu"
    assert not [name for name in VERSIONS if name.startswith(("nvidia-", "cuda-")) or name == "triton"]


def test_no_lock_names_an_index():
    text = (ROOT / "requirements.lock").read_text() + (ROOT / "torch.lock").read_text()

    assert not re.findall(r"://|^-", text, flags=re.MULTILINE)


@pytest.mark.timeout(120)
def test_the_bill_of_materials_lists_what_the_locks_name(tmp_path):
    """About 6 s of processor time: the tool is slow to start and parses every hash."""
    whole = tmp_path / "whole.lock"
    whole.write_text((ROOT / "requirements.lock").read_text() + (ROOT / "torch.lock").read_text())
    recipe = re.search(r"cyclonedx-py requirements - (.+?)--output-file", (ROOT / "Makefile").read_text(), re.DOTALL)
    options = recipe[1].replace("\\\n", " ").split()

    command = [sys.executable, "-m", "cyclonedx_py", "requirements", str(whole), *options]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    bill = json.loads(made)
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "acclimate"
    assert {canonicalize_name(each["name"]): Version(each["version"]) for each in bill["components"]} == VERSIONS
