"""What a good engineer would write in plain Python for ext.log.dedup: one dict per bucket of time.

Forgetting is as cheap as in ext (a whole dict goes), nothing is hashed twice (a str remembers its hash), and no id can
be mistaken for another, as the ids themselves are kept."""


class DictWindow:
    def __init__(self, window_ms: int = 120_000, buckets: int = 4) -> None:
        self.window_ms = window_ms
        self.width_ms = -(-window_ms // (buckets - 1))
        self.buckets: dict[int, dict[str, tuple[int, int]]] = {}

    def find(self, message_id: str) -> tuple[int, int] | None:
        for held in self.buckets.values():
            known = held.get(message_id)
            if known is not None:
                return known
        return None

    def add_or_find(self, message_id: str, serial: int, index: int, at_ms: int) -> tuple[int, int] | None:
        known = self.find(message_id)
        if known is not None:
            return known
        number = at_ms // self.width_ms
        held = self.buckets.get(number)
        if held is None:
            held = self.buckets[number] = {}
        held[message_id] = (serial, index)
        return None

    def remove(self, message_id: str, serial: int) -> bool:
        for held in self.buckets.values():
            if held.get(message_id, (None,))[0] == serial:
                del held[message_id]
                return True
        return False

    def expire(self, now_ms: int) -> int:
        past = [n for n in self.buckets if (n + 1) * self.width_ms + self.window_ms <= now_ms]
        return sum(len(self.buckets.pop(n)) for n in past)
