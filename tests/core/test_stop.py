"""How a command ends by a signal, wherever it is then."""
import os
import pty
import select
import signal
import subprocess
import sys

import pytest

PATIENCE = 0.3
"""instead of stop.PATIENCE"""
BLOCKED = "m = ctypes.create_string_buffer(64); lock = ctypes.CDLL(None).pthread_mutex_lock; lock(m); print('ready', flush=True); lock(m)"
"""waits for ever outside of Python, as one does for a compiler"""
HERE = {
    "in Python": "print('ready', flush=True); time.sleep(60)",
    "outside of Python": BLOCKED,
    "in a callback whose errors are lost": "gc.callbacks.append(lambda *_: (print('ready', flush=True), time.sleep(60))); gc.collect(); time.sleep(60)",
    "in a library that makes another error of it": "\n  try: print('ready', flush=True); time.sleep(60)\n  except KeyboardInterrupt: raise LookupError",
}


def code(body: str) -> str:
    """Of a command that does this; SIGINT is ignored where these tests run in the background of a shell, and it would be here."""
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    return f"import ctypes, gc, signal, time\nfrom core_jax import cli, stop\nstop.PATIENCE = {PATIENCE}\n{heard}\ndef main(args):\n  {body}\ncli.run(main)"


def begun(body: str) -> subprocess.Popen:
    """The command, once it does this."""
    process = subprocess.Popen([sys.executable, "-c", code(body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


@pytest.mark.parametrize("where", HERE)
def test_ctrl_c_ends_a_command_within_seconds_and_in_one_sentence(where):
    process = begun(HERE[where])
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == "stopped; run the same command again to go on\n" and process.returncode == 1


def test_a_second_ctrl_c_ends_at_once_what_would_save_after_its_step():
    process = begun(f"with stop.StopSignal() as asked: asked.arm(); {BLOCKED}")
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "stopping after the step in hand; Ctrl-C ends at once\n"
    process.send_signal(signal.SIGINT)
    process.stderr.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3 * PATIENCE)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1].startswith("ended at once; ") and process.returncode == 1


def test_a_terminal_has_its_cursor_again():
    """Which a progress bar hides."""
    ours, theirs = pty.openpty()
    body = f"with cli.progress('clips', 1, cli.console()): {BLOCKED}"
    process = subprocess.Popen([sys.executable, "-c", code(body)], stdout=theirs, stderr=subprocess.DEVNULL, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    said = b""
    while b"ready" not in said:
        said += os.read(ours, 1024)
    process.send_signal(signal.SIGINT)
    process.wait(20)
    while select.select([ours], [], [], 0)[0]:
        try:
            said += os.read(ours, 1024)
        except OSError:  # all is read
            break
    os.close(ours)
    assert said.rfind(b"\x1b[?25h") > said.rfind(b"\x1b[?25l") > -1
