# cython: language_level=3
"""The memory bound for all rings and streams of the server together, and what is evicted beyond it.

    Budget     held <= most, but for the message that is being shown
      Share        one app's rings and streams; the largest is evicted from, so a large share never presses a small one
        frames         pieces, oldest first:  segments of streams; they can be made again from the entries
        entries        pieces, oldest first:  runs of a ring's entries; they can be read back from the journal

A piece is freed by its holder, which knows its contents. The oldest piece goes first, of whatever channel: an inactive
channel is emptied before a busy one, and memory holds the newest part of all logs. Holders count memory as they
allocate it; they evict only in ``settle``, after a message is complete in ring and streams."""
cimport cython
from libc.stdint cimport UINT64_MAX, uint64_t

cdef enum:
    KEPT_FRAMES = 32 * 1024 * 1024  # of one share: readers at the head need the newest frames
    FRAMES_PART = 4                 # ... but no more than this part of the budget
    MAX_PIECES = 256               # in one go: about 100 us; what is too much then goes with the next message


cdef void enqueue(Queue* queue, Piece* piece) noexcept nogil:
    """Append the piece as the newest."""
    piece.newer = NULL
    piece.older = queue.newest
    if queue.newest is NULL:
        queue.oldest = piece
    else:
        queue.newest.newer = piece
    queue.newest = piece


cdef void dequeue(Queue* queue, Piece* piece) noexcept nogil:
    if piece.older is NULL:
        queue.oldest = piece.newer
    else:
        piece.older.newer = piece.newer
    if piece.newer is NULL:
        queue.newest = piece.older
    else:
        piece.newer.older = piece.older


@cython.no_gc_clear
cdef class Holder:
    """A ring or a stream: it has pieces in a share."""

    cdef void let_go(self, Piece* piece) noexcept:
        """Free memory: this piece, if not all of it is needed now. It is the oldest of its kind in the share."""


@cython.final
@cython.no_gc_clear
cdef class Share:
    """One app's part of the budget. Made by ``Budget.share``."""


@cython.final
cdef class Budget:
    """See above. ``most``: bytes."""

    def __init__(self, uint64_t most):
        self.limit(most)
        self._shares = []

    def limit(self, uint64_t most):
        """Change the bound: ``settle``, and each new message, evict what is beyond it."""
        self.most = most
        self.kept_frames = min(<uint64_t>KEPT_FRAMES, most // FRAMES_PART)

    def share(self):
        """A new share."""
        cdef Share share = Share.__new__(Share)
        share.budget = self
        self._shares.append(share)
        return share

    def settle(self):
        """Evict the oldest pieces until the bound holds. Messages that are shown one by one do this themselves."""
        while self.held > self.most and self._oldest() is not NULL:
            self.make_room()

    cdef void make_room(self) noexcept:
        cdef int pieces = MAX_PIECES
        cdef Piece* piece
        while self.held > self.most and pieces:
            pieces -= 1
            piece = self._oldest()
            if piece is NULL:
                return                  # only tables of rings in use are left
            self.pressed += 1
            (<Holder>piece.holder).let_go(piece)

    cdef Piece* _oldest(self) noexcept:
        """The piece to evict next."""
        cdef Share share = self._victim, other
        if share is None or share.held <= self.most // <uint64_t>len(self._shares) or _first(share) is NULL:
            self._victim = None
            for other in self._shares:
                if _first(other) is not NULL and (self._victim is None or other.held > self._victim.held):
                    self._victim = other
            share = self._victim
        return _first(share) if share is not None else NULL


cdef Piece* _first(Share share) noexcept:
    if share.frames_queue.oldest is not NULL and (share.frames > share.budget.kept_frames
                                                  or share.entries_queue.oldest is NULL):
        return share.frames_queue.oldest
    return share.entries_queue.oldest


cdef Share _UNBOUNDED = Budget(UINT64_MAX).share()


cdef Share unbounded():
    """A share without bound, for rings that belong to no server."""
    return _UNBOUNDED
