"""`acclimate calibrate`: computes the source artefacts that methods need."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from service.cli.arguments import AllowFactory
from service.models.bundle import read_without_artefacts
from service.models.hosted import load_source
from service.offline.calibration.data import find_data
from service.offline.calibration.plan import Wanted
from service.offline.calibration.run import IMAGES, PROBE_IMAGES, calibrate_bundle
from service.settings import Settings as ServerSettings

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle folder; its `artefacts/` is written to.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Source images, such as the training images: a folder `<class name>/*.png` (or .jpg), a folder of "
            "images without labels, an .npz with `images` and optionally `labels`, or a folder with images.npy and "
            "optionally labels.npy (or source_images.npy, source_labels.npy). Arrays are uint8 of the model's size."
        ),
    ],
    learner: Annotated[
        list[str] | None, typer.Option(help="A learner to calibrate; may be repeated. Default: all.")
    ] = None,
    normalizer: Annotated[
        list[str] | None,
        typer.Option(
            help="A normalizer to calibrate under; may be repeated. Default: the learner's own and that of "
            "the bundle's default adapter."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Images per batch, as streams will send.")] = 64,
    images: Annotated[int, typer.Option(min=1, help="Most images to use, drawn evenly from the classes.")] = IMAGES,
    probe: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Images of the labelled probe set, used for nothing else. Without this option an existing probe set "
            f"is kept, and a new one gets {PROBE_IMAGES}.",
        ),
    ] = None,
    reference: Annotated[
        bool,
        typer.Option(
            help="Measure the reference statistics: those of every batch-norm layer's inputs on these images. "
            "Normalizers then compare a stream with them instead of the network's running statistics."
        ),
    ] = True,
    again: Annotated[bool, typer.Option("--again", help="Replace existing artefacts.")] = False,
    allow_factory: AllowFactory = None,
) -> None:
    """Compute source artefacts once, so that the server does not need the source data.

    Learners get their own artefacts (`fisher` for EATA, a threshold for CoTTA, ...), each for one normalizer and batch
    size. Batch-norm layers get the reference statistics of these images. Monitors get feature statistics, the source
    model's usual entropy, and a labelled probe set. Each artefact is one file in the bundle's `artefacts/`, tied to the
    model by its fingerprint. Artefacts that were made under other reference statistics are made again.

    An interrupted run can be continued: artefacts from the same data and settings are kept.

    Example: `acclimate calibrate ./my-model --data ./training-images --normalizer batch --normalizer unmix_tns`
    """
    settings = ServerSettings()
    torch.set_num_threads(settings.torch_threads)
    found = read_without_artefacts(bundle)
    source = load_source(found, (*settings.allow_factories, *(allow_factory or [])), settings.torch_threads)
    wanted = Wanted(tuple(learner or ()), tuple(normalizer or ()), batch, reference)
    calibrate_bundle(found, source, find_data(data, found), wanted, images, probe, again=again)
