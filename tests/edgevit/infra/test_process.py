import os
import signal
import sys
import threading
import time

import pytest

from edgevit.errors import DeviceError
from edgevit.infra import process


def python(code, *, timeout_s=20, **options):
    return process.run([sys.executable, "-c", code], timeout_s=timeout_s, **options)


def wait_until(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def is_alive(pid):
    """False for a zombie too: it runs no more, whoever reaps it."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_output_and_exit_code_are_returned():
    done = python("import sys; print('out'); print('why\\n', file=sys.stderr); sys.exit(3)")
    assert (done.returncode, done.stdout, done.ending, done.last_error_line) == (3, "out\n", "exit 3", "why")


def test_silent_program_has_no_last_error_line():
    assert python("").last_error_line == ""


def test_bytes_that_are_no_text_do_not_stop_us():
    assert python("import sys; sys.stdout.buffer.write(b'\\xff!')").stdout == "\ufffd!"


def test_more_output_than_a_pipe_holds_arrives_whole():
    assert len(python("print('x' * 1_000_000)").stdout) == 1_000_001


def test_signal_is_named():
    assert python("import os; os.abort()").ending == "signal SIGABRT"


def test_folder_and_environment_are_those_given(tmp_path):
    done = python("import os; print(os.getcwd(), sorted(os.environ)[:1])", cwd=tmp_path, env={"A": "1"})
    assert done.stdout.split()[0] == str(tmp_path.resolve())
    assert "'A'" in done.stdout


def test_missing_program_is_named():
    with pytest.raises(DeviceError, match="cannot start no-such-program"):
        process.run(["no-such-program"], timeout_s=1)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(DeviceError, match="gone: No such file"):
        python("", cwd=tmp_path / "gone")


FAMILY = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_time_out_kills_the_grandchildren_and_tells_the_last_words():
    with pytest.raises(DeviceError, match=r"did not end within 2 s: \d+") as caught:
        python(FAMILY + "print(p.pid, file=sys.stderr, flush=True); time.sleep(60)", timeout_s=2)
    grandchild = int(caught.value.message.rpartition(" ")[2])
    assert wait_until(lambda: not is_alive(grandchild))


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_interrupt_kills_the_whole_group(tmp_path):
    # A test run in the background starts with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    note = tmp_path / "pid"
    code = FAMILY + f"open({str(note)!r}, 'w').write(str(p.pid)); time.sleep(60)"

    def interrupt():
        wait_until(lambda: note.exists() and note.read_text(), 20)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            python(code, timeout_s=60)
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert wait_until(lambda: not is_alive(int(note.read_text())))


def test_stop_ends_the_program_from_another_thread():
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(DeviceError, match="was stopped"):
        python("import time; time.sleep(60)", stop=stop)


def test_time_out_holds_for_a_stoppable_program():
    with pytest.raises(DeviceError, match=r"did not end within 0\.3 s"):
        python("import time; time.sleep(60)", timeout_s=0.3, stop=threading.Event())


def test_a_daemon_left_behind_does_not_hold_us():
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(4)'])"
    start = time.monotonic()
    assert python(code, timeout_s=60).returncode == 0
    assert time.monotonic() - start < 4
