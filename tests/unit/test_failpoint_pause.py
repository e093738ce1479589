"""A pause stops the very thread that reached the place: it takes no step more until it is woken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

CODE = """
import sys, threading, pathlib
from headrace.failpoints import reach

def work():
    reach("land.synced")
    pathlib.Path(sys.argv[1]).touch()

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_no_step_is_taken_after_a_pause(tmp_path: Path) -> None:
    """Sent to the process, the signal stops the main thread first: every seventh time this one went on."""
    for turn in range(20):
        mark = tmp_path / str(turn)
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, str(mark)],
            env={**os.environ, "HEADRACE_FAILPOINTS": "land.synced=pause"},
        )
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            assert not mark.exists()
            process.send_signal(signal.SIGCONT)
            assert process.wait(30) == 0
            assert mark.exists()
        finally:
            process.kill()
            process.wait()
