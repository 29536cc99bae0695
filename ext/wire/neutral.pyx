# cython: language_level=3
"""From messages as values to the bytes that a record holds of them (drawn in ext/wire/record.pxd): all valid kinds.

    Packer.add(message) -> True     it has been added: its bytes, its size, its ids
                           False    it is invalid, and nothing has been added: the caller finds out why

``data`` may be text, bytes, or a JSON value; extras are maps of JSON values, without nulls and ``delta``. The functions
at the end help the caller to report what is wrong; they are as fast for very many values."""
cimport cython
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.math cimport isfinite
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ext.text.output cimport (Out, base64_value, bytes_of, out_init, put, put_array_header, put_big_endian, put_bin_header,
                         put_byte, put_map_header, put_str, put_uint, reserve)
from ext.wire.record cimport DEEPEST_EXTRAS
from ext.text.utf8 cimport Text

cdef enum:
    ROOM = 512
    UNCOUNTED_BYTES = 1024      # of id and of encoding, as in ext/wire/plain.pyx


@cython.final
cdef class Packer:
    """For one publish. ``size`` counts against maxMessageSize; ``ids`` has the ids that messages have, and
    ``client_ids`` one for each message (None: it has none)."""
    cdef readonly uint32_t count
    cdef readonly uint32_t ephemeral        # number of ephemeral messages
    cdef readonly bint privileged           # one of them is
    cdef readonly uint64_t size
    cdef readonly list ids, client_ids
    cdef Out _out
    cdef bint _base64                       # data may be base64, if its encoding says so
    cdef object _to_json

    def __init__(self, to_json, *, bint base64):
        """
        Args:
            to_json: returns a value as JSON text, in bytes. Raises: ValueError, if JSON cannot represent it.
        """
        self._to_json = to_json
        self._base64 = base64
        self.ids = []
        self.client_ids = []
        out_init(&self._out, ROOM)

    def __dealloc__(self):
        PyMem_Free(self._out.data)

    def add(self, dict message not None):
        """See above. Raises: MemoryError."""
        cdef size_t start = self._out.size
        try:
            if self._add(message):
                return True
        except ValueError:                  # includes UnicodeEncodeError
            pass
        self._out.size = start
        return False

    def messages(self):
        """All messages, as a msgpack array."""
        cdef Out whole
        out_init(&whole, self._out.size + 8)
        try:
            put_array_header(&whole, self.count)
            put(&whole, self._out.data, self._out.size)
            whole.failed |= self._out.failed
            return bytes_of(&whole, "a publish")
        finally:
            PyMem_Free(whole.data)

    cdef bint _add(self, dict message) except -1:
        cdef Out* out = &self._out
        cdef Text id, client_id, name, encoding
        cdef uint64_t size = 0
        cdef uint32_t present = 0
        cdef bint ephemeral = False, privileged = False
        cdef bytes json = None
        cdef object data = message.get("data"), extras = message.get("extras"), action = message.get("action")
        cdef object given_id = message.get("id"), given_client_id = message.get("clientId")
        cdef size_t header = out.size
        if action is not None and action != 0:
            return False
        if not (_text(given_id, &id) and _text(given_client_id, &client_id) and _text(message.get("name"), &name)
                and _text(message.get("encoding"), &encoding)):
            return False
        if (id.size > UNCOUNTED_BYTES or encoding.size > UNCOUNTED_BYTES or (id.data is not NULL and id.size == 0)
                or (client_id.data is not NULL and client_id.size == 0)):
            return False
        put_byte(out, 0x80)
        present += _put_text(out, b"\xa2id", 3, &id)
        present += _put_text(out, b"\xa8clientId", 9, &client_id)
        present += _put_text(out, b"\xa4name", 5, &name)
        if data is not None:
            present += 1
            put(out, b"\xa4data", 5)
            if not self._put_data(data, &encoding, &size):
                return False
        present += _put_text(out, b"\xa8encoding", 9, &encoding)
        if extras is not None:
            if not isinstance(extras, dict):
                return False
            extras = _kept_map(<dict>extras, 1, True)
            if extras:
                if "push" in <dict>extras:          # engine/absent.py
                    return False
                present += 1
                ephemeral = (<dict>extras).get("ephemeral") is True
                privileged = "privileged" in <dict>extras
                json = self._to_json(extras)
                size += <size_t>len(json)
                put(out, b"\xa6extras", 7)
                _put_value(out, extras)
        if out.failed:
            raise MemoryError("no memory for a publish")
        out.data[header] = <uint8_t>(0x80 | present)
        if given_id is not None:
            self.ids.append(given_id)
        self.client_ids.append(given_client_id)
        self.size += size + name.size + client_id.size
        self.ephemeral += ephemeral
        self.privileged |= privileged
        self.count += 1
        return True

    cdef bint _put_data(self, object data, Text* encoding, uint64_t* size) except -1:
        """``encoding`` becomes that of the data as it is kept."""
        cdef Out* out = &self._out
        cdef Text text
        cdef bytes json
        cdef size_t at
        if type(data) is str:
            _text(data, &text)
            if self._base64 and _ends_in_base64(encoding):
                at = out.size
                if _put_decoded(out, &text):
                    encoding.size -= 6
                    if encoding.size:
                        encoding.size -= 1          # the slash
                    if encoding.size == 0:
                        encoding.data = NULL
                    size[0] += text.size // 4 * 3 - _padding(&text)
                    return True
                out.size = at
            put_str(out, text.data, text.size)
        elif type(data) is bytes:
            text.size = <size_t>len(<bytes>data)
            put_bin_header(out, text.size)
            put(out, <const char*><bytes>data, text.size)
        elif isinstance(data, (dict, list)) and encoding.size == 0:
            json = self._to_json(data)
            if not is_finite(data):
                return False
            text.size = <size_t>len(json)
            put_str(out, <const char*>json, text.size)
            encoding.data = b"json"
            encoding.size = 4
        else:
            return False
        size[0] += text.size
        return True


cdef bint _text(object value, Text* text) except -1:
    """False: it is neither text nor None. Raises: UnicodeEncodeError."""
    cdef Py_ssize_t size = 0
    text.data = NULL
    text.size = 0
    if value is None:
        return True
    if type(value) is not str:
        return False
    text.data = <const uint8_t*>PyUnicode_AsUTF8AndSize(value, &size)
    text.size = <size_t>size
    return True


cdef bint _put_text(Out* out, const char* name, size_t size, Text* text) noexcept:
    if text.data is NULL:
        return False
    put(out, name, size)
    put_str(out, text.data, text.size)
    return True


cdef bint _ends_in_base64(Text* encoding) noexcept:
    """Is base64 the last encoding in the list?"""
    cdef size_t before
    if encoding.size < 6:
        return False
    before = encoding.size - 6
    return memcmp(encoding.data + before, b"base64", 6) == 0 and (before == 0 or encoding.data[before - 1] == c'/')


cdef size_t _padding(Text* text) noexcept:
    return <size_t>(text.size > 0 and text.data[text.size - 1] == c'=') + (
        text.size > 0 and text.data[text.size - 2] == c'=')


cdef bint _put_decoded(Out* out, Text* text) noexcept:
    """Write base64 text as bytes. False, if encoding them would not give exactly this text; it is then kept as it came:
    its receivers may know what it is."""
    cdef size_t i, whole, padding, size
    cdef uint32_t group, a, b, c, d
    cdef const uint8_t* data = text.data
    cdef uint8_t* to
    if text.size % 4:
        return False
    padding = _padding(text)
    size = text.size // 4 * 3 - padding
    put_bin_header(out, size)
    if not reserve(out, size + 3):
        return True
    to = out.data + out.size
    whole = text.size - 4 if padding else text.size
    for i in range(0, whole, 4):
        a = base64_value(data[i])
        b = base64_value(data[i + 1])
        c = base64_value(data[i + 2])
        d = base64_value(data[i + 3])
        if (a | b | c | d) > 63:
            return False
        group = a << 18 | b << 12 | c << 6 | d
        to[0] = <uint8_t>(group >> 16)
        to[1] = <uint8_t>(group >> 8 & 255)
        to[2] = <uint8_t>(group & 255)
        to += 3
    if padding:
        a = base64_value(data[whole])
        b = base64_value(data[whole + 1])
        c = base64_value(data[whole + 2]) if padding == 1 else 0
        if (a | b | c) > 63 or (c & 3 if padding == 1 else b & 15):
            return False
        group = a << 18 | b << 12 | c << 6
        to[0] = <uint8_t>(group >> 16)
        to[1] = <uint8_t>(group >> 8 & 255)
    out.size += size
    return True


cdef int _put_value(Out* out, object value) except -1:
    """A value of extras, already checked: its depth is limited, and every value can be represented."""
    cdef Text text
    cdef int64_t number
    cdef double real
    cdef uint64_t bits
    if type(value) is str:
        _text(value, &text)
        put_str(out, text.data, text.size)
    elif value is None:
        put_byte(out, 0xc0)
    elif type(value) is bool:
        put_byte(out, 0xc3 if value else 0xc2)
    elif isinstance(value, int):
        if value >= 0:
            put_uint(out, <uint64_t>value)
        else:
            number = value
            if number >= -32:
                put_byte(out, <uint8_t>(number & 0xff))
            elif number >= -(1 << 7):
                put_big_endian(out, 0xd0, <uint64_t>number, 1)
            elif number >= -(1 << 15):
                put_big_endian(out, 0xd1, <uint64_t>number, 2)
            elif number >= -(<int64_t>1 << 31):
                put_big_endian(out, 0xd2, <uint64_t>number, 4)
            else:
                put_big_endian(out, 0xd3, <uint64_t>number, 8)
    elif type(value) is float:
        real = value
        memcpy(&bits, &real, 8)
        put_big_endian(out, 0xcb, bits, 8)
    elif type(value) is list:
        put_array_header(out, <uint32_t>len(<list>value))
        for item in <list>value:
            _put_value(out, item)
    elif type(value) is dict:
        put_map_header(out, <uint32_t>len(<dict>value))
        for key, item in (<dict>value).items():
            _put_value(out, key)
            _put_value(out, item)
    elif type(value) is bytes:
        put_bin_header(out, <size_t>len(<bytes>value))
        put(out, <const char*><bytes>value, <size_t>len(<bytes>value))
    else:
        raise ValueError(f"{type(value).__name__} has no place in a record")
    return 0


cdef object _kept_value(object value, int depth):
    """The value without the nulls in its maps: the same object, if there are none.

    Raises: ValueError, if it is too deep, or contains a number that JSON cannot represent."""
    cdef Py_ssize_t i
    cdef list items = None
    if type(value) is dict:
        return _kept_map(<dict>value, depth, False)
    if type(value) is float:
        if not isfinite(<double>value):
            raise ValueError("NaN and infinity have no JSON form")
    elif type(value) is list:
        if depth > DEEPEST_EXTRAS:
            raise ValueError(f"must not be nested deeper than {<int>DEEPEST_EXTRAS}")
        for i in range(len(<list>value)):
            item = (<list>value)[i]
            kept = _kept_value(item, depth + 1)
            if kept is not item:
                if items is None:
                    items = list(<list>value)
                items[i] = kept
        if items is not None:
            return items
    return value


cdef dict _kept_map(dict value, int depth, bint top):
    cdef dict members = None
    if depth > DEEPEST_EXTRAS:
        raise ValueError(f"must not be nested deeper than {<int>DEEPEST_EXTRAS}")
    for key, item in value.items():
        if item is None or (top and key == "delta"):
            if members is None:
                members = value.copy()
            del members[key]
            continue
        kept = _kept_value(item, depth + 1)
        if kept is not item:
            if members is None:
                members = value.copy()
            members[key] = kept
    return value if members is None else members


def is_finite(value):
    """Are all numbers in it finite (no NaN, no infinity)? Its depth must permit recursion."""
    if type(value) is float:
        return bool(isfinite(<double>value))
    if isinstance(value, dict):
        for item in (<dict>value).values():
            if not _is_plain(item) and not is_finite(item):
                return False
    elif isinstance(value, list):
        for item in <list>value:
            if not _is_plain(item) and not is_finite(item):
                return False
    return True


cdef inline bint _is_plain(object value) noexcept:
    return type(value) is str or type(value) is int or value is None


