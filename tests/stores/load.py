"""Clients under way while something happens to the server: what each was told, and what was cut off."""

import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import httpx

from tests.stores.requests import Answer, Request, answer_of, post

SEEDS_PER_SENDER = 1_000_000
LONGEST_PAUSE_SECONDS = 0.2


class Player(Protocol):
    """Something that calls a server until it is told to stop, or cut off."""

    def play(self, client: httpx.Client, stop: threading.Event) -> None:
        """Call and call again."""


class Sender:
    """Sends batches to one stream, one at a time; what was not answered is sent again first, with its id."""

    def __init__(self, stream: str, number: int, tolerated: frozenset[int] = frozenset()) -> None:
        self.stream = stream
        self.acknowledged: list[Answer] = []
        self.refusals: list[httpx.Response] = []
        self.unanswered: Request | None = None
        self._number = number
        self._tolerated = tolerated
        self._made = 0

    def play(self, client: httpx.Client, stop: threading.Event) -> None:
        """Send until told to stop, or cut off; after a refusal, if it is tolerated, wait as a good client does."""
        pauses = random.Random(self._number)
        while not stop.is_set():
            try:
                if self.send(client) is None:
                    stop.wait(pauses.uniform(0, LONGEST_PAUSE_SECONDS))
            except httpx.TransportError:
                return

    def send(self, client: httpx.Client) -> Answer | None:
        """Send what is unanswered, or else a new request; return its answer, or None if it was refused."""
        request = self.unanswered or self._new()
        self.unanswered = request
        response = post(client, request)
        if response.status_code != 200:
            assert response.status_code in self._tolerated, f"{request}: {response.status_code} {response.text}"
            self.refusals.append(response)
            return None
        answer = answer_of(request, response)
        self.acknowledged.append(answer)
        self.unanswered = None
        return answer

    def _new(self) -> Request:
        self._made += 1
        seed = self._number * SEEDS_PER_SENDER + self._made
        return Request(self.stream, f"{self.stream}-{self._number}-{self._made}", seed)


class Snapshotter:
    """Takes snapshots of streams in turn, and deletes old ones; knows what must be there and what must not."""

    def __init__(self, streams: Sequence[str], kept: int = 12) -> None:
        self._streams = streams
        self._kept = kept
        self._turn = 0
        self.there: list[str] = []
        self.gone: set[str] = set()

    def play(self, client: httpx.Client, stop: threading.Event) -> None:
        """Take and delete until told to stop, or cut off."""
        while not stop.is_set():
            try:
                self._take(client)
                if len(self.there) > self._kept:
                    self._delete(client, self.there.pop(0))
            except httpx.TransportError:
                return

    def _take(self, client: httpx.Client) -> None:
        self._turn += 1
        taken = client.post(f"/v1/streams/{self._streams[self._turn % len(self._streams)]}/snapshots")
        assert taken.status_code == 201, taken.text
        self.there.append(taken.json()["id"])

    def _delete(self, client: httpx.Client, snapshot: str) -> None:
        deleted = client.delete(f"/v1/snapshots/{snapshot}")
        assert deleted.status_code == 204, deleted.text
        self.gone.add(snapshot)


@contextmanager
def playing(*players: tuple[str, Player]) -> Iterator[None]:
    """Let each player call its server's URL while the block runs; what a player finds wrong is raised at its end."""
    stop = threading.Event()

    def play(url: str, player: Player) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            player.play(client, stop)

    with ThreadPoolExecutor(len(players)) as pool:
        jobs = [pool.submit(play, url, player) for url, player in players]
        try:
            yield
        finally:
            stop.set()
    for job in jobs:
        job.result()
