# cython: language_level=3
"""One connection that publishes over HTTP: what it has sent, and what it is to be told.

    held    |######## the request under way ########|==== what came behind it ====|
            0                                       taken                         used

    READING --a whole request--> ASKED --outcome--> (SENDING, while the peer does not take it all) --> READING
       +--no room for it--> ENDING: it is told, and what it still sends is thrown away

It is a ``Completion`` for the sequencer: who has published is told once, and puts itself into the list of those that have
something to say. What is done with it is ext/net/posts.pyx's."""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from ext.net.kernel cimport c_close
from ext.net.permit cimport Permit, Place

cdef enum:
    MAX_AHEAD = 64 * 1024       # of room for more than has come


@cython.final
@cython.no_gc_clear
cdef class Caller:
    """See above. Made by ``Posts.take``."""

    def expect(self, Permit permit not None, Place place not None, str message_id not None, bint named=True):
        """What it has asked for is staged, or about to be: it is told in this manner once it is accepted or refused.

        Args:
            named: ``message_id`` is its only message's own; else the ids of its messages begin with it.
        """
        self._permit = permit
        self._place = place
        self._message_id = message_id.encode()
        self._named = named

    def reply(self, bytes response not None):
        """What it has asked for is answered with this, whole."""
        self._reply = response
        self._touch()

    def accepted(self, uint64_t serial, str series not None, uint32_t index, uint32_t count):
        """Stored: its messages have ``serial``, from ``index`` on."""
        self._serial = serial
        self._series = series
        self._first = index
        self._count = count
        self._touch()

    def refused(self, error not None):
        """Not stored, for this reason."""
        self._error = error
        self._touch()

    cdef object whole_error(self):
        """The error to tell. One that speaks of a publish that may be stored names it: ``about`` its first message."""
        about = getattr(self._error, "about", None)
        if about is None:
            return self._error
        return about((self._message_id if self._named else self._message_id + b":0").decode())

    cdef int _touch(self) except -1:
        if not self._touched and self._state == ASKED:
            self._touched = True
            self._told.append(self)
        return 0

    cdef bint append(self, const uint8_t* data, size_t size, bint must) except -1:
        """Hold these bytes too, behind the others; False: there is no room for them. There is, if they ``must`` be held."""
        cdef size_t room
        cdef uint8_t* grown
        if size == 0:
            return True
        if self._room - self._used < size:
            room = max(self._room * 2 if self._room < MAX_AHEAD else self._room + MAX_AHEAD, self._used + size)
            if not self._all.take(self._room, room - self._room):
                if not must:
                    return False
                self._all.hold(room - self._room)
            grown = <uint8_t*>realloc(self._held, room)
            if grown is NULL:
                self._all.release(room - self._room)
                raise MemoryError("no memory for a request")
            self._held = grown
            self._room = room
        memcpy(self._held + self._used, data, size)
        self._used += size
        return True

    cdef void drop(self, size_t size) noexcept:
        """The first bytes of what is held have been dealt with."""
        self._used -= size
        if self._used:
            memmove(self._held, self._held + size, self._used)
        else:
            free(self._held)            # most connections are idle most of the time
            self._all.release(self._room)
            self._held = NULL
            self._room = 0

    def __dealloc__(self):
        if self._room:
            self._all.release(self._room)
        free(self._held)
        if self._fd >= 0:
            c_close(self._fd)
