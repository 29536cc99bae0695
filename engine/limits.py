"""Every bound, with its unit, and who pays when it is reached.

The first part can be set in the configuration (``limits.<name>``); the second is fixed, because only the server's own
working depends on it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from engine.checked import Table

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
WINDOW_PARTS = 4
"""What is held for a time is forgotten in so many parts, each as a whole: so for a part longer than said."""


Amount = Annotated[int, Meta(ge=1, le=1 << 40)]
Seconds = Annotated[int, Meta(ge=1, le=86_400)]


class Limits(Table, frozen=True):
    """What an operator may set. Defaults are generous; who exceeds one is told with its code."""

    max_message_size: Annotated[int, Meta(ge=1, le=1 << 28)] = 64 * KIB
    """Bytes of name, clientId, data and extras in one publish; they are in memory several times. The publisher:
    40009."""
    max_frame_size: Annotated[int, Meta(ge=1024, le=1 << 28)] = 512 * KIB
    """Bytes of one WebSocket message; with fewer than can be set no SDK gets in. The sender: 40009, and its connection
    ends."""
    messages_per_publish: Annotated[int, Meta(ge=1, le=1000)] = 1000
    """Messages accepted together: a message's place in its entry has three digits. The publisher: 40034."""
    channels_per_connection: Amount = 10_000
    """Attachments. The client: 90010 for that channel."""
    attachments: Amount = 4_000_000
    """Of all connections, some 600 bytes each. The client: 50004 for that channel, to be tried again."""
    connections: Amount = 100_000
    """Connections of the server, those being resumed included. The newcomer: 50004, to come back later."""
    channels: Amount = 1_000_000
    """Channels in memory. Whoever wants one more: 50004."""
    ring_bytes_per_channel: Amount = 8 * MIB
    """Bytes of records kept in memory. A reader behind it: it goes on from the journal."""
    ring_entries_per_channel: Annotated[int, Meta(ge=1, le=1 << 24)] = 1 << 16
    """Entries kept in memory; a power of two. The same."""
    ring_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    """Bytes in memory of all channels together: entries, and the frames that readers follow. 0: a quarter of the
    machine's memory, LARGEST_RING_BYTES at most. What is oldest goes first, in the app that holds most. A reader behind
    it: it goes on from the journal."""
    bodies_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    """Bytes of messages and requests that have come in part, of all connections together. 0: a 16th of the machine's
    memory, BODIES_BYTES at most. The sender of one more: 503 or DISCONNECTED, 50004, to be tried again."""
    staged_bytes: Amount = 128 * MIB
    """Records on their way to the journal. Publishers: they are not read from until it has less. What still comes of
    many at once, up to OVERSTAGED times as much, is taken; then they are told 50004, to come again."""
    dedup_ids: Amount = 64_000_000
    """Message ids remembered: some 3 bytes for each that a connection counts, 24 to 40 for others. Publishers: 42910,
    until older ones expire."""
    request_body_bytes: Amount = 2 * MIB
    """Bytes of an HTTP request's body. The sender: 413, 40009."""
    request_head_bytes: Annotated[int, Meta(ge=1024, le=(1 << 24) - 1)] = 16 * KIB
    """Bytes of a request's head, which each newcomer may hold. The sender: 431, and the connection ends."""
    window_seconds: Seconds = 120
    """How long every message is held, and its id remembered, at least (see ``held_ms``). Beyond that a subscriber is
    told of a discontinuity."""
    connection_state_seconds: Seconds = 120
    """How long a lost connection can be resumed. Beyond it the client gets a fresh one, and is told."""
    max_idle_interval_ms: Annotated[int, Meta(ge=100, le=3_600_000)] = 15_000
    """A client hears from us at least this often; if it were more often than can be set, we had nothing but timers."""
    handshake_seconds: Annotated[int, Meta(ge=1, le=600)] = 10
    """For TLS, the request's head and the upgrade, each. The newcomer: it is dropped."""
    drain_seconds: Annotated[int, Meta(ge=1, le=3_600)] = 10
    """For finishing at shutdown. Clients that have not gone by then: their sockets are closed."""

    def within(self, memory: int) -> Limits:
        """These, and what is left to the machine worked out from its memory, in bytes."""
        least = max(SPARE_TIMES * SPARE_PART * BODY_FREE_BYTES, self.least_bodies_bytes)
        return replace(
            self,
            ring_bytes=self.ring_bytes or min(memory // 4, LARGEST_RING_BYTES),
            bodies_bytes=self.bodies_bytes or max(least, min(memory // 16, BODIES_BYTES)),
        )

    @property
    def lost_ms(self) -> int:
        """A client of whom nothing has been heard for so long is lost, though nobody has said so."""
        return self.max_idle_interval_ms * 8 // 3

    @property
    def held_ms(self) -> int:
        """How long message ids are known, and messages of class ``w`` kept in the journal, which gives them back.

        Whoever resumes sends again what was not acknowledged: the last that was heard of it may be as old as it takes
        to find a connection lost, and to forget it then; and what forgets, forgets in parts (WINDOW_PARTS).
        """
        known_ms = max(self.window_seconds, self.connection_state_seconds) * 1000 + self.lost_ms
        return known_ms + known_ms // WINDOW_PARTS

    @property
    def least_bodies_bytes(self) -> int:
        """Else what may be sent would find no room even if nobody else were there."""
        return BODIES_AT_LEAST * max(self.request_body_bytes, self.max_frame_size)


# Fixed ones.

COUNT_AT_ONCE = 512
"""Entries of a ring that a rewind by messages goes over in the step of its ATTACH, some 30 us. The client: it waits for
a turn, if they are not enough."""
COUNT_ENTRIES = 8192
"""The same in one turn, some 0.5 ms; then others have theirs."""
COUNT_BYTES = 1 * MIB
"""Of blocks of the journal, gone over in one turn in a thread: some ms."""
COUNTS_AT_ONCE = 2
"""Turns of that at the same time; who attaches with a cursor that the ring does not have waits for one, too. Clients
have them one after the other, one each: who wants many waits longer for all of them."""
LARGEST_RING_BYTES = 1 * GIB
"""Of ring_bytes, unless it is given: beyond it more memory makes few replays faster, and the journal has the rest."""
MEMORY_UNKNOWN = 4 * GIB
"""Taken for the machine's memory where nobody can tell it."""
LIVES_KEPT = 1_000
"""Lives of the server whose cursors prove something, 16 bytes each; only those that stored anything count. Who comes
with an older cursor: 90003."""
STREAMS_PER_CHANNEL = 32
"""Names (``[?x=y]room`` is one of its own), in each format, under which a channel is followed: each holds the frames of
the whole ring once more. Who comes with one more: 42910 for that channel; its own name is always free."""
CHANNEL_SWEEP_MS = 10_000
"""How often a channel is asked to forget what is past the window; the ring and dedup bound memory in between. One that
nobody uses: every half window."""
CHANNEL_IDLE_MS = 30_000
"""A channel without attachments and messages stays so long in memory: publishers often come back."""
SWEEP_CHANNELS = 1_000
"""Channels looked at in one go: some 2 ms. The next go comes SWEEP_SECONDS later."""
SWEEP_SECONDS = 0.05
TRIM_CHANNELS = 20_000
"""Channels dropped before the C library is asked to give back what it keeps of them: it walks through all memory."""
TRIM_BYTES = 64 * MIB
"""By so much what has a budget has become less, before the same is asked: it is some milliseconds each time then, for
which those who need memory wait."""
WAKES_AT_ONCE = 1_000
"""Channels read back from the journal in one go; others wait for the next."""
UNSENT_BYTES = 256 * KIB
"""Of one connection, taken by the kernel and not sent yet: it would copy up to 4 MiB for everyone who does not read,
while others wait. The reader: what is beyond it stays in the log, and is read on from there."""
OVERSTAGED = 4
"""Times staged_bytes: who is not read from any more may still have sent something, and requests come all the while."""
WAITING_BYTES = 1 * KIB
"""What a publish takes beside its messages while its channel wakes, or while it waits for ids of earlier lives or for
what it may be a repeat of. Publishers: it counts against ``staged_bytes`` of all."""
UNANSWERED_BYTES = 4 * MIB
"""Of one connection's publishes that are not stored yet. The publisher: it is not read from for a while."""
DOUBT_SECONDS = 8
"""A publish waits so long, at most, for a journal that failed under it and may have it or not; so does a repeat of it.
Then the publisher is told that the outcome is unknown (DISCONNECTED, or 504): libraries give up after 10 s."""
DOUBT_KEPT_SECONDS = 60
"""What has been in doubt for longer is taken back, not stored, when the journal can be asked: a repeat might come
when its ids are forgotten. At most half a window. The publisher: 50003, to be sent again. Only one batch can be in
doubt, so in bytes it is bounded by ``staged_bytes``."""
LOOKUPS_AT_ONCE = 256
"""Entries looked for in the journal in one go, to be compared with what may repeat them; others wait for the next."""
DECISIONS_AT_ONCE = 256
"""Publishes that have waited and are decided on in one go, some 3 ms; then others have their turn."""
WAKE_ENTRIES, WAKE_BYTES = 1_000, MIB
"""The newest entries of a channel that wakes, and the bytes of their records: its ring begins with them. Who reads from
further back gets them from the journal."""
RECALL_BYTES = 4 * MIB
"""Of one channel's blocks, read in one go to recall the ids of earlier lives: some 10 ms of a thread that shares the
interpreter. Then it is the turn of another channel, if one is waited for."""
REMEMBERED_NAMES = 1_000
"""Channel names of one connection whose capability is remembered; then it is worked out anew."""
PARAM_LENGTH = 1 * KIB
"""Characters of one param of an attachment, which is kept for its life. The client: 40003 for that channel."""
WAITING_STEPS = 100
"""Requests of one connection for one channel that wait for its ATTACH. The client: 42910 for that channel."""
NEWCOMERS = 4096
"""Connections that have not sent the head of their first request (those within a handshake of TLS, too); a quarter of
all descriptors, if that is less. One more waits in the kernel's queue until there is room."""
CROWDED_MS = 1_000
"""While there are so many, each may take so long for its head, and not ``handshake_seconds``: it is dropped."""
POST_CONNECTIONS = 10_000
"""HTTP connections that are served without a task of their own. One more: it gets a task."""
BODIES_BYTES = 128 * MIB
"""Of bodies_bytes, unless it is given. Who sends a body is not known before it is whole."""
ANSWERS_BYTES = 128 * MIB
"""Of all HTTP answers together that are on their way. Who asks for one more: 503, 50004, to be tried again; what has
been stored is told all the same."""
BODY_FREE_BYTES = 64 * KIB
"""Any one publish of the usual size finds room, whatever others do with large ones, unless bodies_bytes is given and is
less than that takes: several of them fit into the part of it that is spare."""
BODIES_AT_LEAST = 4
"""Bodies or messages of the largest size that fit into bodies_bytes: one may be held twice, in fragments and a part."""
SPARE_PART, SPARE_TIMES = 128, 5
"""The spare part of a room for bodies, and how many of one size find room in it (ext/net/room.pyx)."""
REPLIES_BYTES = 128 * MIB
"""Of all WebSocket connections together: replies and batches of replays that clients have not taken yet. Who leaves
more than his part of it unread: he loses his transport, and may resume."""
REPLAY_BYTES = 192 * KIB
"""One batch of a replay, of frames: what a slow reader can make the server hold for it alone."""
SHAPED_BYTES = 16 * KIB
"""The same for one who reads under a rate, and the most of a stream that is sent to it at a time: by so much a rate may
be overdrawn, and the next has to wait for it."""
REPLAY_THREADS = 4
"""Threads for batches of replays. One at a time reads: more would keep the interpreter from the loop for longer."""
JOURNAL_READERS = 8
"""Requests over HTTP that have a thread to read the journal with; more readers wait. One thread at a time reads it."""
LINGER_MS = 5_000
"""A peer has so long to answer our close frame; then its socket is closed."""
PAGES_AT_ONCE = 8
"""Pages of history that are put together at the same time, each of 1 MiB, as it is stored and as it is sent; others
wait, and whom they are for have turns. One thread makes them all: more at a time would be none sooner."""
NONCES = 100_000
"""Token requests remembered within their window of 4 minutes, per server. The requester: 42910."""
CAPABILITY_BYTES = 6 * KIB
"""Of a capability's text: a token that carries one has to fit into a request's head, in base64 of base64."""
CAPABILITY_RESOURCES = 200
"""Resources of one capability. An intersection looks at each pair: 40,000 take some 20 ms. The requester: 40000."""
CAPABILITY_SEGMENTS = 64
"""Of one resource. The requester: 40000."""
IDENTITIES_SHARED = 10_000
"""Keys whose identity is remembered, once for all their clients."""
CAPABILITIES_SHARED = 1_000
CAPABILITY_SHARED_BYTES = 1 * KIB
"""Capabilities no longer than this are remembered by their text, so many of them: 10 MB at worst."""
HASHES_KEPT = 4_000
"""Of apps and clientIds of connections: some 5 MB at worst, of the longest ones."""
CLIENT_ID_BYTES = 1 * KIB
"""Of a clientId: it is in tokens, too. The client: 40012."""
CHANNEL_NAME_BYTES = 2048
LARGE_INPUT_BYTES = 4 * KIB
"""A frame or body of so many bytes waits for its turn if it goes the long way: up to 5 ms of work, and one at a time.
Smaller ones take some 0.3 ms at most. Its sender waits, and is not read from meanwhile. Who lets frames and bodies be
larger than they are by default pays some 2 ms for each MiB of text in them."""
UNCOUNTED_BYTES = 1 * KIB
"""Of a message's id, and of its encoding: max_message_size does not count them. The publisher: 40031, 40013."""
INPUT_VALUES = 32_000
"""Values of one input (frame or body) that are made, keys included: some 3 ms of work, for which everybody else waits.
They are counted before the first is made. 1,000 messages with all members and five headers each have 27,000. The
sender: 40009 for that publish or request, however large messages may be otherwise."""
FIXTURE_VALUES = 100_000
"""The same of fixtures of statistics, which only a server in development takes: 1,000 of them have some 40,000."""
TOMBSTONES = 100_000
"""Connections that were closed, remembered so that their keys stay invalid; the oldest are forgotten first."""
REFUSED_KEYS = 100
"""Whose refusals are told apart in the log, each minute; those of more are told together."""
REVOCATION_TARGET_BYTES = 1 * KIB
"""Of what tokens are revoked by: a clientId, a revocation key, a channel. The requester: 40000."""
REVOCATION_TARGETS = 100
"""In one request. The requester: 40003."""
REVOCATIONS = 10_000
"""In force at once, per server; each is forgotten after an hour. The requester: 42910."""
CLOCK_MARKS = 4_096
"""Of how serials and elapsed time belong together: one for each time that the wall clock was set, and more while it is
behind. Beyond them the older ones are merged, and what they are about is held for a little longer."""
ASLEEP_MS = 3_600_000
"""Between two runs of the machine the wall clock alone says how much time has passed, and it may be wrong. So much of
it is believed; beyond that nothing grows old, and is held for longer: the operator's disk."""
SERIALS_AHEAD_MS = 100 * 366 * 24 * 3_600_000
"""So far serials, and timestamps with them, follow a wall clock that jumps ahead. Beyond it messages bear this time."""
