"""What ext.log.dedup promises: one id has one first use within the window, no less and not much longer."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ext.log.dedup import DedupWindow, siphash128
from tests.models.dedup import PlainWindow

KEY = bytes(range(16))
NOW = 1_700_000_000_123
WINDOW = 120_000
WIDTH = 40_000


def at(ms: int, counter: int = 0) -> int:
    return ms << 16 | counter


def add(window: DedupWindow, message_id: str, serial: int, index: int) -> None:
    """At the time that the serial tells."""
    window.add(message_id, serial, index, serial >> 16)


def add_or_find(window: DedupWindow, message_id: str, serial: int, index: int) -> tuple[int, int] | None:
    return window.add_or_find(message_id, serial, index, serial >> 16)


# ---- the hash

# Vectors of the reference implementation (vectors_sip128): key 00..0f, input 00..(n - 1). OpenSSL's SIPHASH, with
# size:16, gives the same.
SIPHASH_128 = {
    0: "a3817f04ba25a8e66df67214c7550293",
    1: "da87c1d86b99af44347659119b22fc45",
    2: "8177228da4a45dc7fca38bdef60affe4",
    3: "9c70b60c5267a94e5f33b6b02985ed51",
    7: "a1f1ebbed8dbc153c0b84aa61ff08239",
    8: "3b62a9ba6258f5610f83e264f31497b4",
    15: "5493e99933b0a8117e08ec0f97cfc3d9",
    16: "6ee2a4ca67b054bbfd3315bf85230577",
    63: "5150d1772f50834a503e069a973fbd7c",
}


@pytest.mark.parametrize("size", SIPHASH_128)
def test_the_hash_is_siphash_2_4_with_128_bits(size: int) -> None:
    assert siphash128(KEY, bytes(range(size))).hex() == SIPHASH_128[size]


def test_hash_depends_on_every_bit_of_key_and_data() -> None:
    data = bytes(range(41))
    hashes = {siphash128(KEY, data)}
    for bit in range(128):
        hashes.add(siphash128((int.from_bytes(KEY, "little") ^ 1 << bit).to_bytes(16, "little"), data))
    for bit in range(8 * 41):
        hashes.add(siphash128(KEY, (int.from_bytes(data, "little") ^ 1 << bit).to_bytes(41, "little")))
    assert len(hashes) == 1 + 128 + 8 * 41


# ---- beside its model


class Machine(RuleBasedStateMachine):
    """Every step is done to the window and to its plain twin; all that can be seen of them is compared."""

    @initialize(window_ms=st.integers(1, 400), buckets=st.integers(2, 6), start=st.sampled_from([0, 5, NOW]))
    def begin(self, window_ms: int, buckets: int, start: int) -> None:
        self.window = DedupWindow(KEY, window_ms, buckets)
        self.twin = PlainWindow(window_ms, buckets)
        self.now = start
        self.serial = 1
        self.next = 0
        self.used: set[str] = set()

    def some_id(self, number: int) -> str:
        if number % 3 == 0:
            message_id = f"für-{number}-😀"
        elif number % 7 == 0:  # nearly counted by a connection
            message_id = f"{('hZ2kQ9w1A', 'hZ2kQ9w1Ab')[number % 2]}:{('', '0')[number % 5 == 0]}{number}:{number % 4}"
        else:
            message_id = f"{('hZ2kQ9w1Ab', 'für-567--', 'hZ2kQ9w1Ac')[number % 2 + number // 40 % 2]}:{number}:0"
        self.used.add(message_id)
        return message_id

    def next_serial(self, step: int) -> int:
        self.serial = max(1, self.serial + step)
        return self.serial

    @rule(
        number=st.integers(0, 60),
        back=st.integers(0, 900),
        count=st.integers(1, 60),
        index=st.sampled_from([0, 0, 5, 999]),
        step=st.sampled_from([1, 1, 3, 1 << 16, 77 << 16, (900 << 16) + 5, 1 << 45, -7, -(1 << 20)]),
    )
    def add_or_find(self, number: int, back: int, count: int, index: int, step: int) -> None:
        at_ms = max(0, self.now - max(0, back - 450))  # half of them now, others older, some too old
        for n in range(number, number + count):
            serial, message_id = self.next_serial(step), self.some_id(n)
            known = self.twin.add_or_find(message_id, serial, index, at_ms)
            assert self.window.add_or_find(message_id, serial, index, at_ms) == known

    @rule(count=st.integers(1, 200), gap=st.sampled_from([0, 0, 1, 63]), step=st.sampled_from([1, 9, 1 << 16, 5 << 16]))
    def count_on(self, count: int, gap: int, step: int) -> None:
        """As a connection does."""
        for _ in range(count):
            self.next += 1 + gap
            message_id, serial = f"hZ2kQ9w1Ad:{self.next}:0", self.next_serial(step)
            self.used.add(message_id)
            assert self.window.add_or_find(message_id, serial, 0, self.now) is None
            self.twin.add_or_find(message_id, serial, 0, self.now)

    @rule(
        base=st.sampled_from(["hZ2kQ9w1Ad:{}", "hZ2kQ9w1Ae:{}", "für-{}", "hZ2kQ9w1Ae:0{}"]),
        width=st.sampled_from([1, 2, 3, 130]),
        back=st.integers(0, 40),
    )
    def add_all(self, base: str, width: int, back: int) -> None:
        self.next += 1
        base = base.format(max(0, self.next - back))
        serial = self.next_serial(70_000)
        ids = [f"{base}:{index}" for index in range(width)]
        self.used |= {*ids[:3], ids[-1]}
        if any(self.twin.find(message_id) for message_id in ids):
            with pytest.raises(ValueError, match="held already"):
                self.window.add_all(base, width, serial, self.now)
        else:
            self.window.add_all(base, width, serial, self.now)
            self.twin.add_all(base, width, serial, self.now)

    @rule(number=st.integers(0, 120))
    def add(self, number: int) -> None:
        message_id, serial = self.some_id(number), self.next_serial(1)
        if self.twin.find(message_id) is None:
            self.window.add(message_id, serial, 5, self.now)
            self.twin.add_or_find(message_id, serial, 5, self.now)
        else:
            with pytest.raises(ValueError, match="held already"):
                self.window.add(message_id, serial, 5, self.now)

    @rule(number=st.integers(0, 120), count=st.integers(1, 40), other=st.sampled_from([0, 0, 0, 1, -1, 1 << 16]))
    def remove(self, number: int, count: int, other: int) -> None:
        for n in range(number, number + count):
            message_id = self.some_id(n)
            serial = max(0, (self.twin.find(message_id) or (77, 0))[0] + other)
            assert self.window.remove(message_id, serial) == self.twin.remove(message_id, serial)
            if other == 0:
                assert self.window.find(message_id) is None

    @rule(data=st.data(), newest=st.booleans(), count=st.integers(1, 30))
    def remove_publishes(self, data: st.DataObject, newest: bool, count: int) -> None:
        """Whole, as they were taken: some of them, or the newest ones, in either order."""
        together: dict[int, list[str]] = {}
        for message_id, (serial, _, _) in self.twin.held.items():
            together.setdefault(serial, []).append(message_id)
        serials = sorted(together)
        if not serials:
            return
        chosen = (
            serials[-count:] if newest else data.draw(st.lists(st.sampled_from(serials), max_size=count, unique=True))
        )
        for serial in reversed(chosen) if data.draw(st.booleans()) else chosen:
            ids = together[serial]
            assert self.window.remove_all(ids, serial) == len(ids)
            assert self.window.remove_all(ids, serial) == 0
            for message_id in ids:
                assert self.twin.remove(message_id, serial)

    @rule(step=st.one_of(st.integers(-50, 150), st.sampled_from([1, 399, 400, 401, 800, 10**9])))
    def clock(self, step: int) -> None:
        self.now = max(0, self.now + step)

    @rule(ahead=st.sampled_from([0, 0, 0, 1, -1, 100]))
    def expire(self, ahead: int) -> None:
        now = max(0, self.now + ahead)
        assert self.window.expire(now) == self.twin.expire(now)

    @invariant()
    def they_hold_the_same(self) -> None:
        assert len(self.window) == len(self.twin.held)
        for message_id in self.used:
            assert self.window.find(message_id) == self.twin.find(message_id)


Machine.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestBesideItsModel = Machine.TestCase


# ---- how long


@given(st.integers(1, 200_000), st.integers(2, 64), st.integers(0, 2**47), st.integers(0, 10**6))
def test_id_is_found_for_the_window_and_gone_a_bucket_later(window_ms: int, buckets: int, ms: int, early: int) -> None:
    window = DedupWindow(KEY, window_ms, buckets)
    width = -(-window_ms // (buckets - 1))
    add(window, "id", at(ms, 65_535), 999)
    assert window.expire(ms + max(0, window_ms - early)) == 0
    assert window.expire(ms + window_ms) == 0
    assert window.find("id") == (at(ms, 65_535), 999)
    assert window.expire(ms + window_ms + width) == 1
    assert window.find("id") is None
    assert add_or_find(window, "id", at(ms + window_ms + width), 0) is None


def test_a_bucket_goes_as_a_whole_and_no_other_goes_with_it() -> None:
    window = DedupWindow(KEY)
    first = NOW // WIDTH * WIDTH
    add(window, "first of its bucket", at(first), 0)
    add(window, "last of its bucket", at(first + WIDTH - 1), 0)
    add(window, "first of the next", at(first + WIDTH), 0)
    assert window.expire(first + WIDTH + WINDOW - 1) == 0
    assert window.expire(first + WIDTH + WINDOW) == 2
    assert [window.find("last of its bucket"), window.find("first of the next")] == [None, (at(first + WIDTH), 0)]


def test_clock_ahead_forgets_all_and_clock_back_nothing() -> None:
    window = DedupWindow(KEY)
    for n in range(100):
        add(window, f"id {n}", at(NOW + n * 1000), 0)
    assert window.expire(0) == window.expire(NOW - 10**9) == 0
    assert len(window) == 100
    assert window.expire(2**48 - 1) == 100
    assert len(window) == 0
    assert window.expire(NOW) == 0


def test_serials_ahead_move_the_window_and_expire_counts_them() -> None:
    window = DedupWindow(KEY)
    add(window, "old", at(NOW), 0)
    add(window, "new", at(NOW + 10**9), 0)
    assert [window.find("old"), window.find("new")] == [None, (at(NOW + 10**9), 0)]
    assert window.expire(NOW) == 1
    assert window.expire(NOW) == 0


def test_restore_that_starts_too_early_keeps_only_the_window() -> None:
    """The journal's entries come in order, and some are older than the window."""
    window = DedupWindow(KEY)
    window.expire(NOW)
    for n in range(1000):
        add(window, f"id {n}", at(NOW - 999_000 + n * 1000), n % 1000)
    held = [n for n in range(1000) if window.find(f"id {n}")]
    assert held == list(range(held[0], 1000))
    oldest_ms = NOW - 999_000 + held[0] * 1000
    assert NOW - WINDOW - WIDTH < oldest_ms <= NOW - WINDOW
    assert window.expire(NOW) == 1000 - len(held) == 1000 - len(window)


# ---- taking back


def test_an_id_whose_write_failed_can_be_used_again() -> None:
    window = DedupWindow(KEY)
    add(window, "id", at(NOW, 1), 3)
    assert window.find("id") == (at(NOW, 1), 3)  # while it is being written it counts already
    assert window.remove("id", at(NOW, 1))
    assert window.find("id") is None
    assert add_or_find(window, "id", at(NOW, 2), 4) is None
    assert window.find("id") == (at(NOW, 2), 4)


def test_only_the_serial_that_used_an_id_takes_it_back() -> None:
    window = DedupWindow(KEY)
    add(window, "id", at(NOW, 1), 3)
    for serial in (0, at(NOW), at(NOW, 2), at(NOW - WIDTH, 1), 2**64 - 1):
        assert not window.remove("id", serial)
    assert not window.remove("another", at(NOW, 1))
    assert window.find("id") == (at(NOW, 1), 3)


def test_taking_back_any_of_many_leaves_all_the_others() -> None:
    """Dense tables: whoever is moved by a removal must be found at its new place, also across the table's end."""
    order = random.Random(7)
    for count in (3, 7, 14, 28, 56, 84, 126, 1000, 7258, 7259, 12_000):  # just full, before a table grows or splits
        window = DedupWindow(KEY)
        left = {f"id {n}": (at(NOW, n), n % 1000) for n in range(count)}
        for message_id, use in left.items():
            add(window, message_id, *use)
        for message_id in order.sample(list(left), count):
            assert window.remove(message_id, left.pop(message_id)[0])
            if count < 200 or len(left) % (count // 12) == 0:
                assert window.find(message_id) is None
                assert all(window.find(other) == use for other, use in left.items())
        assert len(window) == 0
        assert window.memory == DedupWindow(KEY).memory


def test_add_and_take_back_repeatedly_does_not_grow_the_table() -> None:
    window = DedupWindow(KEY)
    for n in range(50):
        add(window, f"kept {n}", at(NOW, n), 0)
    before = window.memory
    for n in range(20_000):
        add(window, f"failed {n}", at(NOW, 100), 0)
        assert window.remove(f"failed {n}", at(NOW, 100))
    assert window.memory == before
    assert all(window.find(f"kept {n}") == (at(NOW, n), 0) for n in range(50))


# ---- many


@pytest.mark.parametrize(("form", "least", "most"), [("hZ2kQ9w1Ab:{}:0", 2, 4), ("hZ2kQ9w1Ab:{}:00", 24, 48)])
def test_many_ids_are_all_found_at_few_bytes_each(form: str, least: int, most: int) -> None:
    """Those that a connection counts take the step from the one before, others a hash and a serial."""
    window, largest = DedupWindow(KEY), 0.0
    for n in range(100_000):
        assert add_or_find(window, form.format(n), at(NOW + n, n % 700), n % 1000 if least > 16 else 0) is None
        if n >= 1000 and n % 10 == 0:
            largest = max(largest, window.memory / len(window))
    assert len(window) == 100_000
    assert largest <= most
    assert window.memory >= least * 100_000  # it says all that it has
    for n in range(100_000):
        use = at(NOW + n, n % 700), n % 1000 if least > 16 else 0
        assert add_or_find(window, form.format(n), at(NOW + WINDOW), 5) == use
        assert window.find(f"hZ2kQ9w1Ab:{n}:1") is None
    assert len(window) == 100_000


@pytest.mark.parametrize(("connections", "each"), [(20_000, 2), (3_000, 11), (5, 9_000)])
def test_counted_ids_are_found_whatever_their_number_and_holes(connections: int, each: int) -> None:
    """Beside a dict: ids that come in order, with holes, and late; taken back, used again, repeated."""
    window, order, held, most = DedupWindow(KEY), random.Random(connections), {}, 0
    numbers = [0] * connections
    for n in range(connections * each):
        who = order.randrange(connections)
        step = order.choice((1, 1, 1, 1, 2, 70, -1, -3))
        numbers[who] = max(0, numbers[who] + step)
        message_id, serial, before = f"{who:010}:{numbers[who]}:0", at(NOW, n + 1), window.memory
        known = held.get(message_id)
        assert add_or_find(window, message_id, serial, 0) == known
        if known is None:
            held[message_id] = serial, 0
            most = max(most, window.memory - before) if n % 97 == 0 or n < 2000 else most
        elif order.random() < 0.5:
            assert window.remove(message_id, known[0])
            del held[message_id]
            if order.random() < 0.5:
                assert window.find(message_id) is None
                add(window, message_id, serial, 7)
                held[message_id] = serial, 7
    assert len(window) == len(held)
    assert all(window.find(message_id) == use for message_id, use in held.items())
    assert most <= 128 * 1024
    for message_id, (serial, _) in held.items():
        assert window.remove(message_id, serial)
    assert window.memory == DedupWindow(KEY).memory


def test_no_single_add_pays_for_moving_a_whole_bucket() -> None:
    """What an add allocates bounds what it moves: a busy channel must not hold up all the others while it grows."""
    window, largest = DedupWindow(KEY), 0
    for n in range(100_000):
        before = window.memory
        add(window, f"id {n}", at(NOW, n), 0)
        largest = max(largest, window.memory - before)
    assert len(window) == 100_000
    assert largest <= 128 * 1024


def test_empty_or_emptied_window_costs_almost_nothing() -> None:
    empty = DedupWindow(KEY).memory
    assert empty <= 128
    window = DedupWindow(KEY)
    add(window, "one", at(NOW), 0)
    assert window.memory <= empty + 256
    window = DedupWindow(KEY)
    add(window, "hZ2kQ9w1Ab:0:0", at(NOW), 0)
    assert window.memory <= empty + 256
    for n in range(10_000):
        add(window, f"id {n}", at(NOW), 0)
    window.expire(NOW + WINDOW + WIDTH)
    assert window.memory == empty


# ---- what is refused


@pytest.mark.parametrize("key", [b"", bytes(15), bytes(17)])
def test_a_key_has_16_bytes(key: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        DedupWindow(key)
    with pytest.raises(ValueError, match="16 bytes"):
        siphash128(key, b"")


@pytest.mark.parametrize(("window_ms", "buckets"), [(0, 4), (2**36, 4), (1000, 1), (1000, 0), (1000, 65)])
def test_a_window_that_cannot_be_is_refused(window_ms: int, buckets: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        DedupWindow(KEY, window_ms, buckets)


def test_the_longest_window_holds_the_largest_serials() -> None:
    window = DedupWindow(KEY, 2**36 - 1, 2)
    for serial in (2**64 - 1 - (2**36 << 16), 2**64 - 1):
        add(window, f"id {serial}", serial, 999)
        assert window.find(f"id {serial}") == (serial, 999)


@pytest.mark.parametrize("form", ["hZ2kQ9w1Ab:{}:0", "id {}"])
def test_serials_jumping_years_within_a_bucket_keep_ids(form: str) -> None:
    """They follow the wall clock, which may be set from 1970 to today, or back; windows go by one that never jumps."""
    window, serials = DedupWindow(KEY), [1, at(NOW), at(NOW, 1), at(5), at(2**48 - 1, 65_535)]
    for n, serial in enumerate(serials):
        window.add(form.format(n), serial, 0, 1000 + n)
    assert [window.find(form.format(n)) for n in range(5)] == [(serial, 0) for serial in serials]
    assert window.expire(1000 + WINDOW) == 0
    assert [window.find(form.format(n)) for n in range(5)] == [(serial, 0) for serial in serials]
    assert window.expire(1000 + WINDOW + WIDTH) == 5


def test_a_refused_add_changes_nothing() -> None:
    window = DedupWindow(KEY)
    add(window, "id", at(NOW), 1)
    with pytest.raises(ValueError, match=r"held already.*1"):
        add(window, "id", at(NOW + 10**9), 2)
    with pytest.raises(ValueError, match="index"):
        add(window, "other", at(NOW + 10**9), 1000)
    with pytest.raises(ValueError, match="serial"):
        window.add("other", 0, 0, NOW)
    for width in (0, 1001):
        with pytest.raises(ValueError, match="messages"):
            window.add_all("hZ2kQ9w1Ab:7", width, at(NOW + 10**9), NOW + 10**9)
    for call in (window.find, lambda text: add(window, text, at(NOW), 0), lambda text: window.remove(text, at(NOW))):
        with pytest.raises(UnicodeEncodeError):
            call("\ud800")
    with pytest.raises(ValueError, match="at_ms"):
        window.expire(2**48)
    assert (len(window), window.find("id"), window.find("other")) == (1, (at(NOW), 1), None)


def test_ids_differ_by_every_byte_and_by_the_key() -> None:
    window = DedupWindow(KEY)
    ids = ["", "\x00", "\x00\x00", "a", "A", "a\x00", "é", "e\u0301", "x" * 2048, "x" * 2047 + "y", "y" + "x" * 2047]
    for n, message_id in enumerate(ids):
        add(window, message_id, at(NOW, n), n)
    assert [window.find(message_id) for message_id in ids] == [(at(NOW, n), n) for n in range(len(ids))]


# ---- publishes of several messages


@pytest.mark.parametrize("width", [2, 9, 10, 100, 1000])
def test_counted_publish_takes_the_same_for_any_message_count(width: int) -> None:
    window = DedupWindow(KEY)
    for n in range(1000):
        window.add_all(f"hZ2kQ9w1Ab:{n}", width, at(NOW, n + 1), NOW)
    assert len(window) == 1000 * width
    assert window.memory <= 8 * 1000
    for n in (0, 1, 500, 998, 999):
        for index in {0, 1, width // 2, width - 1}:
            assert window.find(f"hZ2kQ9w1Ab:{n}:{index}") == (at(NOW, n + 1), index)
        assert window.find(f"hZ2kQ9w1Ab:{n}:{width}") is None
        assert window.find(f"hZ2kQ9w1Ab:{n}:01") is window.find(f"hZ2kQ9w1Ab:0{n}:0") is None
    with pytest.raises(ValueError, match="together"):
        window.remove("hZ2kQ9w1Ab:500:1", at(NOW, 501))
    assert window.remove_all([f"hZ2kQ9w1Ab:500:{index}" for index in range(width)], at(NOW, 501)) == width
    assert window.find("hZ2kQ9w1Ab:500:1") is None
    assert len(window) == 999 * width


def test_a_publish_of_which_a_part_was_used_alone_is_not_new() -> None:
    window = DedupWindow(KEY)
    add(window, "hZ2kQ9w1Ab:7:2", at(NOW, 1), 0)
    window.add_all("hZ2kQ9w1Ab:7", 2, at(NOW, 2), NOW)
    add(window, "hZ2kQ9w1Ab:8:2", at(NOW, 3), 0)
    with pytest.raises(ValueError, match="held already"):
        window.add_all("hZ2kQ9w1Ab:8", 3, at(NOW, 4), NOW)
    assert window.find("hZ2kQ9w1Ab:8:0") is None
    assert len(window) == 4
