from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport strlen

from ext.text.output cimport Out, put
from ext.text.serial cimport SERIES_LENGTH, write_serial_text
from ext.wire.record cimport Fields, Head


cdef inline void put_literal(Out* out, const char* text) noexcept:
    put(out, text, strlen(text))


cdef inline int write_position(uint8_t* to, uint64_t serial, str series) except -1:
    cdef Py_ssize_t size
    cdef const char* text = PyUnicode_AsUTF8AndSize(series, &size)
    if size != SERIES_LENGTH:
        raise ValueError(f"a series has {<int>SERIES_LENGTH} characters, got {series!r}")
    write_serial_text(to, serial, <const uint8_t*>text)
    return 0


cdef int put_json_message(Out* out, Fields* fields, Head* head, const uint8_t* name, uint32_t index) except -1
cdef void put_msgpack_message(Out* out, Fields* fields, Head* head, const uint8_t* name, uint32_t index,
                              uint32_t more) noexcept
