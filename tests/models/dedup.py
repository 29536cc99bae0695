"""The plain twin of ext.dedup: a dict with the serial of every id, searched through whenever the clock moves."""


class PlainWindow:
    def __init__(self, window_ms: int, buckets: int) -> None:
        self.window_ms = window_ms
        self.width_ms = -(-window_ms // (buckets - 1))
        self.clock_ms = 0
        self.held: dict[str, tuple[int, int]] = {}
        self.forgotten = 0

    def is_past(self, serial: int) -> bool:
        bucket_end_ms = ((serial >> 16) // self.width_ms + 1) * self.width_ms
        return bucket_end_ms + self.window_ms <= self.clock_ms

    def find(self, message_id: str) -> tuple[int, int] | None:
        return self.held.get(message_id)

    def add_or_find(self, message_id: str, serial: int, index: int) -> tuple[int, int] | None:
        known = self.held.get(message_id)
        if known is None:
            self.held[message_id] = (serial, index)
            self._forget(serial >> 16)
        return known

    def remove(self, message_id: str, serial: int) -> bool:
        if message_id not in self.held or self.held[message_id][0] != serial:
            return False
        del self.held[message_id]
        return True

    def expire(self, now_ms: int) -> int:
        self._forget(now_ms)
        count, self.forgotten = self.forgotten, 0
        return count

    def _forget(self, now_ms: int) -> None:
        self.clock_ms = max(self.clock_ms, now_ms)
        for message_id, (serial, _) in list(self.held.items()):
            if self.is_past(serial):
                del self.held[message_id]
                self.forgotten += 1
