from typing import Self, final

from ext.wire.encoder import EntryEncoder

@final
class Playback:
    @property
    def cursor(self) -> int:
        """Serial of the last entry that it took; of the one before the first until then."""
    @property
    def previous(self) -> int:
        """The ``previous`` of the first entry that it took."""
    @property
    def entries(self) -> int:
        """How many it took, those of ``skip_origin`` included."""
    @property
    def messages(self) -> int:
        """How many messages its frames have."""
    @property
    def full(self) -> bool:
        """It takes no more."""
    def __new__(
        cls, encoder: EntryEncoder, cursor: int, *, until: int, budget: int, skip_origin: int = 0, omit: int = 0
    ) -> Self: ...
    def take_block(self, key: bytes, value: bytes) -> bool: ...
    def frames(self) -> bytes: ...
