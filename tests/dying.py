"""Processes that end while a stream's step is under way, as the journal of steps sees it."""

import os
import signal

from service.storage.step_journal import StepJournal


def dying(folder, *stream_ids, idle=False):
    """Let a process end by SIGKILL while streams are marked, or after they were."""
    child = os.fork()
    if not child:
        try:
            journal = StepJournal(folder)
            with journal.under_way(stream_ids):
                if not idle:
                    os.kill(os.getpid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
