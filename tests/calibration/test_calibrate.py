"""`acclimate calibrate`: what it makes, keeps, skips and refuses, and that its artefacts are what the server uses."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from adapters import SourceImages, create
from service.cli.main import app
from service.errors import BundleError, UnfitError
from service.models.artefacts import RECORD, read_record, reference_digest
from service.models.bundle import read_bundle
from service.models.hosted import host, load_source
from service.settings import EMBEDDED
from tests.applications import application
from tests.bundles import FACTORY, onnx_bundle, torch_bundle
from tests.models import reference_source
from tests.serving import images

LABELLED = np.random.default_rng(0).integers(0, 256, (120, 3, 16, 16), dtype=np.uint8)
LABELS = np.arange(120) % 10
FILES = ["cotta@batch@64", "entropy", "features", "fisher@batch@64", "probe", "reference"]


def calibrate(bundle, data, *options):
    """Run the command; return what it printed. Its refusals are raised."""
    # Two learners unless a test names others: what is claimed here is of the command, not of every learner.
    arguments = ["calibrate", str(bundle), "--data", str(data), "--allow-factory", FACTORY]
    if "--learner" not in options:
        arguments += ["--learner", "eata", "--learner", "cotta"]
    done = CliRunner(env={"COLUMNS": "250", "ACCLIMATE_THREADS": "1"}).invoke(app, [*arguments, *options])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "labelled.npz"
    np.savez(file, images=LABELLED, labels=LABELS)
    return file


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "unlabelled.npz"
    np.savez(file, images=LABELLED)
    return file


@pytest.fixture
def bundle(tmp_path):
    return torch_bundle(tmp_path / "bundle")


@pytest.fixture(scope="module")
def calibrated(data, tmp_path_factory):
    """A bundle that was calibrated, not to be written to, and what the command printed."""
    folder = torch_bundle(tmp_path_factory.mktemp("calibrated") / "reference")
    return folder, calibrate(folder, data, "--probe", "20")


def artefacts(bundle):
    return {file.stem: file for file in sorted((bundle / "artefacts").iterdir())}


def contents(bundle):
    return {name: file.read_bytes() for name, file in artefacts(bundle).items()}


def outcomes(printed):
    """What became of each artefact, by its file's name."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    return {"@".join(filter(None, row[:3])): row[5] for row in cells}


def used_images():
    """The images that artefacts are made from when the probe set has 20: the next 100 of the order."""
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    by_class = [order[order % 10 == label] for label in range(10)]
    rows = torch.stack(by_class, 1).flatten()[20:]
    return SourceImages(torch.from_numpy(LABELLED)[rows], torch.from_numpy(LABELS)[rows])


def under_reference(folder):
    """The reference model under a calibrated bundle's reference statistics."""
    stored = load_file(artefacts(folder)["reference"])
    return replace(reference_source(), artefacts={f"reference.{name}": tensor for name, tensor in stored.items()})


def test_the_artefacts_of_learners_are_what_their_calibration_gives(calibrated):
    folder, printed = calibrated

    assert list(artefacts(folder)) == FILES
    assert outcomes(printed) == dict.fromkeys(FILES, "made")
    for file, spec in (("fisher@batch@64", "batch+eata"), ("cotta@batch@64", "batch+cotta")):
        made = create(spec).calibrate(under_reference(folder), used_images(), 64, lambda _: None)
        stored = load_file(artefacts(folder)[file])
        assert sorted(stored) == sorted(made)
        assert all(torch.equal(stored[name], made[name]) for name in made)


def test_learners_artefacts_are_made_under_the_reference_statistics(calibrated):
    folder, _ = calibrated
    digest = reference_digest(load_file(artefacts(folder)["reference"]))

    under = {name: read_record(file).reference for name, file in artefacts(folder).items()}

    assert under == {name: digest if "@" in name else "" for name in FILES}


def test_a_reference_is_measured_unless_it_is_declined_and_served(bundle, data):
    without = outcomes(calibrate(bundle, data, "--no-reference", "--probe", "20"))
    assert "reference" not in without
    before = host(read_bundle(bundle), [FACTORY], 1)

    with_it = outcomes(calibrate(bundle, data))

    assert {name for name, said in with_it.items() if said == "made"} == {
        "reference",
        "fisher@batch@64",
        "cotta@batch@64",
    }
    after = host(read_bundle(bundle), [FACTORY], 1)
    x = torch.from_numpy(LABELLED[:64]).float() / 255
    batch = [model.fit("batch", {}) for model in (before, after)]
    drift = [float(fitted.step(fitted.initial(), x)[0].signals["drift"]) for fitted in batch]
    assert drift[1] < drift[0] / 10
    assert before.bundle.fingerprint == after.bundle.fingerprint


def test_an_artefact_under_another_reference_is_refused_and_made_again(bundle, data):
    calibrate(bundle, data, "--probe", "20", "--normalizer", "ema")
    reference = artefacts(bundle)["reference"]
    stored = load_file(reference)
    moved = {name: tensor + 1 for name, tensor in stored.items()}
    save_file(moved, reference, metadata={RECORD: read_record(reference).model_dump_json()})

    made_under = r"cotta@ema@64\.safetensors was made under other reference statistics .*run `acclimate calibrate"
    with pytest.raises(BundleError, match=made_under):
        read_bundle(bundle)

    said = outcomes(calibrate(bundle, data, "--no-reference"))
    assert {name for name, what in said.items() if what == "made"} >= {"cotta@ema@64", "fisher@ema@64"}
    assert "reference" in read_bundle(bundle).artefact_names


def test_features_are_those_that_enter_the_classifier(calibrated):
    stored = load_file(artefacts(calibrated[0])["features"])

    used = used_images()
    network = reference_source().network.eval()
    with torch.no_grad():
        seen = network[:-1](used.images.float() / 255)
    # The network normalises in another order of operations than the prepared one.
    torch.testing.assert_close(stored["mean"], seen.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stored["var"], seen.var(0, correction=0), rtol=1e-3, atol=1e-6)
    assert stored["class_counts"].tolist() == [10] * 10
    for label in range(10):
        expected = seen[used.labels == label].mean(0)
        torch.testing.assert_close(stored["class_means"][label], expected, rtol=1e-4, atol=1e-5)


def test_entropy_is_that_of_the_source_models_answers(calibrated):
    stored = load_file(artefacts(calibrated[0])["entropy"])

    with torch.no_grad():
        p = reference_source().network.eval()(used_images().images.float() / 255).softmax(1)
    entropies = -(p * p.log()).sum(1)
    assert stored["quantiles"].shape == (1001,)
    assert bool((stored["quantiles"].diff() >= 0).all())
    # As above.
    torch.testing.assert_close(stored["quantiles"][[0, 500, 1000]], entropies.quantile(torch.tensor([0, 0.5, 1])))
    torch.testing.assert_close(stored["mean"], entropies.mean())
    torch.testing.assert_close(stored["std"], entropies.std(correction=0))
    torch.testing.assert_close(stored["confidence"], p.amax(1).mean())


def test_the_probe_set_is_balanced_and_apart_from_all_else(calibrated):
    stored = load_file(artefacts(calibrated[0])["probe"])

    assert stored["images"].dtype == torch.uint8
    assert stored["images"].shape == (20, 3, 16, 16)
    assert stored["labels"].tolist() == [*range(10), *range(10)]
    used = {image.numpy().tobytes() for image in used_images().images}
    assert not used & {image.numpy().tobytes() for image in stored["images"]}
    own = {image.tobytes(): label for image, label in zip(LABELLED, LABELS, strict=True)}
    assert [own[image.numpy().tobytes()] for image in stored["images"]] == stored["labels"].tolist()


def test_every_file_says_what_it_was_made_from(calibrated):
    folder, _ = calibrated
    records = {name: read_record(file) for name, file in artefacts(folder).items()}

    assert {record.fingerprint for record in records.values()} == {read_bundle(folder).fingerprint}
    assert {name: record.images for name, record in records.items()} == {**dict.fromkeys(FILES, 100), "probe": 20}
    assert (records["fisher@batch@64"].normalizer, records["fisher@batch@64"].batch) == ("batch", 64)
    assert (records["features"].normalizer, records["features"].batch) == ("", 0)
    assert len({record.data for name, record in records.items() if name != "probe"}) == 1


def test_a_second_run_makes_nothing_anew_unless_it_is_told(bundle, data):
    calibrate(bundle, data, "--probe", "20")
    before, times = contents(bundle), [file.stat().st_mtime_ns for file in artefacts(bundle).values()]

    second = calibrate(bundle, data)
    assert set(outcomes(second)) == set(FILES)
    assert all(said.startswith("kept: ") for said in outcomes(second).values())
    assert [file.stat().st_mtime_ns for file in artefacts(bundle).values()] == times

    third = outcomes(calibrate(bundle, data, "--again"))
    assert third.pop("probe").startswith("kept: ")
    assert set(third.values()) == {"made"}
    assert contents(bundle) == before


def test_a_changed_setting_is_made_anew(bundle, data):
    calibrate(bundle, data, "--probe", "20")

    batch = outcomes(calibrate(bundle, data, "--batch", "16"))
    assert {name for name, said in batch.items() if said == "made"} == {"fisher@batch@16", "cotta@batch@16"}

    fewer = outcomes(calibrate(bundle, data, "--images", "50"))
    under_the_old_reference = {"fisher@batch@16", "cotta@batch@16"}
    made = {name for name, said in fewer.items() if said == "made"}
    assert made == set(FILES) - {"probe"} | under_the_old_reference

    probe = outcomes(calibrate(bundle, data, "--images", "50", "--probe", "10"))
    assert set(probe.values()) == {"made"}
    assert len(load_file(artefacts(bundle)["probe"])["labels"]) == 10


def test_artefacts_are_made_under_the_normalizers_and_learners_named(bundle, data):
    calibrate(bundle, data, "--learner", "cotta", "--normalizer", "ema", "--normalizer", "source")

    assert list(artefacts(bundle)) == [
        "cotta@ema@64", "cotta@source@64", "entropy", "features", "probe", "reference"
    ]  # fmt: skip


def test_unless_named_the_normalizers_are_the_learners_own_and_the_bundles(tmp_path, data):
    bundle = torch_bundle(tmp_path / "bundle", adapter="unmix_tns+tent")

    calibrate(bundle, data, "--learner", "eata")

    assert {"fisher@batch@64", "fisher@unmix_tns@64"} <= set(artefacts(bundle))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--learner", "tent"], "no learner with a source artefact 'tent'; there are: .*cotta, .*eata"),
        (["--normalizer", "eata"], "no normalizer 'eata'; there are: alpha, batch"),
        (["--probe", "5"], "no probe set can be made: .*10 classes need one each"),
    ],
)
def test_wrong_names_and_sizes_are_refused_before_anything_is_made(bundle, data, options, said):
    with pytest.raises(UnfitError, match=said):
        calibrate(bundle, data, *options)

    assert not (bundle / "artefacts").exists()


def test_unlabelled_images_make_all_that_needs_no_labels(bundle, unlabelled):
    said = outcomes(calibrate(bundle, unlabelled))

    assert said.pop("probe") == "skipped: the source images have no labels"
    assert set(said.values()) == {"made"}
    assert sorted(load_file(artefacts(bundle)["features"])) == ["mean", "var"]
    with pytest.raises(UnfitError, match="the source images have no labels"):
        calibrate(bundle, unlabelled, "--probe", "20")


def test_of_a_folded_onnx_graph_what_needs_no_inside_is_made_and_drift_is_told(tmp_path):
    bundle = onnx_bundle(tmp_path / "bundle")
    np.savez(tmp_path / "data.npz", images=LABELLED[:60], labels=LABELS[:60])
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert "drift" not in host(read_bundle(bundle), [], 1).answer_as_source(x).signals

    said = outcomes(calibrate(bundle, tmp_path / "data.npz"))

    assert {name for name, what in said.items() if what == "made"} == {"features", "entropy", "probe"}
    assert {"fisher@batch@64", "fisher@source@64", "cotta@source@64"} <= set(said)
    assert all("ONNX graph" in what for what in said.values() if what != "made")
    assert float(host(read_bundle(bundle), [], 1).answer_as_source(x).signals["drift"]) > 0


def test_of_an_onnx_graph_whose_norm_layers_are_there_what_learners_need_is_made(tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(EMBEDDED.parent / "bundle_onnx", bundle)
    grey = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=grey, labels=LABELS[:60])

    said = outcomes(calibrate(bundle, tmp_path / "data.npz"))

    assert {"fisher@batch@64", "cotta@batch@64", "features", "entropy", "probe"} <= set(said)
    assert set(said.values()) == {"made"}
    assert host(read_bundle(bundle), [], 1).fit("batch+eata", {}).degraded == ""


def test_a_probe_set_made_by_hand_is_kept_and_none_of_its_images_used(bundle, data):
    (bundle / "artefacts").mkdir()
    probe = {"images": torch.from_numpy(LABELLED[:30]), "labels": torch.from_numpy(LABELS[:30])}
    save_file(probe, bundle / "artefacts" / "probe.safetensors")
    before = contents(bundle)["probe"]

    said = outcomes(calibrate(bundle, data))

    assert said["probe"] == "kept: --probe N makes another"
    assert contents(bundle)["probe"] == before
    assert read_record(artefacts(bundle)["features"]).images == 90


def retrained(bundle):
    """Change the model, so that it has another fingerprint."""
    weights = load_file(bundle / "model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + 0.1}, bundle / "model.safetensors")


def test_artefacts_of_another_model_are_refused_until_they_are_made_anew(bundle, data):
    calibrate(bundle, data, "--probe", "20", "--normalizer", "batch", "--normalizer", "ema")
    retrained(bundle)

    with pytest.raises(BundleError, match=r"cotta@batch@64\.safetensors was made for another model .*run `acclimate"):
        read_bundle(bundle)

    said = outcomes(calibrate(bundle, data, "--probe", "20"))
    assert {name for name, what in said.items() if what == "made"} == set(FILES)
    assert {name for name, what in said.items() if what.startswith("foreign: ")} == {"fisher@ema@64", "cotta@ema@64"}

    for name in ("fisher@ema@64", "cotta@ema@64"):
        artefacts(bundle)[name].unlink()
    assert set(read_bundle(bundle).artefact_names) == set(FILES)


def test_an_artefact_that_is_not_finite_is_skipped_and_not_written(bundle, data):
    weights = load_file(bundle / "model.safetensors")
    weights["0.weight"] = weights["0.weight"] * float("inf")
    save_file(weights, bundle / "model.safetensors")

    said = outcomes(calibrate(bundle, data))

    assert list(artefacts(bundle)) == ["probe"]
    assert "holds NaN or infinity" in said["fisher@batch@64"]


def test_a_run_that_is_stopped_leaves_whole_files_and_the_next_goes_on(bundle, data, monkeypatch):
    rename = Path.rename
    renamed = []

    def stop_at_third(path, target):
        renamed.append(target)
        if len(renamed) == 3:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop_at_third)
        arguments = ["calibrate", str(bundle), "--data", str(data), "--allow-factory", FACTORY, "--probe", "20"]
        stopped = CliRunner(env={"COLUMNS": "250", "ACCLIMATE_THREADS": "1"}).invoke(app, arguments)

    assert stopped.exit_code == 130
    assert set(outcomes(stopped.output)) == {"probe", "reference"}
    assert list(artefacts(bundle)) == ["probe", "reference"]
    (bundle / "artefacts" / ".writing-left").write_bytes(b"by a process that was killed")
    said = outcomes(calibrate(bundle, data, "--probe", "20"))
    assert {name for name, what in said.items() if what.startswith("kept")} == {"probe", "reference"}
    assert list(artefacts(bundle)) == FILES


def test_a_damaged_artefact_is_made_anew(bundle, data):
    calibrate(bundle, data, "--probe", "20")
    whole = contents(bundle)
    artefacts(bundle)["features"].write_bytes(whole["features"][:-4])

    assert outcomes(calibrate(bundle, data))["features"] == "made"

    assert contents(bundle) == whole


def test_what_was_calibrated_is_what_the_server_uses(calibrated, tmp_path, bundle):
    folder, _ = calibrated
    bare = torch_bundle(tmp_path / "reference")

    warnings = {}
    for name, served in (("bare", bare), ("calibrated", folder)):
        with application(tmp_path / name, served) as api:
            for adapter in ("eata", "cotta"):
                api.create(id=adapter, adapter=adapter)
                warnings[name, adapter] = api.infer(images(4), adapter)["parameters"].get("tta_warning", "")
            listed = api("GET", "/v1/models").json()["items"][0]["artefacts"]
    model = host(read_bundle(folder), [FACTORY], 1)

    assert "no Fisher information" in warnings["bare", "eata"]
    assert "not calibrated" in warnings["bare", "cotta"]
    assert (warnings["calibrated", "eata"], warnings["calibrated", "cotta"]) == ("", "")
    assert model.fit("eata", {}).degraded == model.fit("cotta", {}).degraded == ""
    assert "no Fisher information" in model.fit("ema+eata", {}).degraded
    assert listed == FILES


def test_the_check_of_a_bundle_names_files_and_not_tensors(calibrated):
    runner = CliRunner(env={"COLUMNS": "250", "ACCLIMATE_THREADS": "1"})

    done = runner.invoke(app, ["bundle", "check", str(calibrated[0]), "--allow-factory", FACTORY])

    assert done.exit_code == 0, done.output
    assert ", ".join(FILES) in done.output


def test_a_bundle_whose_default_adapter_needs_the_artefact_can_be_calibrated(tmp_path, data, monkeypatch):
    bundle = torch_bundle(tmp_path / "bundle", adapter="eata")
    learner = type(create("eata").learner)
    monkeypatch.setattr(learner, "needs", type(learner.needs)(affine=True, gradient=True, artefacts=("fisher",)))

    with pytest.raises(BundleError, match="needs the source artefact 'fisher'"):
        host(read_bundle(bundle), [FACTORY], 1)
    calibrate(bundle, data)

    assert host(read_bundle(bundle), [FACTORY], 1).default.spec == "batch+eata"


def test_the_embedded_bundle_ships_calibrated():
    bundle = read_bundle(EMBEDDED)
    records = {file.stem: read_record(file) for file in (EMBEDDED / "artefacts").iterdir() if file.stem != "probe"}
    source = load_source(bundle, ["service.demo.network:build"], 1)

    assert {record.images for record in records.values()} == {2000}
    assert {record.fingerprint for record in records.values()} == {bundle.fingerprint}
    assert {"features", "entropy", "probe"} <= set(bundle.artefact_names)
    assert bundle.artefacts["features.class_counts"].tolist() == [200] * 10
    for normalizer in ("batch", "ema", "unmix_tns"):
        for learner in ("eata", "cotta"):
            assert create(f"{normalizer}+{learner}").prepare(source).degraded == ""
