from typing import Final, final

from typing_extensions import disjoint_base

@disjoint_base
class Holder: ...

@final
class Share:
    budget: Final[Budget]
    held: Final[int]
    frames: Final[int]

@final
class Budget:
    most: Final[int]
    held: Final[int]
    frames: Final[int]
    pressed: Final[int]
    def __init__(self, most: int) -> None: ...
    def limit(self, most: int) -> None: ...
    def share(self) -> Share: ...
    def settle(self) -> None: ...
