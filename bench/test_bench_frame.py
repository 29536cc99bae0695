"""ext.wire.frame beside wsproto and beside plain Python: a receive buffer into messages, messages into frames.

What the plane pays is less than what is measured here: it has no list of events, and no call per buffer."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from wsproto.frame_protocol import FrameProtocol

from bench.baselines_frame import PlainFrameDecoder, mask
from bench.baselines_frame import encode_frame as plain_encode_frame
from ext.wire.frame import BINARY, TEXT, FrameDecoder, encode_frame

LIMIT = 1 << 20
BUFFER = 65_536


def masked(opcode: int, payload: bytes) -> bytes:
    key, head = os.urandom(4), encode_frame(opcode, payload)
    head = head[: len(head) - len(payload)]
    return head[:1] + bytes([head[1] | 0x80]) + head[2:] + key + mask(payload, key)


SMALL = [f"{n:04d}".encode() + b"x" * 118 for n in range(BUFFER // 128)]  # with 6 of header: 128 bytes on the wire
SMALL_WIRE = b"".join(masked(TEXT, payload) for payload in SMALL)
LARGE = os.urandom(BUFFER)
LARGE_WIRE = masked(BINARY, LARGE)
FOREIGN = ("grüße 世界 " * 4096).encode()
FOREIGN_WIRE = masked(TEXT, FOREIGN)
RECEIVED = 1448  # a TCP segment's payload on Ethernet: nearly every one ends within a frame
SEGMENTS = [SMALL_WIRE[at : at + RECEIVED] for at in range(0, len(SMALL_WIRE), RECEIVED)]


def ext_decode(chunks: list[bytes]) -> list[bytes]:
    decoder = FrameDecoder(LIMIT)
    return [event.payload for chunk in chunks for event in decoder.receive(chunk)]


def plain_decode(chunks: list[bytes]) -> list[bytes]:
    decoder = PlainFrameDecoder(LIMIT)
    return [payload for chunk in chunks for _, payload, _ in decoder.receive(chunk)]


def wsproto_decode(chunks: list[bytes]) -> list[Any]:
    """Text comes as str: what it costs to make it is in its price, as checking is in the others'."""
    codec = FrameProtocol(False, [])
    payloads: list[Any] = []
    parts: list[Any] = []
    for chunk in chunks:
        codec.receive_bytes(chunk)
        for frame in codec.received_frames():
            parts.append(frame.payload)
            if frame.message_finished:
                payloads.append(parts[0] if len(parts) == 1 else type(parts[0])().join(parts))
                parts = []
    return payloads


Decode = Callable[[list[bytes]], list[Any]]
decoders = pytest.mark.parametrize(
    "decode", [wsproto_decode, plain_decode, ext_decode], ids=["wsproto", "baseline", "ext"]
)


def as_bytes(payloads: list[Any]) -> list[bytes]:
    return [payload.encode() if isinstance(payload, str) else payload for payload in payloads]


@pytest.mark.benchmark(group="frame: 64 KiB of masked text frames, 512 of 128 B")
@decoders
def test_decode_small(benchmark: BenchmarkFixture, decode: Decode) -> None:
    assert len(SMALL_WIRE) == BUFFER
    assert as_bytes(benchmark(decode, [SMALL_WIRE])) == SMALL


@pytest.mark.benchmark(group="frame: the same 512 frames in segments of 1448 B")
@decoders
def test_decode_cut(benchmark: BenchmarkFixture, decode: Decode) -> None:
    assert as_bytes(benchmark(decode, SEGMENTS)) == SMALL


@pytest.mark.benchmark(group="frame: one masked binary frame of 64 KiB")
@decoders
def test_decode_large(benchmark: BenchmarkFixture, decode: Decode) -> None:
    assert as_bytes(benchmark(decode, [LARGE_WIRE])) == [LARGE]


@pytest.mark.benchmark(group="frame: one masked text frame of 60 KiB, two thirds of it not ASCII")
@decoders
def test_decode_foreign_text(benchmark: BenchmarkFixture, decode: Decode) -> None:
    assert as_bytes(benchmark(decode, [FOREIGN_WIRE])) == [FOREIGN]


WSPROTO = FrameProtocol(False, [])


def wsproto_encode(opcode: int, payload: bytes) -> bytes:
    assert opcode == BINARY  # what wsproto makes of bytes
    return bytes(WSPROTO.send_data(payload))


@pytest.mark.benchmark(group="frame: 512 payloads of 122 B encoded")
@pytest.mark.parametrize(
    "encode", [wsproto_encode, plain_encode_frame, encode_frame], ids=["wsproto", "baseline", "ext"]
)
def test_encode(benchmark: BenchmarkFixture, encode: Callable[[int, bytes], bytes]) -> None:
    frames = benchmark(lambda: [encode(BINARY, payload) for payload in SMALL])
    assert frames == [b"\x82" + bytes([len(payload)]) + payload for payload in SMALL]
