"""Tests about the code itself: its size, its errors, its imports, and that it runs no code from data."""

import ast
import importlib
import inspect
import pkgutil
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import adapters
import benchmarks
import service
from service import errors
from service.api.problems import STATUS
from tests.serving import ROOT

PACKAGES = (adapters, service, benchmarks)
FILES = sorted(path for package in PACKAGES for path in Path(package.__path__[0]).rglob("*.py"))
FORBIDDEN_MODULES = frozenset({"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"})
FORBIDDEN_CALLS = frozenset({"eval", "exec", "compile", "__import__"})
FORBIDDEN_ATTRIBUTES = frozenset(
    {"torch.load", "torch.jit.load", "torch.hub.load", "yaml.load", "os.system", "os.popen"}
)


def short(path):
    return str(path.relative_to(ROOT))


def modules():
    found = [
        info.name
        for package in PACKAGES
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not info.name.endswith("__main__")
    ]
    return [package.__name__ for package in PACKAGES] + found


def test_no_file_is_over_400_lines_and_half_are_within_120():
    lines = {short(path): len(path.read_text().splitlines()) for path in FILES}

    assert len(lines) > 50
    assert {path: count for path, count in lines.items() if count > 400} == {}, "cut such a file in two, by its ideas"
    assert statistics.median(lines.values()) <= 120


def test_every_refusal_of_the_server_has_its_http_status():
    refusals = {
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.ServiceError) and value is not errors.ServiceError
    }

    names = sorted(refusal.__name__ for refusal in refusals - set(STATUS))
    assert not names, f"add to STATUS in service/api/problems.py the HTTP status of {names}"
    assert set(STATUS) == refusals
    assert all(400 <= status <= 599 for status in STATUS.values())


def test_the_tree_of_refusals_names_each_of_them_in_the_modules_docstring():
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__)

    assert sorted(drawn) == sorted(refusal.__name__ for refusal in STATUS)


@pytest.mark.parametrize("name", modules())
def test_every_module_can_be_imported_and_what_it_exports_is_there_and_sorted(name):
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", []))

    assert exported == sorted(set(exported))
    assert all(hasattr(module, export) for export in exported)


@pytest.mark.parametrize("path", FILES, ids=short)
def test_every_file_says_in_its_first_sentence_what_it_is_for(path):
    said = ast.get_docstring(ast.parse(path.read_text())) or ""

    assert said.partition("\n")[0].rstrip().endswith((".", ":"))


@pytest.mark.parametrize("path", FILES, ids=short)
def test_no_work_is_left_to_do_in_a_comment(path):
    assert re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b.*", path.read_text()) == []


def dotted(node):
    """The name of `a.b.c`, or "" for other expressions."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(tree):
    """What of a file would run code from data, or make it from text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES)
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (
                name for name in names if name.split(".")[0] in FORBIDDEN_MODULES or name in FORBIDDEN_ATTRIBUTES
            )
        if isinstance(node, ast.Attribute) and dotted(node) in FORBIDDEN_ATTRIBUTES:
            yield dotted(node)
        if isinstance(node, ast.Name) and node.id in FORBIDDEN_CALLS:
            yield node.id
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell"):
            value = getattr(node.value, "value", None)
            yield from ([f"{node.arg}={value}"] if value is not False else [])


@pytest.mark.parametrize("path", [path for path in FILES if "benchmarks" not in path.parts], ids=short)
def test_nothing_runs_code_from_data(path):
    assert list(dangers(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", ["pickle"]),
        ("from pickle import loads", ["pickle.loads"]),
        ("from torch import load", ["torch.load"]),
        ("import torch\ntorch.load(file)", ["torch.load"]),
        ("eval('1')", ["eval"]),
        ("run = exec", ["exec"]),
        ("np.load(file, allow_pickle=True)", ["allow_pickle=True"]),
        ("np.load(file, allow_pickle=flag)", ["allow_pickle=None"]),
        ("subprocess.run(command, shell=True)", ["shell=True"]),
        ("np.load(file, allow_pickle=False)\nmodel.eval()\nre.compile('x')\ntorch.compile(f)", []),
    ],
)
def test_the_search_for_dangers_finds_them(code, found):
    assert list(dangers(ast.parse(code))) == found


def test_the_import_contracts_hold():
    command = Path(sys.executable).with_name("lint-imports")

    result = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_the_changelog_names_this_version_or_what_is_unreleased():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings
    assert headings[0] in ("Unreleased", version)
    assert len(headings) == len(set(headings))
