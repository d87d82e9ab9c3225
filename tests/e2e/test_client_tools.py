"""Clients with large dependencies, each in an environment of its own: perf_analyzer, KServe's, mlserver infer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.bundles import torch_bundle
from tests.serving import images, serving, wait_ready

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]
KSERVE = """
import asyncio, sys
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

async def main(url):
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(url) and await client.is_server_ready(url)
    assert await client.is_model_ready(url, "reference")
    x = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    for binary in (False, True):
        given = InferInput("images", [2, 3, 16, 16], "FP32")
        given.set_data_from_numpy(x, binary_data=binary)
        for number in (1, 1):
            parameters = {"sequence_id": f"kserve-{binary}"}
            request = InferRequest(
                model_name="reference", infer_inputs=[given], request_id=str(number), parameters=parameters
            )
            answer = await client.infer(url, request, model_name="reference")
            outputs = {output.name: output.as_numpy() for output in answer.outputs}
            assert (outputs["logits"].argmax(1) == outputs["labels"].ravel()).all()
    print("answered", answer.id)

asyncio.run(main(sys.argv[1]))
"""

GENERATED = """
import importlib, pkgutil, sys
import generated
from generated.api.v2_data_plane import infer, server_metadata
from generated.models import InferInput, InferRequest, InferResponse

for module in pkgutil.walk_packages(generated.__path__, "generated."):
    importlib.import_module(module.name)
client = generated.Client(base_url=sys.argv[1])
assert server_metadata.sync(client=client).name == "acclimate"
data = [0.5] * (2 * 3 * 16 * 16)
given = InferInput(name="images", shape=[2, 3, 16, 16], datatype="FP32", data=data)
answer = infer.sync("reference", client=client, body=InferRequest(inputs=[given]))
assert isinstance(answer, InferResponse), answer
print("answered", answer.outputs[2].shape[0], answer.outputs[2].name)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    with serving(folder, "--bundle", str(torch_bundle(folder / "bundle"))) as running:
        wait_ready(running)
        yield running


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Make a virtual environment with one package; skip where it cannot be had."""

    def made(package):
        folder = tmp_path_factory.mktemp("environment")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=300)
        command = [folder / "bin" / "pip", "install", "--quiet", "--only-binary=:all:", package]
        installed = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if installed.returncode:
            pytest.skip(f"{package} cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
        return folder / "bin"

    return made


def run(*command, **settings):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False, **settings)


@pytest.fixture(scope="module")
def schema(server, tmp_path_factory):
    """The server's OpenAPI schema, in a file."""
    file = tmp_path_factory.mktemp("schema") / "openapi.json"
    with server.client() as client:
        file.write_bytes(client.get("/openapi.json").content)
    return file


def test_a_generated_python_client_imports_and_calls_the_server(server, environment, schema, tmp_path):
    programs = environment("openapi-python-client")
    settings = {"cwd": tmp_path, "env": {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}}

    made = run(programs / "openapi-python-client", "generate", "--path", schema, "--meta", "none",
               "--output-path", "generated", **settings)  # fmt: skip
    called = run(programs / "python", "-c", GENERATED, server.url, cwd=tmp_path)

    assert made.returncode == 0, made.stdout + made.stderr
    left_out = {line for line in made.stdout.splitlines() if line.startswith(("WARNING", "Unsupported", "Cannot"))}
    assert {line for line in left_out if not line.startswith("WARNING parsing POST /v2/models/")} <= {
        "Unsupported content type image/jpeg", "Unsupported content type image/png",
    }, made.stdout  # fmt: skip
    assert called.returncode == 0, called.stderr
    assert "answered 2 labels" in called.stdout


def test_generated_typescript_types_compile(schema, tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    packages = ("openapi-typescript@^7", "typescript@^5")
    installed = run("npm", "install", "--no-audit", "--no-fund", *packages, cwd=tmp_path)
    if installed.returncode:
        pytest.skip(f"npm cannot install: {installed.stderr.strip().splitlines()[-1]}")

    made = run("npx", "openapi-typescript", schema, "-o", "api.ts", cwd=tmp_path)
    compiled = run("npx", "tsc", "--noEmit", "--strict", "api.ts", cwd=tmp_path)

    assert made.returncode == 0, made.stderr
    assert compiled.returncode == 0, compiled.stdout
    assert "InferResponse" in (tmp_path / "api.ts").read_text()


def test_perf_analyzer_measures_zeros_and_is_told_the_flag_where_it_sends_random_bits(server, environment):
    program = environment("perf-analyzer>=2.48") / "perf_analyzer"
    version = run(program, "--version")
    if version.returncode:
        pytest.skip(f"perf_analyzer does not run here: {version.stderr.strip().splitlines()[-1]}")
    command = [program, "-m", "reference", "-u", server.address, "-i", "http", "--measurement-mode", "count_windows"]
    command += ["--measurement-request-count", "20", "--stability-percentage", "999"]

    random, zero = run(*command), run(*command, "--input-data", "zero")

    assert "perf_analyzer: --input-data zero" in random.stdout + random.stderr
    assert zero.returncode == 0, zero.stderr
    assert "Inferences/Second vs. Client" in zero.stdout


def test_kserves_client_infers_in_json_and_binary_with_a_constant_id(server, environment):
    answered = run(environment("kserve") / "python", "-c", KSERVE, server.url)

    assert answered.returncode == 0, answered.stderr
    assert "answered 1" in answered.stdout


def test_mlserver_infer_answers_a_file_of_requests(server, environment, tmp_path):
    requests, answers = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    tensors = [
        {"name": "images", "shape": [1, 3, 16, 16], "datatype": "FP32", "data": images(1, seed).ravel().tolist()}
        for seed in range(6)
    ]
    requests.write_text("".join(json.dumps({"inputs": [tensor]}) + "\n" for tensor in tensors))
    program = environment("mlserver") / "mlserver"

    done = run(program, "infer", "-u", server.address, "-m", "reference", "-i", requests, "-o", answers, "-s", "2")

    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(told) == len(tensors)
    for answer in told:
        outputs = {output["name"]: np.array(output["data"]) for output in answer["outputs"]}
        assert outputs["logits"].argmax() == outputs["labels"].ravel()[0]
