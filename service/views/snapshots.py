"""Stored snapshots, as the API answers them."""

from service.views.view import View


class SnapshotView(View):
    """A snapshot in the store."""

    id: str
    stream: str
    name: str
    note: str
    model: str
    adapter: str
    fingerprint: str
    generation: int
    steps: int
    bytes: int
    sha256: str
    created: float
    contains_inputs: bool
    exact: bool


class SnapshotList(View):
    """A page of snapshots, newest first."""

    items: list[SnapshotView]
    next: str | None
