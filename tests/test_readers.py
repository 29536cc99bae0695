"""Threads that read for replays: every outcome comes back, once, to the side that asked."""

import threading

import pytest

from server.node.readers import Readers


class Waker:
    """What the plane is for the server: it is told from another thread that there is something to take."""

    def __init__(self):
        self.calls = threading.Semaphore(0)

    def wait(self, times=1):
        for _ in range(times):
            assert self.calls.acquire(timeout=20)


@pytest.fixture
def waker():
    return Waker()


@pytest.fixture
def readers(waker):
    readers = Readers(2, waker.calls.release)
    yield readers
    readers.close()


def test_every_result_reaches_its_asker_in_the_taking_thread(readers, waker):
    found = []
    for n in range(20):
        readers.start(lambda n=n: (n, threading.get_ident()), lambda *outcome: found.append(outcome))
    waker.wait(20)
    assert found == []
    readers.take()
    assert sorted(result[0] for result, _ in found) == list(range(20))
    assert all(error is None for _, error in found)
    threads = {result[1] for result, _ in found}
    assert threading.get_ident() not in threads
    assert len(threads) <= 2
    readers.take()
    assert len(found) == 20


def test_what_was_raised_comes_back_and_ends_nothing(readers, waker):
    found = []
    readers.start(lambda: 1 // 0, lambda *outcome: found.append(outcome))
    readers.start(lambda: "fine", lambda *outcome: found.append(outcome))
    waker.wait(2)
    readers.take()
    by_result = dict(found)
    assert by_result.pop("fine") is None
    assert isinstance(by_result.pop(None), ZeroDivisionError)


def test_failing_asker_does_not_cost_others_their_outcomes(readers, waker, caplog):
    found = []

    def fail(result, error):
        raise RuntimeError("a bug")

    for then in (fail, lambda *outcome: found.append(outcome)):
        readers.start(lambda: 5, then)
        waker.wait()
    readers.take()
    readers.take()  # to tell of a bug may have taken all of the first turn
    assert found == [(5, None)]
    assert "a bug" in caplog.text


def test_closing_waits_for_what_has_begun_and_ends_the_threads(waker):
    before = threading.active_count()
    readers, entered, release = Readers(4, waker.calls.release), threading.Event(), threading.Event()

    def work():
        entered.set()
        assert release.wait(20)
        return "done"

    found = []
    readers.start(work, lambda *outcome: found.append(outcome))
    assert entered.wait(20)
    closing = threading.Thread(target=readers.close)
    closing.start()
    release.set()
    closing.join(20)
    assert not closing.is_alive()
    assert threading.active_count() == before
    readers.take()
    assert found == [("done", None)]
    readers.start(work, lambda *outcome: found.append(outcome))
    assert threading.active_count() == before
