"""The plain twin of ext.log.dedup: a dict with the serial of every id, searched through whenever the clock moves."""


class PlainWindow:
    def __init__(self, window_ms: int, buckets: int) -> None:
        self.window_ms = window_ms
        self.width_ms = -(-window_ms // (buckets - 1))
        self.clock_ms = 0
        self.held: dict[str, tuple[int, int, int]] = {}  # serial, index, and when it was taken
        self.forgotten = 0

    def is_past(self, at_ms: int) -> bool:
        bucket_end_ms = (at_ms // self.width_ms + 1) * self.width_ms
        return bucket_end_ms + self.window_ms <= self.clock_ms

    def find(self, message_id: str) -> tuple[int, int] | None:
        known = self.held.get(message_id)
        return None if known is None else known[:2]

    def add_or_find(self, message_id: str, serial: int, index: int, at_ms: int) -> tuple[int, int] | None:
        known = self.find(message_id)
        if known is None:
            self.held[message_id] = (serial, index, at_ms)
            self._forget(at_ms)
        return known

    def add_all(self, base: str, width: int, serial: int, at_ms: int) -> None:
        for index in range(width):
            self.held[f"{base}:{index}"] = (serial, index, at_ms)
        self._forget(at_ms)

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
        for message_id, (_, _, at_ms) in list(self.held.items()):
            if self.is_past(at_ms):
                del self.held[message_id]
                self.forgotten += 1
