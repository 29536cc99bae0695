# cython: language_level=3, auto_pickle=False, autotestdict=False
"""An entry's neutral bytes, and properties that can be read without decoding. Their form: see record.pxd."""
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from ext.text.msgpack_input cimport In
from ext.text.output cimport Out, bytes_of, out_init, put, put_array_header, put_byte, put_str, put_uint
from ext.text.utf8 cimport Text

from ext.text.serial import connection_origin

DEEPEST = DEEPEST_EXTRAS    # anything deeper must not be kept: it could not be delivered

cdef enum:
    HEAD_ROOM = 128         # usually enough for everything before the messages


def encode_record(str id not None, str connection_id, str client_id, uint64_t flags, bytes messages not None):
    """A record; ``messages`` is the msgpack array of a Publish, ``client_id`` that of messages without one."""
    cdef Out out
    out_init(&out, HEAD_ROOM + <size_t>len(messages))
    try:
        put_array_header(&out, 5)
        _put_optional(&out, id)
        _put_optional(&out, connection_id)
        _put_optional(&out, client_id)
        put_uint(&out, flags)
        put(&out, <const char*>messages, <size_t>len(messages))
        return bytes_of(&out, "a record")
    finally:
        PyMem_Free(out.data)


cdef int _put_optional(Out* out, str text) except -1:
    cdef Py_ssize_t size
    cdef const char* data
    if text is None:
        put_byte(out, 0xc0)
    else:
        data = PyUnicode_AsUTF8AndSize(text, &size)
        put_str(out, data, <size_t>size)
    return 0


cdef str _decode(Text* text):
    return PyUnicode_DecodeUTF8(<const char*>text.data, <Py_ssize_t>text.size, NULL)


def record_messages(bytes record not None):
    """The number of messages in the entry. Reads only the record's head."""
    cdef In source
    cdef Head head
    open_record(&source, record, &head)
    return head.count


def record_origin(bytes record not None):
    """The origin of the connection that published it; 0: none. Reads only the record's head."""
    cdef In source
    cdef Head head
    open_record(&source, record, &head)
    return 0 if head.connection_id.data is NULL else connection_origin(_decode(&head.connection_id))


def record_ids(bytes record not None):
    """The ids of its messages, given or derived. Raises: ValueError, if anything in the record is malformed."""
    cdef In source
    cdef Head head
    cdef Fields fields
    cdef uint32_t index
    cdef str base
    cdef list ids = []
    open_record(&source, record, &head)
    base = _decode(&head.id)
    for index in range(head.count):
        read_message(&source, &fields)
        ids.append(f"{base}:{index}" if fields.text[ID].data is NULL else _decode(&fields.text[ID]))
    end_record(&source)
    return ids
