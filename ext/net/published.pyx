# cython: language_level=3
"""The body of the 201 for a publish over HTTP, written in one go.

    {"channel": <as in the request>, "messageId": <...>, "serials": [<one for each message>, ...]}
     |------ opening, once for many ------|

The same as ``published`` of server/rest/publishing.py, byte for byte."""
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.text.output cimport (Out, bytes_of, out_init, put, put_array_header, put_byte, put_json_text, put_str,
                              put_str_header)
from ext.text.serial cimport MESSAGE_TEXT_LENGTH, SERIES_LENGTH, write_index, write_serial_text

cdef enum:
    OPENING_ROOM = 512


cdef bytes opening_of(str channel, bint msgpack):
    """Everything before the message id. Raises: UnicodeEncodeError, if the name is not text."""
    cdef Out out
    cdef Py_ssize_t size = 0
    cdef const char* name = PyUnicode_AsUTF8AndSize(channel, &size)
    out_init(&out, OPENING_ROOM)
    try:
        if msgpack:
            put(&out, b"\x83\xa7channel", 9)
            put_str(&out, name, <size_t>size)
            put(&out, b"\xa9messageId", 10)
        else:
            put(&out, b'{"channel":', 11)
            put_json_text(&out, <const uint8_t*>name, <size_t>size)
            put(&out, b',"messageId":', 13)
        return bytes_of(&out, "an answer")
    finally:
        PyMem_Free(out.data)


cdef int put_published(Out* out, bint msgpack, bytes opening, bytes message_id, uint64_t serial, str series, uint32_t first,
                       uint32_t count) except -1:
    """Write the complete body, after its opening; the messages have ``serial``, from ``first`` on."""
    cdef uint8_t text[MESSAGE_TEXT_LENGTH]
    cdef Py_ssize_t size = 0
    cdef const char* name = PyUnicode_AsUTF8AndSize(series, &size)
    cdef const uint8_t* id = <const uint8_t*><const char*>message_id
    cdef uint32_t n
    if size != SERIES_LENGTH:
        raise ValueError(f"{series!r} is no series")
    write_serial_text(text, serial, <const uint8_t*>name)
    put(out, <const char*>opening, <size_t>len(opening))
    if msgpack:
        put_str(out, id, <size_t>len(message_id))
        put(out, b"\xa7serials", 8)
        put_array_header(out, count)
    else:
        put_json_text(out, id, <size_t>len(message_id))
        put(out, b',"serials":[', 12)
    for n in range(first, first + count):
        write_index(text, n)
        if msgpack:
            put_str_header(out, MESSAGE_TEXT_LENGTH)
        elif n > first:
            put(out, b',"', 2)
        else:
            put_byte(out, c'"')
        put(out, text, MESSAGE_TEXT_LENGTH)
        if not msgpack:
            put_byte(out, c'"')
    if not msgpack:
        put(out, b"]}", 2)
    return 0
