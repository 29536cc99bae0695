from typing import Final, final

@final
class Gauge:
    now: int
    peak: int
    least: int
    opened: int
    def add(self) -> None: ...
    def remove(self) -> None: ...
    def look(self) -> tuple[int, int]: ...

@final
class Meter:
    connections: Final[Gauge]
    channels: Final[Gauge]
    remembered: int
    max_remembered: int
    def messages(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]: ...
