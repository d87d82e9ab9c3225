"""`acclimate export`: writes a bundle's pipeline as one ONNX graph, for a device without Acclimate."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape

from adapters.state import size_bytes
from service.cli.arguments import AllowFactory
from service.errors import UnfitError
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.models.kernels.graphs.cache import Wanted, made_anew
from service.models.kernels.graphs.step import TRIED
from service.offline.export.edge import files
from service.settings import Settings
from service.support.atomic_files import AS_UMASK, write_whole

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def export(
    bundle: Annotated[Path, typer.Argument(help="The bundle folder.")],
    output: Annotated[Path, typer.Option(help="The folder to write to; created if needed.")],
    spec: Annotated[
        str | None, typer.Option(help="The pipeline, such as `unmix_tns+lame`. Default: the bundle's default adapter.")
    ] = None,
    allow_factory: AllowFactory = None,
) -> None:
    """Write a model and its adapter as one ONNX graph, for devices with ONNX Runtime alone.

    The graph takes a batch and the state, and returns answers and the next state. The initial state and a README with
    example code are written next to it. Pipelines that learn by gradients cannot be exported.

    Example: `acclimate export ./my-model --spec unmix_tns+lame --output ./edge`
    """
    settings, console = Settings(), Console()
    torch.set_num_threads(settings.torch_threads)
    model = host(read_bundle(bundle), (*settings.allow_factories, *(allow_factory or [])), settings.torch_threads)
    fitted = model.fit(spec or model.bundle.toml.adapter, {})
    can = fitted.kernels.can
    if can.whole or can.own is None:
        raise UnfitError(f"{can.whole}: its step is no graph; leave the learner out, as in `unmix_tns+lame`")
    if can.graph:
        raise UnfitError(can.graph)
    wanted = Wanted(model.bundle, can.own, model.sample(max(TRIED)))
    with console.status(f"exporting {escape(fitted.spec)}: some seconds to a minute"):
        made = made_anew(wanted, settings.torch_threads)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, written in files(wanted, made).items():
            write_whole(output / name, written, AS_UMASK, lambda _: None)
            console.print(f"{escape(str(output / name))}  {len(written):,} bytes", highlight=False, soft_wrap=True)
    except OSError as error:
        raise UnfitError(f"cannot write to {output}: {error.strerror or error}") from None
    console.print(
        f"{escape(fitted.spec)}: {size_bytes(fitted.initial()):,} bytes of state, compared with the pipeline on "
        f"batches of {min(TRIED)} to {max(TRIED)} images; for {made.least_images} images or more",
        soft_wrap=True,
    )
