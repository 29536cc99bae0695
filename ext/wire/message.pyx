# cython: language_level=3, auto_pickle=False, autotestdict=False
"""One message of an entry on the wire, in either format, as in a delivery; history (ext/wire/stored.pyx) adds more.

    {"id":..,"clientId":..,"name":..,"data":..,"encoding":..,"extras":..,"action":0,"serial":"s:000"}

Without an id of its own, a message's id is that of the entry and its index. In JSON, binary data is base64, and the
encoding says so."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from ext.text.msgpack_input cimport I_ARRAY, I_BIN, I_BOOL, I_FLOAT, I_MAP, I_NEGATIVE, I_STR, I_UINT, In, Item, read_item
from ext.text.output cimport (Out, put, put_base64, put_bin_header, put_byte, put_decimal, put_json_text, put_map_header, put_str,
                              put_str_header, put_uint)
from ext.text.serial cimport MESSAGE_TEXT_LENGTH
from ext.text.utf8 cimport Text
from ext.wire.record cimport CLIENT_ID, DATA, ENCODING, ID, NAME, Fields, Head


cdef int _put_json_value(Out* out, In* source) except -1:
    """A value of extras. It was checked when it was read, so its depth and its types are limited."""
    cdef Item item
    cdef size_t i
    cdef bytes text
    read_item(source, &item)
    if item.kind == I_STR:
        put_json_text(out, item.data, item.size)
    elif item.kind == I_BIN:
        put_base64(out, item.data, item.size)
    elif item.kind == I_UINT:
        put_decimal(out, item.number)
    elif item.kind == I_NEGATIVE:
        put_byte(out, c'-')
        put_decimal(out, 0 - item.number)
    elif item.kind == I_FLOAT:
        text = repr(item.real).encode()             # the shortest text that reads as the same number
        put(out, <const char*>text, <size_t>len(text))
    elif item.kind == I_BOOL:
        put_literal(out, "true" if item.number else "false")
    elif item.kind == I_ARRAY:
        put_byte(out, c'[')
        for i in range(item.size):
            if i:
                put_byte(out, c',')
            _put_json_value(out, source)
        put_byte(out, c']')
    elif item.kind == I_MAP:
        put_byte(out, c'{')
        for i in range(item.size):
            if i:
                put_byte(out, c',')
            _put_json_value(out, source)
            put_byte(out, c':')
            _put_json_value(out, source)
        put_byte(out, c'}')
    else:
        put_literal(out, "null")
    return 0


cdef inline void _reopen(Out* out) noexcept nogil:
    """Remove the closing quote of the JSON string written last, to append to it."""
    if not out.failed:
        out.size -= 1


cdef int put_json_message(Out* out, Fields* fields, Head* head, const uint8_t* name, uint32_t index) except -1:
    cdef Text* text = fields.text
    put_literal(out, b'{"id":')
    if text[ID].data is not NULL:
        put_json_text(out, text[ID].data, text[ID].size)
    else:
        put_json_text(out, head.id.data, head.id.size)
        _reopen(out)
        put_byte(out, c':')
        put_decimal(out, index)
        put_byte(out, c'"')
    if text[CLIENT_ID].data is not NULL:
        put_literal(out, b',"clientId":')
        put_json_text(out, text[CLIENT_ID].data, text[CLIENT_ID].size)
    if text[NAME].data is not NULL:
        put_literal(out, b',"name":')
        put_json_text(out, text[NAME].data, text[NAME].size)
    if text[DATA].data is not NULL:
        put_literal(out, b',"data":')
        if fields.binary:
            put_base64(out, text[DATA].data, text[DATA].size)
        else:
            put_json_text(out, text[DATA].data, text[DATA].size)
    if fields.binary:
        put_literal(out, b',"encoding":')
        if text[ENCODING].size:
            put_json_text(out, text[ENCODING].data, text[ENCODING].size)
            _reopen(out)
            put_literal(out, b'/base64"')
        else:
            put_literal(out, b'"base64"')
    elif text[ENCODING].data is not NULL:
        put_literal(out, b',"encoding":')
        put_json_text(out, text[ENCODING].data, text[ENCODING].size)
    if fields.extras.data is not NULL:
        put_literal(out, b',"extras":')
        _put_json_value(out, &fields.extras)
    put_literal(out, b',"action":0,"serial":"')
    put(out, name, MESSAGE_TEXT_LENGTH)
    put(out, b'"}', 2)
    return 0


cdef void put_msgpack_message(Out* out, Fields* fields, Head* head, const uint8_t* name, uint32_t index,
                              uint32_t more) noexcept:
    """``more`` members follow."""
    cdef Text* text = fields.text
    cdef size_t digits
    put_map_header(out, 3 + (text[CLIENT_ID].data is not NULL) + (text[NAME].data is not NULL)
                   + (text[DATA].data is not NULL) + (text[ENCODING].data is not NULL)
                   + (fields.extras.data is not NULL) + more)
    put_literal(out, b"\xa2id")
    if text[ID].data is not NULL:
        put_str(out, text[ID].data, text[ID].size)
    else:
        digits = 1 if index < 10 else 2 if index < 100 else 3
        put_str_header(out, head.id.size + 1 + digits)
        put(out, head.id.data, head.id.size)
        put_byte(out, c':')
        put_decimal(out, index)
    if text[CLIENT_ID].data is not NULL:
        put_literal(out, b"\xa8clientId")
        put_str(out, text[CLIENT_ID].data, text[CLIENT_ID].size)
    if text[NAME].data is not NULL:
        put_literal(out, b"\xa4name")
        put_str(out, text[NAME].data, text[NAME].size)
    if text[DATA].data is not NULL:
        put_literal(out, b"\xa4data")
        if fields.binary:
            put_bin_header(out, text[DATA].size)
        else:
            put_str_header(out, text[DATA].size)
        put(out, text[DATA].data, text[DATA].size)
    if text[ENCODING].data is not NULL:
        put_literal(out, b"\xa8encoding")
        put_str(out, text[ENCODING].data, text[ENCODING].size)
    if fields.extras.data is not NULL:
        put_literal(out, b"\xa6extras")
        put(out, fields.extras.data, fields.extras.size)
    put_literal(out, b"\xa6action")
    put_uint(out, 0)
    put_literal(out, b"\xa6serial")
    put_str(out, name, MESSAGE_TEXT_LENGTH)
