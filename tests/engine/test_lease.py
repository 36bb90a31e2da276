import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from components.storage import Folder
from workflows.engine.lease import Contender, Heartbeat, Holder

_HOLD = """
import sys, time
from components.storage import Folder
from workflows.engine.lease import Contender
assert Contender(Folder(sys.argv[1]), 600.0).acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def _leave_behind(folder: Folder, **facts: object) -> None:
    """A lease as a process somewhere else would have written it."""
    holder = replace(Holder.this_process(0.3), **{"host": "elsewhere", "token": "other", **facts})
    assert folder.create("lease-000001.json", holder.to_json())


def test_one_holds_it_until_it_is_released(folder: Folder) -> None:
    lease = Contender(folder, 60.0).acquire()
    assert lease is not None
    other = Contender(folder, 60.0)
    assert other.acquire() is None
    assert other.holder is not None
    assert other.holder.pid == os.getpid()
    lease.release()
    assert other.acquire() is not None


def test_of_many_contenders_one_wins(folder: Folder) -> None:
    for _ in range(20):
        with ThreadPoolExecutor(16) as pool:
            won = [
                lease for lease in pool.map(lambda _: Contender(folder, 60.0).acquire(), range(16)) if lease
            ]
        assert len(won) == 1
        won[0].release()


def test_of_two_takers_of_a_stale_lease_one_wins(folder: Folder) -> None:
    _leave_behind(folder)
    contenders = [Contender(folder, 60.0) for _ in range(16)]
    assert [each.acquire() for each in contenders] == [None] * 16
    time.sleep(0.35)
    with ThreadPoolExecutor(16) as pool:
        won = [lease for lease in pool.map(Contender.acquire, contenders) if lease]
    assert len(won) == 1


def test_a_killed_process_frees_its_lease_at_once(folder: Folder) -> None:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, folder.uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    contender = Contender(folder, 600.0)
    assert contender.acquire() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert contender.acquire() is not None  # of a period of 600 s


def test_a_recycled_process_id_is_not_the_holder(folder: Folder) -> None:
    mine = Holder.this_process(600.0)
    _leave_behind(folder, host=mine.host, process_started=mine.process_started - 100.0, period_s=600.0)
    assert Contender(folder, 600.0).acquire() is not None


def test_another_host_is_followed_after_one_period_without_a_beat(folder: Folder) -> None:
    # Its clock is an hour ahead: only the contender's own clock may count.
    _leave_behind(folder, time=time.time() + 3600.0)
    contender = Contender(folder, 60.0)
    started = time.monotonic()
    while (lease := contender.acquire()) is None:
        time.sleep(0.02)
    assert 0.3 <= time.monotonic() - started < 30.0
    assert lease.generation == 2


def test_a_heartbeat_keeps_it(folder: Folder) -> None:
    period = 2.0  # seconds: long enough that a busy machine does not make a beat miss it
    with Heartbeat(period) as heartbeat:
        lease = Contender(folder, period).acquire()
        assert lease is not None
        heartbeat.keep(lease)
        contender = Contender(folder, period)
        until = time.monotonic() + 1.5 * period
        while time.monotonic() < until:
            assert contender.acquire() is None
            time.sleep(0.05)
        heartbeat.drop(lease)
        time.sleep(period / 4)
        assert contender.acquire() is None  # sees the last beat
        time.sleep(period * 1.1)
        taken = contender.acquire()
        assert taken is not None
    lease.beat()
    assert lease.lost
    taken.beat()
    assert not taken.lost
    lease.release()  # of a lost lease: must not free the taker's
    assert Contender(folder, 60.0).acquire() is None


def test_what_a_lease_says(folder: Folder) -> None:
    Contender(folder, 7.0).acquire()
    said = json.loads(folder.read("lease-000001.json"))
    assert said["pid"] == os.getpid()
    assert said["period_s"] == 7.0
    assert {"token", "host", "process_started", "time"} <= set(said)
