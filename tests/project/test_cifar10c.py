"""The CIFAR-10-C benchmark on a tiny made folder: what it reads, in which order, and its arithmetic."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from adapters import SourceModel
from adapters.errors import OptionError
from benchmarks import cifar10c
from benchmarks.cifar10c import CORRUPTIONS, Order, Result, Run
from benchmarks.resnet20 import ResNet20, load_source_model, read_source_images, with_artefacts

IMAGES = 6


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on busy cores take seconds where one takes milliseconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of severity 5 alone: 6 images a corruption, and a network with random weights."""
    folder = tmp_path_factory.mktemp("cifar10c")
    rng = np.random.default_rng(0)
    for corruption in CORRUPTIONS:
        np.save(folder / f"{corruption}.npy", rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.arange(IMAGES, dtype=np.uint8))
    orders = np.stack([rng.permutation(IMAGES) for _ in CORRUPTIONS]).astype(np.int32)
    np.save(folder / "order_dirichlet_0.1.npy", orders)
    torch.manual_seed(0)
    weights = {name: value for name, value in ResNet20().state_dict().items() if "num_batches" not in name}
    save_file(weights, folder / "resnet20.safetensors")
    return folder


@pytest.fixture(scope="module")
def source(data: Path) -> SourceModel:
    return load_source_model(data / "resnet20.safetensors")


def test_the_network_has_the_published_size(source: SourceModel) -> None:
    assert sum(parameter.numel() for parameter in source.network.parameters()) == 269_722
    assert source.network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_shortcut_takes_every_second_pixel_and_pads_channels_evenly(source: SourceModel) -> None:
    block = source.network.get_submodule("layer2.0")
    x = torch.randn(1, 16, 4, 4)

    shortcut = block._shortcut(x)

    assert torch.equal(shortcut[:, 8:24], x[:, :, ::2, ::2])
    assert not shortcut[:, :8].any()
    assert not shortcut[:, 24:].any()


def test_a_folder_of_severity_5_alone_is_read_whole(data: Path) -> None:
    folder = cifar10c.read_folder(data)

    assert folder.images.shape == (len(CORRUPTIONS) * IMAGES, 32, 32, 3)
    assert torch.equal(folder.labels, torch.arange(IMAGES))
    assert np.array_equal(folder.images[IMAGES : 2 * IMAGES].numpy(), np.load(data / f"{CORRUPTIONS[1]}.npy"))


def test_of_the_full_layout_only_severity_5_is_read(tmp_path: Path) -> None:
    # One pixel an image keeps 50,000 rows small; a row's value tells its severity.
    severities = np.repeat(np.arange(1, 6, dtype=np.uint8), 10_000)
    for corruption in CORRUPTIONS:
        np.save(tmp_path / f"{corruption}.npy", severities.reshape(-1, 1, 1, 1))
    np.save(tmp_path / "labels.npy", severities)

    folder = cifar10c.read_folder(tmp_path)

    assert folder.images.shape == (150_000, 1, 1, 1)
    assert (folder.images == 5).all()
    assert (folder.labels == 5).all()
    assert folder.labels.shape == (10_000,)


def test_a_learner_gets_its_artefact_from_the_source_images(source: SourceModel, tmp_path: Path) -> None:
    assert read_source_images(tmp_path) is None
    np.save(tmp_path / "source_images.npy", np.random.default_rng(1).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "source_labels.npy", np.arange(10, dtype=np.uint8))
    images = read_source_images(tmp_path)
    assert images is not None

    assert with_artefacts(source, cifar10c.read_pipeline("batch+tent"), images, 4).artefacts == {}
    assert with_artefacts(source, cifar10c.read_pipeline("eata"), images, 4).fitted_to("batch").has_artefact("fisher")
    replayed = (
        with_artefacts(source, cifar10c.read_pipeline("rmt"), images, 4)
        .fitted_to("batch")
        .artefacts["rmt.replay.labels"]
    )
    assert replayed.tolist() == list(range(8))


def test_in_iid_order_the_files_follow_each_other(data: Path) -> None:
    assert torch.equal(cifar10c.read_order(data, Order.IID, IMAGES), torch.arange(len(CORRUPTIONS) * IMAGES))


def test_in_correlated_order_each_corruption_is_permuted_within_itself(data: Path) -> None:
    orders = np.load(data / "order_dirichlet_0.1.npy")

    rows = cifar10c.read_order(data, Order.CORRELATED, IMAGES).reshape(-1, IMAGES)

    for corruption, within in enumerate(rows):
        assert (within - corruption * IMAGES).tolist() == orders[corruption].tolist()


def test_an_order_of_another_length_is_refused(data: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"is \(15, 6\), expected \(15, 7\)"):
        cifar10c.read_order(data, Order.CORRELATED, IMAGES + 1)


def test_arrays_of_unequal_length_are_refused(data: Path, tmp_path: Path) -> None:
    for file in data.glob("*.npy"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "fog.npy").unlink()
    np.save(tmp_path / "fog.npy", np.zeros((5, 32, 32, 3), np.uint8))

    with pytest.raises(typer.BadParameter, match=r"fog\.npy has 5 images and labels.npy 6"):
        cifar10c.read_folder(tmp_path)


@pytest.mark.parametrize("order", list(Order))
def test_the_source_models_error_is_that_of_one_forward_in_any_order(
    data: Path, source: SourceModel, order: Order
) -> None:
    folder = cifar10c.read_folder(data)
    standardised = (folder.images.permute(0, 3, 1, 2).float() / 255 - _channels(source.mean)) / _channels(source.std)
    with torch.no_grad():
        wrong = source.network(standardised).argmax(1) != folder.labels.repeat(len(CORRUPTIONS))
    rows = cifar10c.read_order(data, order, IMAGES)

    run = cifar10c.run_stream(cifar10c.read_pipeline("source"), source, folder, rows, 4, lambda _: None)

    assert run.errors == pytest.approx((wrong.reshape(-1, IMAGES).double().mean(1) * 100).tolist())
    assert run.error == pytest.approx(wrong.double().mean().item() * 100)


def test_batches_run_across_borders_and_the_last_is_smaller(data: Path, source: SourceModel) -> None:
    folder = cifar10c.read_folder(data)
    rows = cifar10c.read_order(data, Order.IID, IMAGES)
    sizes: list[int] = []

    cifar10c.run_stream(cifar10c.read_pipeline("batch"), source, folder, rows, 64, sizes.append)

    assert sizes == [64, 26]


def test_the_stream_is_continual_so_that_an_early_order_changes_late_answers(data: Path, source: SourceModel) -> None:
    folder = cifar10c.read_folder(data)
    adapter = cifar10c.read_pipeline("ema,ema.momentum=0.9")
    prepared = adapter.prepare(source)
    rows = cifar10c.read_order(data, Order.IID, IMAGES)
    x = folder.images[rows[-2:]].permute(0, 3, 1, 2).float() / 255
    fresh, _ = adapter.step(prepared, adapter.init(prepared), x)
    seen: list[torch.Tensor] = []

    class Spy:
        seed = 0

        prepare, init = adapter.prepare, adapter.init

        @staticmethod
        def step(*arguments):
            output, state = adapter.step(*arguments)
            seen.append(output.logits)
            return output, state

    cifar10c.run_stream(Spy(), source, folder, rows, 4, lambda _: None)

    assert seen[-1].shape == fresh.logits.shape == (2, 10)
    assert not torch.allclose(seen[-1], fresh.logits)


def test_only_pipelines_with_a_random_start_are_run_on_several_seeds(source: SourceModel) -> None:
    assert cifar10c.is_random("unmix_tns", source)
    assert not cifar10c.is_random("batch+tent", source)


def test_options_are_read_as_json_and_else_as_text() -> None:
    adapter = cifar10c.read_pipeline("batch+tent+lame,tent.lr=1e-2,tent.nesterov=true,lame.kernel=knn")

    assert adapter.learner.options.lr == 0.01
    assert adapter.learner.options.nesterov is True
    assert adapter.output.options.kernel == "knn"


@pytest.mark.parametrize("text", ["tent,lr=1", "tent,tent.lr", "tent,tent.lr=", "tent,seed.x=1", "tent,.lr=1"])
def test_a_malformed_option_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"expected PART\.OPTION=VALUE"):
        cifar10c.read_pipeline(text)


@pytest.mark.parametrize("text", list(cifar10c.PUBLIC))
def test_every_public_figure_is_found_by_its_pipeline(text: str) -> None:
    for order in Order:
        assert cifar10c.public_figure(cifar10c.read_pipeline(text), order) == cifar10c.PUBLIC[text][order]


def test_a_pipeline_is_compared_by_its_options_however_they_are_written() -> None:
    # 1e-5 is the preset of this pair, 1e-3 tent's own default.
    assert cifar10c.public_figure(cifar10c.read_pipeline("tent"), Order.IID) == 35.41
    assert cifar10c.public_figure(cifar10c.read_pipeline("unmix_tns+tent"), Order.IID) == 52.92
    assert cifar10c.public_figure(cifar10c.read_pipeline("batch+eta"), Order.IID) is None


@pytest.mark.parametrize(
    ("errors", "public", "verdict"),
    [
        pytest.param((50.0, 51.0), 50.0, "within", id="mean at the allowance"),
        pytest.param((50.0, 51.2), 50.0, "worse", id="mean above it"),
        pytest.param((40.0, 41.0), 50.0, "better", id="mean far below"),
        pytest.param((50.0, 51.0), None, "-", id="nothing to compare with"),
    ],
)
def test_the_verdict_is_on_the_mean_over_seeds(errors: tuple[float, ...], public: float | None, verdict: str) -> None:
    runs = tuple(Run(seed, (error,), 1.0) for seed, error in enumerate(errors))

    assert Result("unmix_tns", Order.IID, runs, public, 0.5).verdict == verdict


def test_the_command_reports_both_orders_and_writes_json(data: Path, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    arguments = ["--spec", "source", "--spec", "unmix_tns", "--seeds", "2", "--json", str(written)]

    answer = CliRunner().invoke(cifar10c.app, arguments, env={"ACCLIMATE_CIFAR10C": str(data)})

    assert answer.exit_code == 0, answer.output
    results = json.loads(written.read_text())["results"]
    assert [(each["pipeline"], each["order"], len(each["runs"])) for each in results] == [
        ("source", "iid", 1),
        ("source", "correlated", 1),
        ("unmix_tns", "iid", 2),
        ("unmix_tns", "correlated", 2),
    ]
    assert results[0]["verdict"] == "-", "public figures hold for 1,000 images a corruption"
    assert math.isclose(results[0]["error"], results[1]["error"])
    assert list(results[0]["runs"][0]["errors"]) == list(CORRUPTIONS)


def test_the_command_fails_where_an_error_exceeds_the_public_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10c, "PUBLIC_IMAGES", IMAGES)
    monkeypatch.setattr(cifar10c, "PUBLIC", {"source": {Order.IID: 0.0}})

    answer = CliRunner().invoke(cifar10c.app, ["--data", str(data), "--spec", "source", "--order", "iid"])

    assert answer.exit_code == 1
    assert "worse" in answer.output


def test_the_command_names_what_a_folder_lacks(tmp_path: Path) -> None:
    answer = CliRunner().invoke(cifar10c.app, ["--data", str(tmp_path)], env={"COLUMNS": "400"})

    assert answer.exit_code == 2
    assert "holds no labels.npy" in answer.output


def _channels(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values).reshape(-1, 1, 1)
