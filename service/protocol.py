"""HTTP/1.1 as uvicorn speaks it, with more of a body read ahead of the application."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

READ_AHEAD = 2**18
"""Bytes of a body. Uvicorn's own 65,536 stop and start a batch of images a dozen times, which takes longer than the
rest of its way through the server."""


class ReadAheadProtocol(HttpToolsProtocol):
    """A connection that stops reading later."""

    def on_body(self, body: bytes) -> None:
        """Take in a piece of a body; go on reading unless too much waits, or a request that came too early."""
        super().on_body(body)
        if not self.pipeline and len(self.cycle.body) < READ_AHEAD:
            self.flow.resume_reading()
