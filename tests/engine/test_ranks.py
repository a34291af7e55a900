"""What ranks do together, over real sockets: threads stand for processes, or bare interpreters where one must die."""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import paddle
import pytest

from slim_distill.common.errors import ConfigError, DataError, TrainingError
from slim_distill.common.launch import Launch, launched
from slim_distill.engine._links import Link, join, listen
from slim_distill.engine._watch import LOST_RANK_EXIT, Watch
from slim_distill.engine.distributed import Ranks, connect
from slim_distill.engine.evaluate import Detections, Evaluation, score_together
from slim_distill.engine.session import Session

HOST = "127.0.0.1"


def linked(count, use):
    """`use(ranks)` in a thread for each of `count` ranks: what each returned, or the error that it raised."""
    told, results = queue.Queue(), {}

    def publish(port):
        for _ in range(count - 1):
            told.put(port)
        return "secret"

    def body(rank):
        if rank == 0:
            links = listen(HOST, count, ("talk",), publish, 20.0)["talk"]
        else:
            links = {0: join(HOST, told.get(timeout=20), rank, "talk", "secret", 20.0)}
        try:
            results[rank] = use(Ranks(Launch(rank, count), links))
        except TrainingError as error:
            results[rank] = str(error)
        for link in links.values():
            link.close()

    threads = [threading.Thread(target=body, args=(rank,), daemon=True) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == list(range(count))
    return [results[rank] for rank in range(count)]


def test_every_rank_gets_the_answer_that_rank_0_makes_of_all():
    def use(ranks):
        first = ranks.settle(bytes([ranks.rank]) * 300_000, lambda all_: b"".join(part[:1] for part in all_))
        ranks.wait()
        return first, ranks.any(ranks.rank == 2), ranks.any(False)

    assert linked(4, use) == [(b"\0\1\2\3", True, False)] * 4
    assert Ranks().settle(b"x", lambda all_: all_[0] * 2) == b"xx"


def test_an_error_in_the_decision_is_raised_in_every_rank():
    def use(ranks):
        def decide(_):
            raise DataError("no such thing")

        ranks.settle(b"", decide)

    assert linked(3, use) == ["no such thing"] * 3


def test_a_path_is_that_of_rank_0_and_a_rank_that_cannot_see_it_is_named(tmp_path, monkeypatch):
    there = tmp_path / "7"
    there.mkdir()
    assert linked(3, lambda ranks: ranks.same_path(lambda: there if ranks.first else tmp_path)) == [there] * 3
    assert linked(2, lambda ranks: ranks.same_path(lambda: None)) == [None] * 2
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda p: real(p) and threading.current_thread() is not blind[0])
    blind = [None]

    def use(ranks):
        if ranks.rank == 2:
            blind[0] = threading.current_thread()
        return ranks.same_path(lambda: there)

    assert all(f"rank 2 cannot see {there}: output_dir must be on a file system" in said for said in linked(3, use))


def test_drift_of_one_bit_is_found_and_named():
    def use(ranks, wrong):
        session = Session("cpu")
        rows = np.arange(6, dtype="float32")
        if ranks.rank == 1 and wrong:
            rows.view(np.uint32)[3] ^= 1
        session.write({"a": np.ones((2, 2), "float32"), "b": rows})
        ranks.check_drift(session, ["a", "b"], "step 40")
        return "same"

    assert linked(3, lambda ranks: use(ranks, wrong=False)) == ["same"] * 3
    said = linked(3, lambda ranks: use(ranks, wrong=True))
    assert all("step 40: 1 of 2 variables of rank 1 are not those of rank 0: b." in text for text in said)


def test_detections_of_all_ranks_are_scored_as_those_of_one_process_would_be():
    rng = np.random.default_rng(0)
    records = [{"im_id": np.array([100 - i])} for i in range(7)]
    rows = {100 - i: rng.standard_normal((i % 3, 6)).astype("float32") for i in range(7)}
    del rows[97]  # unreadable

    def judge(found):
        text = "".join(f"{im_id}:{boxes.tobytes().hex()};" for im_id, boxes in found.by_image.items())
        return Evaluation(0.1 + 0.2, text, {"a": 1 / 3}, {"mAP": 0.3}, found.ms_per_image)

    expected = judge(Detections(rows, 4.0))

    def use(ranks):
        mine = {im_id: boxes for k, (im_id, boxes) in enumerate(rows.items()) if k % 3 == ranks.rank}
        return score_together(Detections(mine, 4.0 if mine else float("nan")), ranks, records, judge)

    assert linked(3, use) == [expected] * 3
    assert score_together(Detections(rows, 4.0), Ranks(), records, judge) == expected


def test_strangers_are_sent_away_and_a_rank_that_does_not_come_is_named():
    def publish(port):
        def call():
            for hello in (b"GET / HTTP/1.0\r\n\r\n", b'{"token": "guess", "rank": 1, "kind": "talk"}', b"[]"):
                with socket.create_connection((HOST, port)) as connection:
                    link = Link(connection)
                    link.send(hello)
                    with pytest.raises(ConnectionError):
                        link.receive()

        threading.Thread(target=call, daemon=True).start()
        return "secret"

    with pytest.raises(TrainingError, match=r"rank 1, 2 did not call rank 0 within 1 s"):
        listen(HOST, 3, ("talk",), publish, 1.0)
    with pytest.raises(TrainingError, match=r"rank 1 cannot reach rank 0 at 127.0.0.1:9 "):
        join(HOST, 9, 1, "talk", "secret", 1.0)


def test_processes_that_cannot_reach_each_other_are_told_about_the_interface(monkeypatch):
    def refused():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:784] connect [127.0.0.1]:24469:\n Connection refused")

    monkeypatch.setattr(paddle.distributed, "init_parallel_env", refused)
    with pytest.raises(TrainingError, match=r"connect \[127.0.0.1\]:24469: Connection refused\. .*GLOO_SOCKET_IFNAME"):
        connect(5.0, Launch(1, 2, host=HOST))


def test_the_launchers_variables_are_understood_and_checked():
    assert launched({}) == Launch(0, 1, 1, "127.0.0.1")
    given = {"PADDLE_TRAINER_ID": "3", "PADDLE_TRAINERS_NUM": "4", "PADDLE_LOCAL_SIZE": "2"}
    assert launched({**given, "PADDLE_TRAINER_ENDPOINTS": "10.0.0.1:81,10.0.0.2:82"}) == Launch(3, 4, 2, "10.0.0.1")
    for wrong in ({"PADDLE_TRAINER_ID": "4"}, {"PADDLE_TRAINERS_NUM": "many"}):
        with pytest.raises(ConfigError, match="the environment does not describe a launch: PADDLE_TRAINER_ID="):
            launched({**given, **wrong})


def test_pulses_are_not_answered_by_pulses():
    with socket.create_server((HOST, 0)) as server:
        sockets = [socket.create_connection(server.getsockname()), server.accept()[0]]
    said = []

    class Counting(Watch):
        def _say(self, message):
            said.append(self.rank)
            super()._say(message)

    watches = [Counting(rank, {1 - rank: Link(end)}, timeout_s=5.0) for rank, end in enumerate(sockets)]
    for watch in watches:
        watch.start()
    time.sleep(1.5)
    count = len(said)
    for watch in watches:
        watch.leave()
        watch.join(10)
    assert 2 <= count <= 20  # one at once and one each second; thousands when each pulse brings on another


WATCHED = """
import sys, time
from slim_distill.engine._links import join, listen
from slim_distill.engine._watch import Watch
rank, how = int(sys.argv[1]), sys.argv[2]
def publish(port):
    print(port, flush=True)
    return "secret"
if rank == 0:
    links = listen("127.0.0.1", 3, ("watch",), publish, 20.0)["watch"]
else:
    links = {0: join("127.0.0.1", int(sys.argv[3]), rank, "watch", "secret", 20.0)}
watch = Watch(rank, links, timeout_s=1.5)
watch.start()
print("ready", flush=True)
if rank == 1 and how == "hangs":
    watch.limit("step 7")
if rank == 1 and how == "writes":
    watch.limit("writing a checkpoint", 2)
if rank == 1 and how == "gives up":
    watch.leave("DataError: no such image")
    watch.join(10)
    sys.exit(2)
if how == "ends":
    time.sleep(0.2 * rank)
    watch.leave()
    watch.join(10)
    sys.exit(0)
time.sleep(30)
"""


def watched(how):
    """Three processes of which rank 1 does `how`: exit codes, what they wrote, and how long the others lived on."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    started = []

    def start(rank, *more):
        command = [sys.executable, "-c", WATCHED, str(rank), how, *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    try:
        port = start(0).stdout.readline().strip()
        for rank in (1, 2):
            start(rank, port)
        for process in started:
            assert process.stdout.readline() == "ready\n"
        since = time.monotonic()
        if how in ("dies", "stops"):
            started[1].send_signal(signal.SIGKILL if how == "dies" else signal.SIGSTOP)
        for process in (started[0], started[2]):
            process.wait(20)
        lived_s = time.monotonic() - since
        started[1].send_signal(signal.SIGCONT)
        said = [process.communicate(timeout=20)[1] for process in started]
        return [process.returncode for process in started], said, lived_s
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


@pytest.mark.parametrize(
    ("how", "codes", "reason", "least_s"),
    [
        ("dies", [LOST_RANK_EXIT, -signal.SIGKILL, LOST_RANK_EXIT], "rank 1 is gone: its process was killed", 0.0),
        ("stops", [LOST_RANK_EXIT] * 3, "rank 1 has been silent for 1.5 s: it hangs", 1.0),
        ("hangs", [LOST_RANK_EXIT] * 3, "rank 1 hangs: step 7 has taken more than 1.5 s", 0.5),
        ("writes", [LOST_RANK_EXIT] * 3, "rank 1 hangs: writing a checkpoint has taken more than 3 s", 2.0),
        ("gives up", [LOST_RANK_EXIT, 2, LOST_RANK_EXIT], "rank 1 gave up: DataError: no such image", 2.0),
        ("ends", [0, 0, 0], "", 0.0),
    ],
)
def test_the_others_stop_and_say_why(how, codes, reason, least_s):
    found, said, lived_s = watched(how)
    assert found == codes
    assert least_s <= lived_s < 10
    for text in (said[0], said[2]):
        assert reason in text
        assert ("start again with -r auto" in text) is (reason != "")
