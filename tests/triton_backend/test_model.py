# SPDX-License-Identifier: Apache-2.0
"""The process that runs the model ends with tritonserver, its parent, whatever state it is in."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

DEADLINE_S = 60
WATCHED = (
    "import enginery.triton_backend.model as model; model._ALARM_S = 2; model.end_with_server()"
)


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{WATCHED}\n{textwrap.dedent(code)}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)


def test_it_lives_as_long_as_its_parent() -> None:
    done = run("import time; time.sleep(3); print('alive')")
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_it_ends_when_python_is_stuck() -> None:
    # PyDLL keeps the interpreter's lock while the call waits, as for a lock of a dead server.
    done = run(f"import ctypes; ctypes.PyDLL(None).sleep({10 * DEADLINE_S}); print('alive')")
    assert (done.returncode, done.stdout) == (-signal.SIGALRM, "")


def test_it_ends_when_its_parent_is_killed() -> None:
    child = f"{WATCHED}; import time; print('watching', flush=True); time.sleep({10 * DEADLINE_S})"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "watching\n"
        it.kill()
        assert it.communicate(timeout=DEADLINE_S)[0] == ""  # the child held the pipe, too


def test_a_stall_ends_its_parent_and_tells_why() -> None:
    stalled = "model.end_stalled_server(model.end_with_server(), '/x.json', 'it hangs: /x.json')"
    child = f"{WATCHED}; {stalled}; print('alive')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    command = [sys.executable, "-c", f"{parent}; print('alive')"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")
    assert done.stderr == "watchdog: it hangs: /x.json\n"
