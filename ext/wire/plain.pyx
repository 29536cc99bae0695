# cython: language_level=3, auto_pickle=False, autotestdict=False
"""The parts of a plain publish, collected while it is read, in any format.

    Builder   <- message by message, from ext/wire/plain_json.pxd or plain_msgpack.pxd

Plain means: creates, whose members are strings (data may be binary in msgpack): name, data, encoding, clientId, id.
Anything else is not plain, whether it is unusual (extras, params, base64, objects) or wrong: it takes the slow path,
which has the exact answer. So this module refuses nothing, and accepts nothing that the slow path would refuse."""
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from ext.text.msgpack_input cimport In
from ext.text.output cimport out_init, put, put_bin_header, put_byte, put_map_header, put_str
from ext.text.utf8 cimport Text
from ext.wire.record cimport CLIENT_ID, DATA, ENCODING, ID, MAX_MESSAGES, NAME

cdef enum:
    KEPT_ROOM = 256 * 1024      # larger buffers are freed after a publish
    UNCOUNTED_BYTES = 1024      # of id and of encoding: the slow path refuses more


cdef class Builder:
    """For one publish after the other. Its results, including strings of its own, are valid until the next one."""

    def __dealloc__(self):
        PyMem_Free(self.out.data)
        PyMem_Free(self.scratch.data)

    cdef int begin(self, In* source, const uint8_t* data, size_t size) except -1:
        source.data = data
        source.size = size
        source.at = 0
        self.channel.size = 0
        self.msg_serial = 0
        self.seen = self.count = 0
        self.size = 0
        self.ids = self.client_ids = None
        if self.out.room > KEPT_ROOM:               # do not keep the memory of one large publish
            PyMem_Free(self.out.data)
            self.out.data = NULL
        if self.scratch.room > KEPT_ROOM or self.scratch.room < size:       # it must never be moved
            PyMem_Free(self.scratch.data)
            self.scratch.data = NULL
            self.scratch.room = 0
        self.out.size = self.scratch.size = 0
        self.out.failed = self.scratch.failed = False
        if self.out.data is NULL:
            out_init(&self.out, size + ROOM)
        put_byte(&self.out, 0x91)                   # an array of one, like most
        return 0

    cdef bint complete(self) except -1:
        """At the end of the input: is there a message in it, and are their ids consistent?"""
        if self.out.failed or self.scratch.failed:
            raise MemoryError("no memory for a publish")
        return self.count > 0 and (self.ids is None or self._ids_fit())

    cdef bint add(self, Members* members) except -1:
        """Add one message; False: it is not plain."""
        cdef uint32_t present = 0
        cdef int i
        cdef Text* text = members.text
        for i in range(KEPT):
            present += text[i].data is not NULL
        put_map_header(&self.out, present)
        if not self._add_names(text) or self.count == MAX_MESSAGES or text[ENCODING].size > UNCOUNTED_BYTES:
            return False
        if text[NAME].data is not NULL:
            put(&self.out, b"\xa4name", 5)
            put_str(&self.out, text[NAME].data, text[NAME].size)
        if text[DATA].data is not NULL:
            put(&self.out, b"\xa4data", 5)
            if members.binary:
                put_bin_header(&self.out, text[DATA].size)
                put(&self.out, text[DATA].data, text[DATA].size)
            else:
                put_str(&self.out, text[DATA].data, text[DATA].size)
        if text[ENCODING].data is not NULL:
            put(&self.out, b"\xa8encoding", 9)
            put_str(&self.out, text[ENCODING].data, text[ENCODING].size)
        self.size += text[NAME].size + text[CLIENT_ID].size + text[DATA].size
        self.count += 1
        return True

    cdef bint _add_names(self, Text* text) except -1:
        """Its id and clientId, which are also needed as objects. Neither may be empty."""
        if text[ID].data is not NULL:
            if text[ID].size == 0 or text[ID].size > UNCOUNTED_BYTES:
                return False
            put(&self.out, b"\xa2id", 3)
            put_str(&self.out, text[ID].data, text[ID].size)
            if self.ids is None:
                self.ids = []
            if <uint32_t>len(self.ids) != self.count:
                return False                        # an earlier one has none
            self.ids.append(decoded(&text[ID]))
        if text[CLIENT_ID].data is not NULL:
            if text[CLIENT_ID].size == 0:
                return False
            put(&self.out, b"\xa8clientId", 9)
            put_str(&self.out, text[CLIENT_ID].data, text[CLIENT_ID].size)
            if self.client_ids is None:
                self.client_ids = [None] * <Py_ssize_t>self.count
            self.client_ids.append(decoded(&text[CLIENT_ID]))
        elif self.client_ids is not None:
            self.client_ids.append(None)
        return True

    cdef bint _ids_fit(self) except -1:
        """Does every message have an id, and are several all of the form <base>:<index>?"""
        cdef uint32_t index
        cdef str base
        if <uint32_t>len(self.ids) != self.count:
            return False
        if self.count == 1:
            return True
        base = self.ids[0]
        if not base.endswith(":0"):
            return False
        base = base[:-1]
        for index in range(1, self.count):
            if self.ids[index] != f"{base}{index}":
                return False
        return True


cdef str decoded(Text* text):
    return PyUnicode_DecodeUTF8(<const char*>text.data, <Py_ssize_t>text.size, NULL)
