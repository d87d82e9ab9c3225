"""Send a camera's frames to a server, one at a time, and print what it answers.

    acclimate serve
    python examples/camera_loop.py --stream camera-7

Without a folder of frames the embedded images stand for a camera: clothes, clean and then under 13 corruptions.
"""

import argparse
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.client import Answer, Client, ModelView, RefusedError
from service.demo.drift import drifting

Frame = npt.NDArray[np.uint8]
PAUSES_SECONDS = (0.5, 1, 2, 4, 8, 16)
"""Waits before each further try of a frame: half a minute in all, enough for a restart of the server."""
AWAY = (None, 503)
"""Statuses of refusals that pass: nobody answers, or the server starts, stops or is full."""


def main() -> None:
    """Read the arguments, and send the frames."""
    parser = argparse.ArgumentParser(description="Send a camera's frames to a server, one at a time.")
    parser.add_argument("--url", default="http://localhost:8000", help="the server's address")
    parser.add_argument("--key", help="an API key, where the server wants one")
    parser.add_argument("--stream", default="camera-7", help="the stream's name")
    parser.add_argument("--frames", type=Path, help="a folder of frames, sent in the order of their names")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two frames")
    parser.add_argument("--most", type=int, default=100, help="frames to send")
    given = parser.parse_args()

    with Client(given.url, key=given.key) as client:
        model = client.models()[0]
        for number, frame in enumerate(frames(given.frames, model.input["shape"])):
            if number == given.most:
                break
            try:
                answer = answered(client, model, frame, given.stream)
            except RefusedError as refused:
                print(f"{number:5} refused: {refused}")
            else:
                print(line(number, model.classes[int(answer.outputs["labels"][0])], answer.facts))
            time.sleep(given.pause)


def answered(client: Client, model: ModelView, frame: Frame, stream: str) -> Answer:
    """Send a frame until it is answered. Each try has the same request id: the stream learns from the frame once.

    Raises:
        RefusedError: If it is refused for a reason that does not pass, or for longer than the pauses last.
    """
    ask = partial(client.infer, model.name, model.input["name"], frame[None], stream, uuid.uuid4().hex)
    for pause in PAUSES_SECONDS:
        try:
            return ask()
        except RefusedError as refused:
            if refused.status not in AWAY:
                raise
            time.sleep(pause)
    return ask()


def frames(folder: Path | None, shape: list[int]) -> Iterator[Frame]:
    """Yield frames of a shape (C, H, W)."""
    channels, height, width = shape
    if folder is None:
        yield from (image for batch in drifting(20, 20, severity=4) for image in batch.images)
        return
    for file in sorted(folder.iterdir()):
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB").resize((width, height)))
        yield pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def line(number: int, label: str, facts: Mapping[str, object]) -> str:
    """Say how a frame was answered, what became of its step, and what there is to be warned of."""
    said = f"{number:5} {label:<12} entropy {facts['tta_entropy']:.3f} generation {facts['tta_generation']}"
    return f"{said} {facts['tta_action']} {facts.get('tta_warning', '')}".rstrip()


if __name__ == "__main__":
    main()
