"""What a client's publishes are answered with: exactly one ACK or NACK for each, in the order of their msgSerials.

    publishes   7      8      9      10           each a Receipt, in order of arrival
    outcome     stored stored  ?     refused      entries are stored in other orders: channels differ
    sent        ACK 7, count 2 | waits for 9

A run of stored ones is one ACK. What has not been answered counts against the connection's bound."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from engine.errors import PubSubError
from ext.wire import ack_payload
from server import wire
from server.actions import Action

if TYPE_CHECKING:
    from collections.abc import Callable


class Receipt:
    """One publish, waiting for its outcome; a ``Completion`` for the sequencer."""

    __slots__ = ("_queue", "done", "error", "msg_serial", "size", "stored")

    def __init__(self, queue: AckQueue, msg_serial: int, size: int) -> None:
        self._queue = queue
        self.msg_serial = msg_serial
        self.size = size
        self.done = False
        self.error: PubSubError | None = None
        self.stored: tuple[int, str, int, int] | None = None

    def accepted(self, serial: int, series: str, index: int, count: int) -> None:
        self.stored = (serial, series, index, count)
        self.done = True
        self._queue.touch()

    def refused(self, error: PubSubError) -> None:
        self.error = error
        self.done = True
        self._queue.touch()


class AckQueue:
    """The unanswered publishes of one connection."""

    __slots__ = ("_on_touch", "_receipts", "_touched", "bytes", "wire")

    def __init__(self, wire_format: int, on_touch: Callable[[], None]) -> None:
        self.wire = wire_format
        self.bytes = 0
        self._receipts: deque[Receipt] = deque()
        self._touched = False
        self._on_touch = on_touch

    def __len__(self) -> int:
        return len(self._receipts)

    def expect(self, msg_serial: int, size: int) -> Receipt:
        """A publish has arrived; its answer goes out in its turn."""
        receipt = Receipt(self, msg_serial, size)
        self._receipts.append(receipt)
        self.bytes += size
        return receipt

    def touch(self) -> None:
        """An outcome is known: ask, once, to be taken from."""
        if not self._touched:
            self._touched = True
            self._on_touch()

    def take(self) -> list[bytes]:
        """The payloads of all answers whose turn has come."""
        self._touched = False
        receipts = self._receipts
        answers: list[bytes] = []
        while receipts and receipts[0].done:
            first = receipts.popleft()
            self.bytes -= first.size
            if first.stored is None:
                assert first.error is not None
                nack = {
                    "action": Action.NACK,
                    "msgSerial": first.msg_serial,
                    "count": 1,
                    "error": first.error.info(),
                }
                answers.append(wire.encode(nack, self.wire))
                continue
            stored = [first.stored]
            following = first.msg_serial + 1
            while receipts and receipts[0].stored is not None and receipts[0].msg_serial == following:
                receipt = receipts.popleft()
                self.bytes -= receipt.size
                stored.append(receipt.stored)  # type: ignore[arg-type]  # checked by the loop's condition
                following += 1
            answers.append(ack_payload(self.wire, first.msg_serial, stored))
        return answers
