"""Work done ahead of time: the same items in the same order, in a thread that gives way, kept up where it pays."""

import os
import threading
import time
from itertools import count, islice

import paddle  # noqa: F401  its OpenMP library is what the tests look at
import pytest

from slim_distill.common import idle
from slim_distill.common.idle import TRIAL, Ahead, why_not_idle

pytestmark = pytest.mark.skipif(idle._openmp() is None, reason="needs Linux and Paddle's OpenMP library")


def used(source, seconds=0.0, how_many=TRIAL + 20):
    """What an `Ahead` makes of a source, each item used for some time; and the Ahead and its lines."""
    lines = []
    ahead = Ahead(lines.append)
    items = []
    for item in islice(ahead.items(source), how_many):
        time.sleep(seconds)
        items.append(item)
    return items, ahead, lines


def test_items_come_in_order_and_none_is_lost_between_the_ways():
    items, ahead, lines = used(count())
    assert items == list(range(TRIAL + 20))
    assert ahead.pays in (True, False)
    assert len(lines) == 1


@pytest.mark.parametrize("length", [0, 1, 4, 5, 6, 11, TRIAL])
def test_a_source_may_end_anywhere(length):
    items, _, _ = used(iter(range(length)))
    assert items == list(range(length))


def slow(here, there):
    """Items that take a different time in this thread and in another one, and say in which they were made."""
    while True:
        apart = threading.current_thread() is not threading.main_thread()
        time.sleep(there if apart else here)
        yield apart


def test_what_can_be_hidden_is_worked_out_ahead():
    items, ahead, lines = used(slow(0.005, 0.005), seconds=0.005)
    assert ahead.pays
    assert all(items[TRIAL:])
    assert items[:TRIAL].count(True) == TRIAL / 2
    before, after = (float(word) for word in lines[0].replace(",", "").split() if word[0].isdigit())
    assert before < after


def test_what_takes_longer_beside_than_before_is_not():
    items, ahead, _ = used(slow(0.001, 0.01), seconds=0.001)
    assert ahead.pays is False
    assert not any(items[TRIAL:])
    again = list(islice(ahead.items(slow(0.0, 0.0)), 5))
    assert again == [False] * 5


@pytest.mark.parametrize(("share", "pays"), [(0.99, False), (0.95, True)])
def test_noise_alone_does_not_choose(monkeypatch, share, pays):
    now = 0.0

    def source():
        while True:
            yield share if threading.current_thread() is not threading.main_thread() else 1.0

    monkeypatch.setattr(idle.time, "perf_counter", lambda: now)
    ahead = Ahead(lambda line: None)
    for number, seconds in enumerate(islice(ahead.items(source()), TRIAL + 1)):
        now += seconds * (1 if number % 3 else 5)  # other work on the machine disturbs every third item
    assert ahead.pays is pays


def test_the_thread_gives_way_and_the_pool_waits_as_before_afterwards():
    library = idle._openmp()
    before = library.kmp_get_blocktime()

    def facts():
        while True:
            yield os.sched_getscheduler(0), library.omp_get_max_threads(), library.kmp_get_blocktime()

    ahead = Ahead(lambda line: None)
    ahead.pays = True
    items = ahead.items(facts())
    assert next(items) == (os.SCHED_IDLE, library.omp_get_max_threads(), 0)
    assert library.kmp_get_blocktime() == 0
    items.close()
    assert library.kmp_get_blocktime() == before
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_an_error_comes_when_its_item_is_due():
    def source():
        yield from (0, 1)
        raise ValueError("the third")

    items = Ahead(lambda line: None).items(source())
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(items)


def test_closing_waits_for_the_item_at_work():
    done = []

    def source():
        for number in count():
            time.sleep(0.02)
            done.append(number)
            yield number

    items = Ahead(lambda line: None).items(source())
    next(items)
    items.close()
    assert done == [0, 1]
    time.sleep(0.05)
    assert done == [0, 1]


def test_reasons_not_to(monkeypatch):
    library = idle._openmp()
    threads = library.omp_get_max_threads()
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    try:
        library.omp_set_num_threads(2)
        assert why_not_idle() == ""
        monkeypatch.setenv("KMP_BLOCKTIME", "1")
        assert why_not_idle() == "KMP_BLOCKTIME is set, and kept as it is"
        monkeypatch.delenv("KMP_BLOCKTIME")

        def refuse(*args):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "sched_setscheduler", refuse)
        expected = "the system refuses threads of idle priority: [Errno 1] Operation not permitted"
        assert why_not_idle() == expected
        library.omp_set_num_threads(1)
        assert why_not_idle() == "there is one thread to compute with, which is never idle"
        monkeypatch.setattr(idle, "_LIBRARY", "libnowhere.so")
        assert why_not_idle() == "libnowhere.so, the OpenMP library of Paddle for Linux, is not loaded"
    finally:
        library.omp_set_num_threads(threads)
