# cython: language_level=3
"""The answer to one HTTP request, assembled as its parts become known.

    respond ------------------------------------------+--> write: the bytes
    expect (staged, or about to be) --+--> accept ----+           201, with the serials
                                      +--> refuse ----+           the permit's response to the error"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from ext.net.permit cimport Permit, Place
from ext.text.output cimport Out, put


@cython.final
cdef class Answer:
    """See above. One for each connection, reused for its requests."""

    cdef void respond(self, bytes response) noexcept:
        """Answer with this complete response."""
        self._response = response

    cdef void expect(self, Permit permit, Place place, bytes message_id, bint named) noexcept:
        """Answer with the outcome of a publish, once it is accepted or refused.

        Args:
            named: ``message_id`` is the id of its only message; else it is the prefix of the messages' ids."""
        self._permit = permit
        self._place = place
        self._message_id = message_id
        self._named = named

    cdef void accept(self, uint64_t serial, str series, uint32_t first, uint32_t count) noexcept:
        """Stored: the messages have ``serial``, from index ``first`` on."""
        self._serial = serial
        self._series = series
        self._first = first
        self._count = count

    cdef void refuse(self, object error) noexcept:
        """Not stored, because of this error."""
        self._error = error

    cdef Permit write(self, Out* out, bytes date, bint last):
        """Write the response and reset. Returns the permit, if the response says that a publish is stored.

        Args:
            last: the connection ends after this response."""
        cdef Permit permit = None
        cdef bytes response = self._response
        if response is None and self._error is not None:
            response = self._permit.refuse(self._whole_error())
        if response is not None:
            put(out, <const char*>response, <size_t>len(response))
            if out.failed:
                raise MemoryError("no memory for an answer")
        else:
            permit = self._permit
            permit.write_answer(out, self._place, self._message_id, self._serial, self._series, self._first,
                                self._count, date, last)
        self._response = self._message_id = None
        self._permit = None
        self._place = None
        self._series = None
        self._error = None
        return permit

    cdef object _whole_error(self):
        """The error to report. If the publish may be stored nevertheless, ``about`` names its first message."""
        about = getattr(self._error, "about", None)
        if about is None:
            return self._error
        return about((self._message_id if self._named else self._message_id + b":0").decode())
