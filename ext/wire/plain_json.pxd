"""Read a plain publish in JSON, in one pass, into a builder. False: it is not plain.

    {"action":15,"channel":"c","msgSerial":7,"messages":[{"name":"n","data":"d"}]}          strings may have escapes"""
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memset

from ext.text.json_input cimport skip_blank, take, take_null, take_string, take_whole
from ext.text.msgpack_input cimport In
from ext.text.output cimport Out
from ext.text.utf8 cimport Text, is_utf8
from ext.wire.members cimport (ACTION, DROPPED, MESSAGE, OTHER, P_ACTION, P_CHANNEL, P_MESSAGES, P_MSG_SERIAL, P_OTHER,
                               first_time, message_member, protocol_member)
from ext.wire.plain cimport Builder, Members
from ext.wire.record cimport ENCODING


cdef inline bint _text(In* source, Text* text, Out* scratch) noexcept:
    return take_string(source, text, scratch, False) and is_utf8(text.data, text.size)


cdef inline bint _drop(In* source, Out* scratch) noexcept:
    cdef Text text
    cdef uint64_t number
    return take_null(source) or take_whole(source, &number) or _text(source, &text, scratch)


cdef inline bint _ends_in_base64(Text* encoding) noexcept nogil:
    return encoding.size >= 6 and memcmp(encoding.data + encoding.size - 6, b"base64", 6) == 0


cdef inline bint _json_message(In* source, Builder builder) except -1:
    cdef Members members
    cdef Text key
    cdef uint64_t number
    cdef int member
    memset(&members, 0, sizeof(Members))
    if not take(source, c'{'):
        return False
    while not take(source, c'}'):
        if members.seen and not take(source, c','):
            return False
        if not take_string(source, &key, &builder.scratch, False) or not take(source, c':'):
            return False
        member = message_member(key.data, key.size)
        if not first_time(&members.seen, member, OTHER):
            return False
        if member >= DROPPED:
            if not _drop(source, &builder.scratch):
                return False
        elif take_null(source):
            continue
        elif member == ACTION:
            if not take_whole(source, &number) or number != 0:
                return False
        elif not _text(source, &members.text[member], &builder.scratch):
            return False
    if _ends_in_base64(&members.text[ENCODING]):
        return False
    return builder.add(&members)


cdef inline bint _json_messages(In* source, Builder builder) except -1:
    if not take(source, c'['):
        return False
    while True:
        if not _json_message(source, builder):
            return False
        if not take(source, c','):
            return take(source, c']')


cdef inline bint read_json_messages(In* source, Builder builder) except -1:
    """One message, or an array of them, and nothing after it."""
    skip_blank(source)
    if source.at < source.size and source.data[source.at] == c'[':
        if not _json_messages(source, builder):
            return False
    elif not _json_message(source, builder):
        return False
    skip_blank(source)
    return source.at == source.size


cdef inline bint read_json(In* source, Builder builder) except -1:
    cdef Text key
    cdef uint64_t number
    cdef int member
    if not take(source, c'{'):
        return False
    while not take(source, c'}'):
        if builder.seen and not take(source, c','):
            return False
        if not take_string(source, &key, &builder.scratch, False) or not take(source, c':'):
            return False
        member = protocol_member(key.data, key.size)
        if not first_time(&builder.seen, member, P_OTHER):
            return False
        if member == P_ACTION:
            if not take_whole(source, &number) or number != MESSAGE:
                return False
        elif member == P_CHANNEL:
            if not _text(source, &builder.channel, &builder.scratch):
                return False
        elif member == P_MSG_SERIAL:
            if not take_whole(source, &builder.msg_serial):
                return False
        elif member == P_MESSAGES:
            if not _json_messages(source, builder):
                return False
        elif not _drop(source, &builder.scratch):
            return False
    skip_blank(source)
    return source.at == source.size
