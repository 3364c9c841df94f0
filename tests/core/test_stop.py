"""How a command ends by a signal, wherever it is then."""
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


def begun(body: str) -> subprocess.Popen:
    """A command that does this, once it does."""
    code = f"import ctypes, gc, time\nfrom core_jax import cli, stop\nstop.PATIENCE = {PATIENCE}\ndef main(args):\n  {body}\ncli.run(main)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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
