"""The Dockerfile's own commands, walked without a container engine: build, first start, health, stop, next start.

A temporary folder stands for the image's root: /src, /opt/acclimate, /data and /tmp are folders in it, and a copy of
the running Python stands for the base image's. What differs from a container, and why:

- pip asks the index it is configured with, not the Dockerfile's extra one: only the former can be reached here.
- The server listens on loopback: a test opens no port to the network.
- The final stage's RUN, which makes the user and gives it /data, is left to the test: it would change this machine.
- When root runs the test, the server runs as the Dockerfile's user and can write to nothing but /data and /tmp;
  otherwise the listing of all files before and after is the only witness.
"""

import json
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.serving import Server, wait_ready

ROOT = Path(__file__).parents[2]
MOVED = ("opt/acclimate", "src", "data", "tmp", "usr/local")
"""The image's folders that lie in the temporary one."""
BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LD_LIBRARY_PATH": "/usr/local/lib", "LANG": "C.UTF-8"}
HERE = {"ACCLIMATE_HOST": "127.0.0.1", "ACCLIMATE_PORT": "0", "ACCLIMATE_THREADS": "1"}
IMAGE = {"name": "input", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0.5] * 28 * 28}
REQUEST = {"inputs": [IMAGE], "parameters": {"sequence_id": "camera"}}
STOP_SECONDS = 30


@dataclass(frozen=True)
class Instruction:
    name: str
    flags: dict[str, str]
    value: str


@dataclass
class Stage:
    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.name == name]

    def last(self, name: str) -> str:
        return self.all(name)[-1].value

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        variables = dict(inherited)
        for instruction in self.all("ENV"):
            pairs = [pair.split("=", 1) for pair in shlex.split(instruction.value)]
            variables |= {name: string.Template(value).substitute(variables) for name, value in pairs}
        return variables


def parse(text: str) -> list[Stage]:
    """Read a Dockerfile's stages; variables are put in where FROM and ENV use them."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    lines = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", "").splitlines()
    for name, rest in (line.split(None, 1) for line in lines if line.strip()):
        flags = list(takewhile(lambda word: word.startswith("--"), rest.split()))
        value = rest.split(None, len(flags))[-1].strip()
        if name == "FROM":
            base, *alias = string.Template(value).substitute(arguments).split()
            stages.append(Stage(base, alias[-1] if alias else ""))
        elif stages:
            stages[-1].instructions.append(Instruction(name, dict(flag[2:].split("=", 1) for flag in flags), value))
        else:
            arguments |= [value.split("=", 1)]
    return stages


BUILDER, FINAL = parse((ROOT / "Dockerfile").read_text())
ENVIRONMENT = FINAL.environment(BASE_ENVIRONMENT)


def ignored(path: Path) -> bool:
    """Tell whether .dockerignore leaves a path out: the last pattern that fits it or a parent decides."""
    verdict = False
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        plain = re.escape(pattern.lstrip("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if pattern and not pattern.startswith("#") and re.fullmatch(f"{plain}(?:/.*)?", path.as_posix()):
            verdict = not pattern.startswith("!")
    return verdict


def copy_context(folder: Path) -> None:
    """Copy what an engine would be sent of this tree."""

    def left_out(where: str, names: list[str]) -> list[str]:
        return [name for name in names if ignored((Path(where) / name).relative_to(ROOT))]

    shutil.copytree(ROOT, folder, ignore=left_out)


def copy_python(folder: Path) -> None:
    """Copy the running Python without the bytecode, tests and packages that the base image does not have either."""
    python, library = f"python3.{sys.version_info.minor}", Path(sysconfig.get_path("stdlib"))
    left_out = shutil.ignore_patterns("__pycache__", "test", "tests", "site-packages", "dist-packages", "config-3*")
    shutil.copytree(library, folder / "lib" / python, ignore=left_out)
    for shared in Path(sys.base_prefix, "lib").glob("libpython3.*.so*"):
        shutil.copy2(shared, folder / "lib")
    (folder / "bin").mkdir()
    shutil.copy2(Path(sys.base_prefix, "bin", python), folder / "bin")
    (folder / "bin" / "python").symlink_to(python)


@dataclass(frozen=True)
class Image:
    """What an engine would make of the Dockerfile, in a folder."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def packages(self) -> Path:
        return next((self.root / "opt/acclimate/lib").glob("python3.*/site-packages"))

    @property
    def user(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        uid, gid = map(int, FINAL.last("USER").split(":"))
        return {"user": uid, "group": gid, "extra_groups": []}

    def moved(self, text: str) -> str:
        return re.sub(rf"(?<![\w./])/(?=({'|'.join(MOVED)})\b)", f"{self.root}/", text)

    def environment(self, **changes: str) -> dict[str, str]:
        moved = {name: self.moved(value) for name, value in ENVIRONMENT.items()}
        return moved | {"TMPDIR": str(self.root / "tmp")} | HERE | changes

    def files(self) -> dict[str, tuple[int, int]]:
        """Return size and time of every file outside /data and /tmp."""
        found = {}
        for folder, below, names in os.walk(self.root):
            if Path(folder) == self.root:
                below[:] = [name for name in below if name not in {"data", "tmp"}]
            for path in (Path(folder, name) for name in names):
                found[str(path)] = (path.lstat().st_size, path.lstat().st_mtime_ns)
        return found


def build(folder: Path, *, pip: str, environment: Mapping[str, str], locked: bool) -> Image:
    """Follow the builder, with `pip` for its `pip install`, and make the folders that the server may write to.

    What the locks name is installed only where `locked` says so; else the test's own packages stand for it.
    """
    image, context, here = Image(folder), folder / "context", Path("/")
    copy_context(context)
    copy_python(image.root / "usr/local")
    (image.root / "opt").mkdir()
    base = {name: image.moved(value) for name, value in BUILDER.environment(BASE_ENVIRONMENT).items()}
    for step in BUILDER.instructions:
        if step.name == "WORKDIR":
            here = Path(image.moved(step.value))
            here.mkdir()
        elif step.name == "COPY":
            *sources, target = step.value.split()
            copy([context / source for source in sources], here / target)
        elif step.name == "RUN":
            command = image.moved(step.value).replace("--index-url ${TORCH_INDEX_URL} ", "")
            if locked or "--require-hashes" not in command:
                run(command.replace("pip install", pip), here, {**os.environ, **base, **environment})
    make_writable(image)
    return image


def copy(sources: list[Path], target: Path) -> None:
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)


def run(command: str, folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def make_writable(image: Image) -> None:
    for name, mode in {"data": 0o700, "tmp": 0o1777}.items():
        (image.root / name).mkdir()
        (image.root / name).chmod(mode)
        if image.user:
            os.chown(image.root / name, image.user["user"], image.user["group"])


@contextmanager
def started(image: Image) -> Iterator[Server]:
    """Run ENTRYPOINT and CMD until the block ends."""
    command = [*json.loads(FINAL.last("ENTRYPOINT")), *json.loads(FINAL.last("CMD"))]
    where, log = image.moved(FINAL.last("WORKDIR")), image.folder / "server.log"
    environment = image.environment(ACCLIMATE_GROUP_STREAMS="1")  # half the graphs: a quicker first start
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": log.open("w"), "text": True}
    with (
        pipes["stderr"],
        subprocess.Popen(command, cwd=where, env=environment, **pipes, **image.user) as process,
    ):
        try:
            lines: list[str] = []
            while not (found := re.search(r"Acclimate listens on (http://\S+)", lines[-1] if lines else "")):
                line = process.stdout.readline()
                assert line, f"the server did not start: {log.read_text()}"
                lines.append(line)
            server = Server(process, found[1], log, lines)
            wait_ready(server)
            yield server
        finally:
            process.kill()


def is_healthy(image: Image, server: Server) -> bool:
    command = json.loads(FINAL.last("HEALTHCHECK").removeprefix("CMD"))
    environment = image.environment(ACCLIMATE_PORT=server.url.rpartition(":")[2])
    return subprocess.run(command, env=environment, capture_output=True, **image.user).returncode == 0


def stop(server: Server) -> None:
    server.process.send_signal(getattr(signal, FINAL.last("STOPSIGNAL")))
    server.process.wait(timeout=STOP_SECONDS)


def printed_keys(server: Server) -> list[str]:
    return re.findall(r"(?i)key.*: (\S+)$", "".join(server.first_lines), flags=re.MULTILINE)


def check_life(image: Image) -> None:
    """Start, use, stop and start again."""
    files = image.files()

    with started(image) as server, server.client() as client:
        (key,) = printed_keys(server)
        assert is_healthy(image, server)
        assert client.post("/v2/models/fashion/infer", json=REQUEST).status_code == 401
        answer = client.post("/v2/models/fashion/infer", json=REQUEST, headers={"X-API-Key": key})
        assert answer.status_code == 200, answer.text
        assert {"name": "probabilities", "shape": [1, 10]}.items() <= answer.json()["outputs"][1].items()
        stop(server)
        assert not is_healthy(image, server)

    with started(image) as server, server.client(headers={"X-API-Key": key}) as client:
        assert printed_keys(server) == []
        assert client.get("/v1/streams/camera").json()["generation"] == 1
        stop(server)

    assert image.files() == files
    assert [path for path in (image.root / "tmp").rglob("*") if path.is_file()] == [], "some library keeps files"
    assert (image.root / "data/keys").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder that other users can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="acclimate-image-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.e2e
def test_the_package_built_as_the_dockerfile_says_lives_as_its_user_on_a_read_only_root(folder: Path) -> None:
    here = sysconfig.get_path("purelib")
    pip = "pip install --ignore-installed"

    image = build(folder, pip=pip, environment={"PYTHONPATH": here}, locked=False)
    (image.packages / "dependencies_of_the_test.pth").write_text(here)

    wheel = {path.relative_to(image.packages).as_posix() for path in image.packages.rglob("*") if path.is_file()}
    assert {"adapters/py.typed", "service/py.typed", "service/demo/stream.npz"} <= wheel
    assert {f"service/demo/bundle/{name}" for name in ("bundle.toml", "model.safetensors")} <= wheel
    assert not [name for name in wheel if name.split("/")[0] in {"tests", "benchmarks", "deploy"}]
    check_life(image)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1200)
def test_the_package_installed_with_all_it_needs_lives_as_the_dockerfiles_user_on_a_read_only_root(
    folder: Path,
) -> None:
    image = build(folder, pip="pip install", environment={}, locked=True)

    check_life(image)


def test_the_image_is_built_in_two_stages_on_one_base_and_ships_only_the_environment() -> None:
    assert BUILDER.base == FINAL.base
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", FINAL.base)
    (copied,) = FINAL.all("COPY")
    assert (copied.flags, copied.value) == ({"from": BUILDER.name}, "/opt/acclimate /opt/acclimate")


def test_an_engine_is_sent_nothing_but_what_the_package_is_built_from(tmp_path: Path) -> None:
    copy_context(tmp_path / "context")

    sent = {path.relative_to(tmp_path / "context") for path in (tmp_path / "context").rglob("*")}
    assert {path.parts[0] for path in sent} == {
        "pyproject.toml", "requirements.lock", "torch.lock", "README.md", "LICENSE", "adapters", "service",
    }  # fmt: skip
    assert not [path for path in sent if path.name == "__pycache__" or path.suffix == ".egg-info"]


def test_the_images_user_is_a_number_and_not_root() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", FINAL.last("USER"))
    assert f"--uid {FINAL.last('USER').split(':')[0]} " in FINAL.last("RUN")


def test_the_images_health_is_the_servers_readiness() -> None:
    assert "'/v2/health/ready'" in FINAL.last("HEALTHCHECK")


def test_every_variable_of_the_image_is_a_setting_and_none_is_a_secret() -> None:
    own = {name for name in ENVIRONMENT if name.startswith("ACCLIMATE_")}
    assert own <= {f"ACCLIMATE_{name.upper()}" for name in Settings.model_fields}

    given = [step.value for stage in (BUILDER, FINAL) for step in (*stage.all("ENV"), *stage.all("ARG"))]
    assert not re.findall(r"(?i)\w*(?:secret|token|password|key)=\S*", " ".join(given))


def test_what_the_image_keeps_lies_in_its_volume() -> None:
    (volume,) = FINAL.last("VOLUME").split()
    assert ENVIRONMENT["ACCLIMATE_DATA"] == volume
    assert ENVIRONMENT["ACCLIMATE_KEYS_FILE"].startswith(f"{volume}/")
    assert ENVIRONMENT["ACCLIMATE_PORT"] == FINAL.last("EXPOSE")


def test_compose_takes_every_right_that_the_server_can_do_without() -> None:
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    (service,) = compose["services"].values()

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert service["volumes"] == [f"{name}:{FINAL.last('VOLUME')}" for name in compose["volumes"]]
    assert service["ports"] == ["127.0.0.1:{0}:{0}".format(FINAL.last("EXPOSE"))]
    assert float(service["stop_grace_period"].rstrip("s")) > Settings.model_fields["drain_seconds"].default
