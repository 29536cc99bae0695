"""RocksDB beneath the journal: what it must not cost."""

import ctypes

from engine.journal.store import RocksStore


def test_rocksdbs_text_log_is_bounded_and_it_costs_no_memory(tmp_path, monkeypatch):
    """RocksDB would remember what it logs of each family, and families come and go as long as the server runs."""
    monkeypatch.setattr("engine.journal.store.LOG_BYTES", 100_000)
    store = RocksStore(tmp_path)
    log, old = tmp_path / "LOG", tmp_path / "LOG.old"

    def families(numbers):
        for number in numbers:
            store.create(f"w-{number}")
            store.write([(f"w-{number}", b"key", b"value")])
            store.drop(f"w-{number}")
            store.trim_log()

    try:
        families(range(30))
        held = _malloc_used()
        families(range(30, 130))
        assert _malloc_used() - held < 100 * 5_000, "RocksDB's own rotation would hold 15 KB for each"
        assert log.stat().st_blocks * 512 <= 100_000 + 50_000
        assert old.stat().st_size == 100_000
        assert b"w-12" in old.read_bytes() + log.read_bytes(), "the newest is kept"
        store.create("after")
        store.write([("after", b"key", b"value")])
        assert store.get("after", b"key") == b"value"
    finally:
        store.close()


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    ]


def _malloc_used():
    """Bytes that are in use of what malloc has, in the main arena."""
    mallinfo2 = ctypes.CDLL("libc.so.6").mallinfo2
    mallinfo2.restype = _Mallinfo
    return mallinfo2().uordblks
