"""What is delivered ahead of a stream, out of ring or journal: how much at once, when, and what it is charged to.

A stream's own deliveries are held and charged by the plane (ext/net/send.pyx), with the same shapers."""

from __future__ import annotations

from engine import limits
from engine.channelview import ChannelView
from ext.net.shaper import Shaper
from server.realtime.transport import Transport


def batch_bytes(transport: Transport, channel: ChannelView) -> int:
    """So much may be handed over at once: less, where a rate is to be kept."""
    return limits.SHAPED_BYTES if _shapers(transport, channel) else limits.REPLAY_BYTES


def wait_ms(transport: Transport, channel: ChannelView, now_ms: int) -> int:
    """After so many ms the next batch may be handed over; 0: now."""
    return max((shaper.wait_ms(now_ms) for shaper in _shapers(transport, channel)), default=0)


def hand_over(transport: Transport, channel: ChannelView, frames: bytes, messages: int) -> None:
    """Send a batch of the channel's frames, with so many messages in them, and charge for it."""
    transport.send_frames(frames)
    for shaper in _shapers(transport, channel):
        shaper.take_now(messages, len(frames))


def _shapers(transport: Transport, channel: ChannelView) -> list[Shaper]:
    """Those that have a say in what is delivered from the channel over this transport: mostly none."""
    return [shaper for shaper in (transport.shaper, channel.outgoing) if shaper is not None]
