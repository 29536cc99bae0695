"""Every bound, with its unit, and what happens when it is reached.

The first part can be set in the configuration (``limits.<name>``). The second is fixed, because it only concerns the
inner workings of the server."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from engine.checked import Table

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
WINDOW_PARTS = 4
"""Data with a retention time is dropped in this many parts, each as a whole, so it is kept for up to one part
longer."""


Amount = Annotated[int, Meta(ge=1, le=1 << 40)]
Seconds = Annotated[int, Meta(ge=1, le=86_400)]


class Limits(Table, frozen=True):
    """The limits that an operator may set. Defaults are generous; a client that exceeds one gets the code."""

    max_message_size: Annotated[int, Meta(ge=1, le=1 << 28)] = 64 * KIB
    """Bytes of name, clientId, data and extras in one publish; they are in memory several times. The publisher:
    40009."""
    max_frame_size: Annotated[int, Meta(ge=1024, le=1 << 28)] = 512 * KIB
    """Bytes of one WebSocket message; with fewer than can be set no SDK gets in. The sender: 40009, and its connection
    ends."""
    messages_per_publish: Annotated[int, Meta(ge=1, le=1000)] = 1000
    """Messages accepted together: a message's place in its entry has three digits. The publisher: 40034."""
    channels_per_connection: Amount = 10_000
    """Attachments of one connection. Beyond it the client gets 90010 for that channel."""
    attachments: Amount = 4_000_000
    """Attachments of all connections, about 600 bytes each. Beyond it the client gets 50004 for that channel, and may
    retry."""
    connections: Amount = 100_000
    """Connections of the server, including those being resumed. A newcomer gets 50004, and may come back later."""
    channels: Amount = 1_000_000
    """Channels in memory. A client that needs one more gets 50004."""
    ring_bytes_per_channel: Amount = 8 * MIB
    """Bytes of a channel's records kept in memory. A reader behind them continues from the journal."""
    ring_entries_per_channel: Annotated[int, Meta(ge=1, le=1 << 24)] = 1 << 16
    """Entries of a channel kept in memory; a power of two. A reader behind them continues from the journal."""
    ring_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    """Bytes in memory of all channels together: entries, and the frames that readers follow. 0: a quarter of the
    machine's memory, at most LARGEST_RING_BYTES. The oldest ones are evicted first, in the app that holds most. A
    reader behind them continues from the journal."""
    bodies_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    """Bytes of partly received messages and requests, of all connections together. 0: a 16th of the machine's memory,
    at most BODIES_BYTES. The sender of one more gets 503 or DISCONNECTED, 50004, and may retry."""
    staged_bytes: Amount = 128 * MIB
    """Bytes of records on their way to the journal. Beyond it the server stops reading from publishers until there are
    fewer. It accepts what still arrives from many at once, up to OVERSTAGED times as much; then publishers get 50004,
    and may retry."""
    dedup_ids: Amount = 64_000_000
    """Message ids remembered: about 3 bytes for each that a connection counts, 24 to 40 for others. Beyond it
    publishers get 42910, until older ids expire."""
    request_body_bytes: Amount = 2 * MIB
    """Bytes of an HTTP request's body. Beyond it the sender gets 413, 40009."""
    request_head_bytes: Annotated[int, Meta(ge=1024, le=(1 << 24) - 1)] = 16 * KIB
    """Bytes of a request's head; each newcomer may hold this much. Beyond it: 431, and the connection ends."""
    window_seconds: Seconds = 120
    """How long every message is held, and its id remembered, at least (see ``held_ms``). Beyond that a subscriber gets
    a discontinuity."""
    connection_state_seconds: Seconds = 120
    """How long a lost connection can be resumed. Beyond that the client gets a fresh one, and an error says so."""
    max_idle_interval_ms: Annotated[int, Meta(ge=100, le=3_600_000)] = 15_000
    """A client hears from us at least this often; the lower bound keeps timers from dominating the work."""
    handshake_seconds: Annotated[int, Meta(ge=1, le=600)] = 10
    """Time for TLS, the request's head and the upgrade, each. A slower newcomer is dropped."""
    drain_seconds: Annotated[int, Meta(ge=1, le=3_600)] = 10
    """Time to finish at shutdown. After it the sockets of the remaining clients are closed."""

    def within(self, memory: int) -> Limits:
        """These limits, with defaults that depend on the machine's memory, in bytes, filled in."""
        least = max(SPARE_TIMES * SPARE_PART * BODY_FREE_BYTES, self.least_bodies_bytes)
        return replace(
            self,
            ring_bytes=self.ring_bytes or min(memory // 4, LARGEST_RING_BYTES),
            bodies_bytes=self.bodies_bytes or max(least, min(memory // 16, BODIES_BYTES)),
        )

    @property
    def lost_ms(self) -> int:
        """A client that has sent nothing for this time counts as lost."""
        return self.max_idle_interval_ms * 8 // 3

    @property
    def held_ms(self) -> int:
        """How long message ids are known, and messages of class ``w`` kept in the journal, which restores the ids.

        A client that resumes sends unacknowledged messages again. They may be as old as it takes to detect a lost
        connection, and then to forget it. And data is dropped in parts (WINDOW_PARTS).
        """
        known_ms = max(self.window_seconds, self.connection_state_seconds) * 1000 + self.lost_ms
        return known_ms + known_ms // WINDOW_PARTS

    @property
    def least_bodies_bytes(self) -> int:
        """With less, a permitted input would find no memory even without any other client."""
        return BODIES_AT_LEAST * max(self.request_body_bytes, self.max_frame_size)


# Fixed limits.

COUNT_AT_ONCE = 512
"""Entries of a ring that a rewind by messages scans in the step of its ATTACH, about 30 us. If they are not enough, the
client waits for a turn."""
COUNT_ENTRIES = 8192
"""The same for one turn, about 0.5 ms; then other work has a turn."""
COUNT_BYTES = 1 * MIB
"""Bytes of journal blocks scanned in one turn, in a thread: a few ms."""
COUNTS_AT_ONCE = 2
"""Number of such turns at the same time; a client that attaches with a cursor older than the ring waits for one, too.
Clients take turns, one each, so a client that needs many waits longer for all of them."""
LARGEST_RING_BYTES = 1 * GIB
"""The largest default of ring_bytes: more memory would speed up few replays, and the journal has the rest."""
MEMORY_UNKNOWN = 4 * GIB
"""Assumed size of the machine's memory if it is unknown."""
LIVES_KEPT = 1_000
"""Lives of the server whose cursors are valid, 16 bytes each; only those that stored anything count. A client with an
older cursor gets 90003."""
STREAMS_PER_CHANNEL = 32
"""Distinct names (such as ``[?x=y]chat``), in each format, under which a channel is followed: each holds the frames of
the whole ring once more. A client with one more gets 42910 for that channel; the channel's own name is always free."""
CHANNEL_SWEEP_MS = 10_000
"""Interval at which a channel drops data past the window; the ring and dedup bound memory in between. An unused channel
does so every half window."""
CHANNEL_IDLE_MS = 30_000
"""Time that a channel without attachments and messages stays in memory: publishers often come back."""
SWEEP_CHANNELS = 1_000
"""Channels swept in one go: about 2 ms. The next go comes SWEEP_SECONDS later."""
SWEEP_SECONDS = 0.05
TRIM_CHANNELS = 20_000
"""Channels dropped before the C library is asked to return free memory: it walks through all memory."""
TRIM_BYTES = 64 * MIB
"""Decrease of a memory budget after which the C library is asked the same: it then takes a few milliseconds, in which
no thread can allocate memory."""
WAKES_AT_ONCE = 1_000
"""Channels read back from the journal in one go; others wait for the next."""
UNSENT_BYTES = 256 * KIB
"""Unsent bytes of one connection in the kernel: it would copy up to 4 MiB for every client that does not read, which
delays others. Later bytes stay in the log, and the reader continues there."""
OVERSTAGED = 4
"""Multiple of staged_bytes: clients that the server has stopped reading from may still have sent something, and
requests keep coming."""
WAITING_BYTES = 1 * KIB
"""Memory of a publish beside its messages while its channel wakes, or while it waits for ids of earlier lives or for
the message that it may repeat. It counts against ``staged_bytes``."""
UNANSWERED_BYTES = 4 * MIB
"""Bytes of one connection's publishes that are not stored yet. Beyond it the server stops reading from the
publisher."""
DOUBT_SECONDS = 8
"""The longest time that a publish, or a repeat of it, waits for a failed journal that may or may not have it. Then the
publisher is told that the outcome is unknown (DISCONNECTED, or 504): libraries give up after 10 s."""
DOUBT_KEPT_SECONDS = 60
"""A batch that has been in doubt for longer is erased, not stored, when the journal is available again, because a
repeat might come after its ids are forgotten. At most half a window. The publisher gets 50003, and may retry. Only one
batch can be in doubt, so ``staged_bytes`` bounds its size."""
LOOKUPS_AT_ONCE = 256
"""Entries looked up in the journal in one go, to be compared with possible repeats; others wait for the next."""
DECISIONS_AT_ONCE = 256
"""Waiting publishes that are decided in one go, about 3 ms; then other work has its turn."""
WAKE_ENTRIES, WAKE_BYTES = 1_000, MIB
"""The newest entries of a waking channel, and the bytes of their records, with which its ring begins. Older entries
come from the journal."""
RECALL_BYTES = 4 * MIB
"""Bytes of one channel's blocks read in one go to recall the ids of earlier lives: about 10 ms of a thread that shares
the interpreter. Then another channel has its turn, if publishes wait for it."""
REMEMBERED_NAMES = 1_000
"""Channel names of one connection whose capability is cached; then it is computed anew."""
PARAM_LENGTH = 1 * KIB
"""Characters of one param of an attachment, which is kept for its life. Beyond it the client gets 40003 for that
channel."""
WAITING_STEPS = 100
"""Requests of one connection for one channel that wait for its ATTACH. Beyond it the client gets 42910 for that
channel."""
NEWCOMERS = 4096
"""Connections that have not sent the head of their first request (including those within a TLS handshake); a quarter of
all descriptors, if that is less. Further ones wait in the kernel's queue."""
CROWDED_MS = 1_000
"""While NEWCOMERS is reached, each has this time for its head instead of ``handshake_seconds``, and is dropped after
it."""
POST_CONNECTIONS = 10_000
"""HTTP connections that are served without a task. A further one gets a task."""
BODIES_BYTES = 128 * MIB
"""The largest default of bodies_bytes. The sender of a body is unknown until it is complete."""
ANSWERS_BYTES = 128 * MIB
"""Bytes of all HTTP answers being sent. One more request gets 503, 50004, and may be retried; the outcome of a stored
publish is sent all the same."""
BODY_FREE_BYTES = 64 * KIB
"""A publish of the usual size always finds memory, however much large ones use: the reserve of bodies_bytes holds
several of them, unless bodies_bytes is set too low for that."""
BODIES_AT_LEAST = 4
"""Bodies or messages of the largest size that fit into bodies_bytes: one may be held twice, in fragments and a part."""
SPARE_PART, SPARE_TIMES = 128, 5
"""The reserve of a bound for bodies, and how many of one size fit into it (ext/net/room.pyx)."""
REPLIES_BYTES = 128 * MIB
"""Bytes of all WebSocket connections together: replies and batches of replays that clients have not read yet. A client
that leaves more than its part unread loses its transport, and may resume."""
REPLAY_BYTES = 192 * KIB
"""Bytes of frames in one batch of a replay, which a slow reader can make the server hold for it alone."""
SHAPED_BYTES = 16 * KIB
"""The same for a reader under a rate, and the most of a stream that is sent to it at a time: a rate may be overdrawn by
this, and the next send has to wait for it."""
REPLAY_THREADS = 4
"""Threads for batches of replays. One at a time reads: more would keep the interpreter from the loop for longer."""
JOURNAL_READERS = 8
"""HTTP requests that have a thread to read the journal with; more readers wait. One thread at a time reads it."""
LINGER_MS = 5_000
"""Time for a peer to answer our close frame; then its socket is closed."""
PAGES_AT_ONCE = 8
"""Pages of history that are made at the same time, each of 1 MiB, as it is stored and as it is sent. Others wait, and
their clients take turns. One thread makes them all: more at a time would not be faster."""
NONCES = 100_000
"""Token requests remembered within their window of 4 minutes, per server. Beyond it the requester gets 42910."""
CAPABILITY_BYTES = 6 * KIB
"""Bytes of a capability's text: a token that carries one has to fit into a request's head, in base64 of base64."""
CAPABILITY_RESOURCES = 200
"""Resources of one capability. An intersection looks at each pair: 40,000 take about 20 ms. Beyond it the requester
gets 40000."""
CAPABILITY_SEGMENTS = 64
"""Segments of one resource. Beyond it the requester gets 40000."""
IDENTITIES_SHARED = 10_000
"""Keys whose identity is cached, once for all their clients."""
CAPABILITIES_SHARED = 1_000
CAPABILITY_SHARED_BYTES = 1 * KIB
"""Capabilities of at most this size are cached by their text, CAPABILITIES_SHARED of them: 10 MB at worst."""
HASHES_KEPT = 4_000
"""Cached hashes of apps and clientIds of connections: about 5 MB at worst, of the longest ones."""
CLIENT_ID_BYTES = 1 * KIB
"""Bytes of a clientId: tokens contain it, too. Beyond it the client gets 40012."""
CHANNEL_NAME_BYTES = 2048
LARGE_INPUT_BYTES = 4 * KIB
"""A frame or body of this size waits for its turn if it takes the slow path: up to 5 ms of work, and one at a time.
Smaller ones take at most about 0.3 ms. The server does not read from the sender meanwhile. An operator who allows
larger frames and bodies than the default pays about 2 ms for each MiB of text in them."""
UNCOUNTED_BYTES = 1 * KIB
"""Bytes of a message's id, and of its encoding: max_message_size does not count them. Beyond it the publisher gets
40031 or 40013."""
INPUT_VALUES = 32_000
"""Values made of one input (frame or body), including keys: about 3 ms of work, which delays everybody else. They are
counted before the first is made. 1,000 messages with all members and five headers each have 27,000. Beyond it the
sender gets 40009 for that publish or request, however large messages may be."""
FIXTURE_VALUES = 100_000
"""The same for fixtures of statistics, which only a server in development mode accepts: 1,000 have about 40,000."""
TOMBSTONES = 100_000
"""Closed connections, remembered so that their keys stay invalid; the oldest are forgotten first."""
REFUSED_KEYS = 100
"""Keys whose refusals are logged separately, each minute; those of further keys are logged together."""
REVOCATION_TARGET_BYTES = 1 * KIB
"""Bytes of a revocation's target: a clientId, a revocation key, a channel. Beyond it the requester gets 40000."""
REVOCATION_TARGETS = 100
"""Targets in one request. Beyond it the requester gets 40003."""
REVOCATIONS = 10_000
"""Revocations in force at once, per server; each is forgotten after an hour. Beyond it the requester gets 42910."""
CLOCK_MARKS = 4_096
"""Marks that relate serials to elapsed time: one for each time that the wall clock was set, and more while it is
behind. Beyond them the older ones are merged, and their entries are kept a little longer."""
ASLEEP_MS = 3_600_000
"""Between two boots of the machine only the wall clock says how much time has passed, and it may be wrong. It is
trusted up to this much; beyond that nothing ages, and data is kept longer: the operator's disk."""
SERIALS_AHEAD_MS = 100 * 366 * 24 * 3_600_000
"""How far serials, and timestamps with them, follow a wall clock that jumps ahead. Beyond it messages bear this
time."""
