"""Shaping of deliveries that come from ring or journal, before a stream takes over: batch size, timing, charging.

The plane shapes and charges a stream's own deliveries (ext/net/send.pyx), with the same shapers."""

from __future__ import annotations

from engine import limits
from engine.channelview import ChannelView
from ext.net.shaper import Shaper
from server.realtime.transport import Transport


def batch_bytes(transport: Transport, channel: ChannelView) -> int:
    """Bytes that may be handed over at once: fewer under a rate limit."""
    return limits.SHAPED_BYTES if _shapers(transport, channel) else limits.REPLAY_BYTES


def wait_ms(transport: Transport, channel: ChannelView, now_ms: int) -> int:
    """Milliseconds until the next batch may be handed over; 0: now."""
    return max((shaper.wait_ms(now_ms) for shaper in _shapers(transport, channel)), default=0)


def hand_over(transport: Transport, channel: ChannelView, frames: bytes, messages: int) -> None:
    """Send a batch of the channel's frames, with ``messages`` messages in them, and charge for it."""
    transport.send_frames(frames)
    for shaper in _shapers(transport, channel):
        shaper.take_now(messages, len(frames))


def _shapers(transport: Transport, channel: ChannelView) -> list[Shaper]:
    """The shapers for deliveries from the channel over this transport: usually none."""
    return [shaper for shaper in (transport.shaper, channel.outgoing) if shaper is not None]
