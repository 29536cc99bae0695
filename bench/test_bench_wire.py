"""ext.wire.encoder beside plain Python over orjson and msgpack: a publish in, its frame out, its acknowledgement."""

from typing import Any

import msgpack
import orjson
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import baselines_wire
from ext.wire import encoder as wire

SERIES = "k3J9s0fA"
SERIAL = 1_700_000_000_123 << 16 | 42
DATA = {
    "128 B of text": "Lorem ipsum dolor sit amet " * 4 + "consectetur adipisci",
    "128 B of JSON in text": orjson.dumps({"id": 17, "text": "x" * 90, "at": [1, 2, 3], "o": True}).decode(),
}
RECORD = wire.encode_record("hZ2kQ9w1Ab:7", "hZ2kQ9w1Ab", "alice", 0, msgpack.packb([{"name": "n", "data": "x" * 128}]))

both = pytest.mark.parametrize("room", [baselines_wire, wire], ids=["baseline", "ext"])
formats = pytest.mark.parametrize("wire_format", [wire.JSON, wire.MSGPACK], ids=["json", "msgpack"])


def read(payload: bytes, wire_format: int) -> Any:
    return orjson.loads(payload) if wire_format == wire.JSON else msgpack.unpackb(payload)


@pytest.mark.benchmark(group="wire: parse one publish of one message")
@formats
@pytest.mark.parametrize("data", DATA)
@both
def test_parse_publish(benchmark: BenchmarkFixture, room: Any, data: str, wire_format: int) -> None:
    message = {"action": 15, "channel": "room:1", "msgSerial": 7, "messages": [{"name": "n", "data": DATA[data]}]}
    payload = orjson.dumps(message) if wire_format == wire.JSON else msgpack.packb(message)
    publish = benchmark(room.parse_publish, payload, wire_format)
    assert (publish.channel, publish.msg_serial, publish.count) == ("room:1", 7, 1)
    assert publish.size == 1 + len(DATA[data])
    assert msgpack.unpackb(publish.messages) == message["messages"]


@pytest.mark.benchmark(group="wire: frame one entry of one message, 128 B")
@formats
@pytest.mark.parametrize("make", [baselines_wire.PlainEncoder, wire.EntryEncoder], ids=["baseline", "ext"])
def test_frame(benchmark: BenchmarkFixture, make: Any, wire_format: int) -> None:
    frame = benchmark(make(wire_format, "room:1").frame, SERIAL, SERIES, RECORD)
    assert frame[1] == 126
    got = read(frame[4:], wire_format)
    assert (got["channel"], got["id"], got["connectionId"]) == ("room:1", "hZ2kQ9w1Ab:7", "hZ2kQ9w1Ab")
    assert got["messages"] == [
        {
            "id": "hZ2kQ9w1Ab:7:0",
            "clientId": "alice",
            "name": "n",
            "data": "x" * 128,
            "action": 0,
            "serial": f"001700000000123-00042@{SERIES}:000",
        }
    ]


@pytest.mark.benchmark(group="wire: acknowledge ten publishes")
@formats
@both
def test_ack(benchmark: BenchmarkFixture, room: Any, wire_format: int) -> None:
    stored = [(SERIAL + n, SERIES, 0, 1) for n in range(10)]
    got = read(benchmark(room.ack_payload, wire_format, 7, stored), wire_format)
    assert (got["msgSerial"], got["count"]) == (7, 10)
    assert got["res"][9] == {"serials": [f"001700000000123-00051@{SERIES}:000"]}
