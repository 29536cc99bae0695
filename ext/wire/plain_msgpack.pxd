"""Read a plain publish in msgpack, in one pass, into a builder. False: it is not plain.

    {action: 15, channel: "c", msgSerial: 7, messages: [{name: "n", data: "d"}]}            data may be bytes"""
from libc.stddef cimport size_t
from libc.string cimport memset

from ext.text.msgpack_input cimport I_ARRAY, I_BIN, I_MAP, I_NIL, I_STR, I_UINT, In, Item, read_item
from ext.text.utf8 cimport is_utf8
from ext.wire.members cimport (ACTION, DROPPED, MESSAGE, OTHER, P_ACTION, P_CHANNEL, P_MESSAGES, P_MSG_SERIAL, P_OTHER,
                               first_time, message_member, protocol_member)
from ext.wire.plain cimport Builder, Members
from ext.wire.record cimport DATA


cdef inline bint _droppable(Item* item) noexcept nogil:
    return item.kind == I_NIL or item.kind == I_UINT or item.kind == I_STR


cdef inline bint _msgpack_message(In* source, Builder builder) except -1:
    cdef Members members
    cdef Item item
    cdef size_t left
    cdef int member
    memset(&members, 0, sizeof(Members))
    if read_item(source, &item) != I_MAP:
        return False
    left = item.size
    while left:
        left -= 1
        if read_item(source, &item) != I_STR:
            return False
        member = message_member(item.data, item.size)
        if not first_time(&members.seen, member, OTHER):
            return False
        read_item(source, &item)
        if member >= DROPPED:
            if not _droppable(&item):
                return False
        elif item.kind == I_NIL:
            continue
        elif member == ACTION:
            if item.kind != I_UINT or item.number != 0:
                return False
        elif (item.kind == I_STR and is_utf8(item.data, item.size)) or (item.kind == I_BIN and member == DATA):
            members.text[member].data = item.data
            members.text[member].size = item.size
            if member == DATA:
                members.binary = item.kind == I_BIN
        else:
            return False
    return builder.add(&members)


cdef inline bint read_msgpack_messages(In* source, Builder builder) except -1:
    """As in JSON."""
    cdef Item item
    cdef size_t messages
    if source.size == 0:
        return False
    if 0x90 <= source.data[0] < 0xa0 or 0xdc <= source.data[0] <= 0xdd:
        if read_item(source, &item) != I_ARRAY:
            return False
        messages = item.size
        while messages:
            messages -= 1
            if not _msgpack_message(source, builder):
                return False
    elif not _msgpack_message(source, builder):
        return False
    return source.at == source.size


cdef inline bint read_msgpack(In* source, Builder builder) except -1:
    cdef Item item
    cdef size_t left, messages
    cdef int member
    if read_item(source, &item) != I_MAP:
        return False
    left = item.size
    while left:
        left -= 1
        if read_item(source, &item) != I_STR:
            return False
        member = protocol_member(item.data, item.size)
        if not first_time(&builder.seen, member, P_OTHER):
            return False
        read_item(source, &item)
        if member == P_ACTION:
            if item.kind != I_UINT or item.number != MESSAGE:
                return False
        elif member == P_CHANNEL:
            if item.kind != I_STR or not is_utf8(item.data, item.size):
                return False
            builder.channel.data = item.data
            builder.channel.size = item.size
        elif member == P_MSG_SERIAL:
            if item.kind != I_UINT or item.number >> 63:
                return False
            builder.msg_serial = item.number
        elif member == P_MESSAGES:
            if item.kind != I_ARRAY:
                return False
            messages = item.size
            while messages:
                messages -= 1
                if not _msgpack_message(source, builder):
                    return False
        elif not _droppable(&item):
            return False
    return source.at == source.size
