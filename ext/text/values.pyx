# cython: language_level=3
"""JSON text and msgpack to plain values, by the rules of this protocol and within bounds: the slow path for input.

    decode(body)          -> value                      at most so many items are made; more are an error
    decode_message(frame) -> {member: value}, odd       the same, but a member that is too large is Unread: others show
                                                        which message is refused

A value that only one format can represent is replaced with a value of both, so that stored data does not depend on the
format:

    half a surrogate pair             U+FFFD            only JSON can escape one
    ext; NaN and infinity; 1e999      None              JSON: literals of encoders that extend the standard. In a
                                                        frame's own members NaN is kept: it is not wanted there
    a str that is not UTF-8           bytes             old packers write binary data so
    a key that is not a str           its text          like encoders of JSON: 1 is "1"; binary stays bytes
    anything deeper than DEEPEST      Unread            the user of the value reports what is wrong with it

Input that could have too many items is checked completely before the first value is made: in one pass over the bytes,
without objects and without recursion."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.float cimport PyFloat_FromDouble
from cpython.long cimport PyLong_FromLongLong, PyLong_FromUnsignedLongLong
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport isfinite
from libc.stddef cimport size_t
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from ext.text.json_input cimport plain_run, skip_blank, take, take_string
from ext.text.json_number cimport Number, is_quick, take_number
from ext.text.msgpack_input cimport (I_ARRAY, I_BAD, I_BIN, I_BOOL, I_EXT, I_FLOAT, I_MAP, I_NEGATIVE, I_NIL, I_STR, I_UINT, In,
                                Item, read_item, skip_item)
from ext.text.output cimport Out
from ext.text.utf8 cimport Text, is_utf8

cdef extern from "Python.h":
    double PyOS_string_to_double(const char* text, char** end, void* overflow) except? -1.0

cdef enum:
    DEEPEST_VALUES = 300        # nested maps and arrays; also our recursion. Limit of extras: 64, of orjson: 254
    LONGEST_NUMBER = 1024       # characters; a double has 17 significant digits, and up to 767 can matter
    SLOW_NUMBER = 4             # it counts as this many items, because it takes so much longer
    MEMBERS = 1000              # of a protocol message, which has about a dozen. Further ones are ignored
    ODD_DEPTH = 100             # no SDK nests so deep

DEEPEST = DEEPEST_VALUES

cdef double[23] TENS
TENS[:] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
           1e20, 1e21, 1e22]    # the powers that a double holds exactly


@cython.final
cdef class Unread:
    """Replaces a value that was not made; ``why`` continues a sentence that begins with the name of its field."""
    cdef readonly str why

    def __init__(self, str why not None):
        self.why = why

    def __repr__(self):
        return f"Unread({self.why!r})"


cdef Unread _TOO_DEEP = Unread(f"is nested deeper than {<int>DEEPEST_VALUES}")
cdef Unread _TOO_LONG = Unread(f"is a number of more than {<int>LONGEST_NUMBER} characters")
cdef Unread _TOO_MANY = Unread("has more values in it than one frame may have")
cdef Unread _NO_KEY = Unread("is a key that is no text")


@cython.final
cdef class _Reader:
    """Reads one input."""
    cdef In source
    cdef Out scratch            # one string that had escapes
    cdef uint8_t* open          # for _skip_json: { or [ for each of the open maps and arrays
    cdef bint msgpack
    cdef bint odd               # there was something that only this format can represent
    cdef bint own               # the values being read are the protocol message's own, not part of its messages

    def __cinit__(self, bytes payload not None, bint msgpack):
        self.source.data = <const uint8_t*><const char*>payload
        self.source.size = <size_t>len(payload)
        self.msgpack = msgpack

    def __dealloc__(self):
        PyMem_Free(self.scratch.data)
        PyMem_Free(self.open)

    cdef int fail(self) except -1:
        cdef str name = "msgpack" if self.msgpack else "JSON"
        if self.source.at >= self.source.size:
            raise ValueError(f"it is cut off: no whole {name}")
        raise ValueError(f"no {name} at byte {self.source.at}")

    cdef int end(self) except -1:
        if not self.msgpack:
            skip_blank(&self.source)
        if self.source.at != self.source.size:
            raise ValueError(f"more follows behind its end, at byte {self.source.at}")
        return 0

    cdef int skip(self, uint64_t* items, uint64_t most) except -1:
        """Skip one value without making it; adds the number of its items to ``items``.

        Once they are more than ``most``, the rest of the value is no longer checked.
        """
        if not (skip_item(&self.source, items) if self.msgpack else self._skip_json(items, most)):
            self.fail()
        return 0

    cdef object value(self, int depth):
        return self._msgpack(depth) if self.msgpack else self._json(depth)

    # JSON

    cdef bint _skip_json(self, uint64_t* items, uint64_t most) except -1:
        cdef In* source = &self.source
        cdef size_t depth = 0
        cdef uint8_t byte
        cdef Number number
        if self.open is NULL:
            self.open = <uint8_t*>PyMem_Malloc(source.size + 1)
            if self.open is NULL:
                raise MemoryError("no memory to look at an input")
        while True:
            items[0] += 1
            if items[0] > most and depth:
                return self._leap(depth)
            skip_blank(source)
            if source.at >= source.size:
                return False
            byte = source.data[source.at]
            if byte == c'{' or byte == c'[':
                source.at += 1
                self.open[depth] = byte
                depth += 1
                if not take(source, byte + 2):          # in ASCII the closing one is two after it
                    if byte == c'{' and not self._skip_key(items):
                        return False
                    continue
                depth -= 1
            elif byte == c'"':
                if not self._skip_text():
                    return False
            elif c'0' <= byte <= c'9' or (byte == c'-' and self._begins_number()):
                if not take_number(source, &number):
                    return False
                if not is_quick(&number):
                    items[0] += SLOW_NUMBER - 1
            elif self._word() < 0:
                return False
            while depth and take(source, self.open[depth - 1] + 2):
                depth -= 1
            if depth == 0:
                return True
            if not take(source, c',') or (self.open[depth - 1] == c'{' and not self._skip_key(items)):
                return False

    cdef bint _leap(self, size_t depth) noexcept:
        """Skip to the end of the ``depth`` maps and arrays that are open here, looking only for brackets."""
        cdef In* source = &self.source
        cdef size_t at = source.at
        cdef uint8_t byte
        while at < source.size and depth:
            byte = source.data[at]
            at += 1
            if byte == c'"':
                while at < source.size:
                    at = plain_run(source.data, at, source.size)
                    if at < source.size and source.data[at] == c'"':
                        break
                    at += 1 + (at < source.size and source.data[at] == c'\\')
                at += 1
            elif byte == c'{' or byte == c'[':
                depth += 1
            elif byte == c'}' or byte == c']':
                depth -= 1
        source.at = min(at, source.size)
        return depth == 0

    cdef bint _skip_key(self, uint64_t* items) noexcept:
        items[0] += 1
        return self._skip_text() and take(&self.source, c':')

    cdef bint _skip_text(self) noexcept:
        cdef Text text
        self.scratch.size = 0
        return take_string(&self.source, &text, &self.scratch, True) and is_utf8(text.data, text.size)

    cdef bint _begins_number(self) noexcept:
        """Is it a digit, or a minus other than that of -Infinity?"""
        cdef const uint8_t* at = self.source.data + self.source.at
        return c'0' <= at[0] <= c'9' or (at[0] == c'-' and (self.source.size - self.source.at < 2 or at[1] != c'I'))

    cdef int _word(self) noexcept:
        """Skip a literal: 0 for null, NaN and infinities, 1 false, 2 true; -1: none."""
        if self._is(b"null", 4):
            return 0
        if self._is(b"false", 5):
            return 1
        if self._is(b"true", 4):
            return 2
        if self._is(b"NaN", 3) or self._is(b"Infinity", 8) or self._is(b"-Infinity", 9):
            self.odd = True
            return 0
        return -1

    cdef bint _is(self, const char* word, size_t size) noexcept:
        if self.source.size - self.source.at < size or memcmp(self.source.data + self.source.at, word, size) != 0:
            return False
        self.source.at += size
        return True

    cdef object _json(self, int depth):
        cdef In* source = &self.source
        cdef uint8_t byte
        cdef int word
        skip_blank(source)
        if source.at >= source.size:
            self.fail()
        byte = source.data[source.at]
        if byte == c'"':
            return self._json_text()
        if byte == c'{' or byte == c'[':
            if depth >= ODD_DEPTH:
                self.odd = True
                if depth >= DEEPEST_VALUES:
                    return self._too_deep()
            source.at += 1
            return self._json_map(depth + 1) if byte == c'{' else self._json_array(depth + 1)
        if self._begins_number():
            return self._json_number()
        word = self._word()
        if word < 0:
            self.fail()
        return None if word == 0 else word == 2

    cdef str _json_text(self):
        cdef Text text
        cdef str decoded
        self.scratch.size = 0
        if not take_string(&self.source, &text, &self.scratch, True):
            self.fail()
        decoded = PyUnicode_DecodeUTF8(<const char*>text.data, <Py_ssize_t>text.size, NULL)
        if self.scratch.size and "\ufffd" in decoded:
            self.odd = True
        return decoded

    cdef dict _json_map(self, int depth):
        cdef dict members = {}
        cdef str key
        if take(&self.source, c'}'):
            return members
        while True:
            skip_blank(&self.source)
            key = self._json_text()
            if not take(&self.source, c':'):
                self.fail()
            members[key] = self._json(depth)
            if take(&self.source, c','):
                continue
            if not take(&self.source, c'}'):
                self.fail()
            return members

    cdef list _json_array(self, int depth):
        cdef list items = []
        if take(&self.source, c']'):
            return items
        while True:
            items.append(self._json(depth))
            if take(&self.source, c','):
                continue
            if not take(&self.source, c']'):
                self.fail()
            return items

    cdef object _json_number(self):
        """An integer of 64 bits, signed or unsigned, or a double."""
        cdef In* source = &self.source
        cdef size_t start = source.at
        cdef Number number
        cdef double real
        cdef char* behind
        if not take_number(source, &number):
            self.fail()
        if source.at - start > LONGEST_NUMBER:
            self.odd = True
            return _TOO_LONG
        if number.is_exact:
            if number.is_whole and not number.negative:
                return PyLong_FromUnsignedLongLong(number.digits)
            if number.is_whole and number.digits <= <uint64_t>1 << 63:
                return PyLong_FromLongLong(<int64_t>(0 - number.digits))
            if is_quick(&number):
                # Both are exact doubles, so their quotient is correctly rounded (Clinger, 1990).
                real = <double>number.digits
                real = real / TENS[-number.exponent] if number.exponent < 0 else real * TENS[number.exponent]
                return PyFloat_FromDouble(-real if number.negative else real)
        # A bytes object ends with a zero; inside it, the character after a number cannot continue the number.
        real = PyOS_string_to_double(<const char*>source.data + start, &behind, NULL)
        return self._float(real)

    cdef object _float(self, double number):
        if isfinite(number) or (self.own and self.msgpack):
            return PyFloat_FromDouble(number)
        self.odd = True
        return None

    cdef object _too_deep(self):
        cdef uint64_t items = 0
        self.skip(&items, UINT64_MAX)
        return _TOO_DEEP

    # msgpack

    cdef object _msgpack(self, int depth):
        cdef Item item
        cdef size_t start = self.source.at
        cdef int kind = read_item(&self.source, &item)
        if kind == I_STR:
            return _text_or_bytes(&item)
        if kind == I_MAP or kind == I_ARRAY:
            if item.size > self.source.size - self.source.at:       # every item takes at least one byte
                self.source.at = self.source.size
                self.fail()
            if depth >= ODD_DEPTH:
                self.odd = True
                if depth >= DEEPEST_VALUES:
                    self.source.at = start
                    return self._too_deep()
            return self._msgpack_map(item.size, depth + 1) if kind == I_MAP else self._msgpack_array(item.size, depth + 1)
        if kind == I_UINT:
            return PyLong_FromUnsignedLongLong(item.number)
        if kind == I_NEGATIVE:
            return PyLong_FromLongLong(<int64_t>item.number)
        if kind == I_BIN:
            return PyBytes_FromStringAndSize(<const char*>item.data, <Py_ssize_t>item.size)
        if kind == I_FLOAT:
            return self._float(item.real)
        if kind == I_BOOL:
            return item.number == 1
        if kind == I_EXT:
            self.odd = True
        elif kind != I_NIL:
            self.source.at = start
            self.fail()
        return None

    cdef dict _msgpack_map(self, size_t left, int depth):
        cdef dict members = {}
        cdef bint own = self.own
        while left:
            left -= 1
            key = self._msgpack_key()
            self.own = own and not (depth == 1 and key == "messages")
            members[key] = self._msgpack(depth)
        self.own = own
        return members

    cdef object _msgpack_key(self):
        cdef Item item
        cdef size_t start = self.source.at
        cdef int kind = read_item(&self.source, &item)
        if kind == I_STR:
            return _text_or_bytes(&item)
        self.source.at = start
        self.odd = True
        if kind == I_MAP or kind == I_ARRAY or kind == I_EXT:
            self._too_deep()
            return _NO_KEY
        key = self._msgpack(0)              # NaN among them: as a key it is text in any case
        if isinstance(key, bytes):
            return key
        if key is None or isinstance(key, bool):
            return "null" if key is None else "true" if key else "false"
        return str(key)

    cdef list _msgpack_array(self, size_t left, int depth):
        cdef list items = []
        while left:
            left -= 1
            items.append(self._msgpack(depth))
        return items

    # a protocol message with too many items

    cdef dict outline(self, uint64_t most):
        """Its members, up to ``most`` items: a member with more items than are left is only noted."""
        cdef In* source = &self.source
        cdef Item item
        cdef dict members = {}
        cdef uint64_t items, seen = 0
        cdef size_t left = 0, start
        if self.msgpack:
            if read_item(source, &item) != I_MAP:
                self.fail()
            left = item.size
        elif not take(source, c'{'):
            self.fail()
        elif take(source, c'}'):
            return members
        while seen < MEMBERS and (left or not self.msgpack):
            seen += 1
            if self.msgpack:
                left -= 1
                key = self._msgpack_key()
            else:
                skip_blank(source)
                key = self._json_text()
                if not take(source, c':'):
                    self.fail()
            start = source.at
            items = 0
            self.skip(&items, most)
            if items <= most:
                most -= items
                source.at = start
                self.own = key != "messages"
                members[key] = self.value(1)
            else:
                members[key] = _TOO_MANY
            if not self.msgpack and not take(source, c','):
                break
        return members


cdef object _text_or_bytes(Item* item):
    if is_utf8(item.data, item.size):
        return PyUnicode_DecodeUTF8(<const char*>item.data, <Py_ssize_t>item.size, NULL)
    return PyBytes_FromStringAndSize(<const char*>item.data, <Py_ssize_t>item.size)


cdef bint _has_more(_Reader reader, uint64_t most) except -1:
    """Does the whole input have more items? Afterwards it is read from its beginning again."""
    cdef uint64_t items = 0
    if reader.source.size <= most:          # then it can't
        return False
    reader.skip(&items, most)
    reader.end()
    reader.source.at = 0
    return items > most


def decode(bytes payload not None, int format, *, uint64_t most):
    """The value in these bytes, in JSON (0) or msgpack (1).

    Raises: ValueError, saying what is wrong with them; OverflowError, if they have more than ``most`` values, including
        keys.
    """
    cdef _Reader reader = _Reader(payload, format == 1)
    if _has_more(reader, most):
        raise OverflowError(f"it has more than {most} values in it")
    value = reader.value(0)
    reader.end()
    return value


def decode_message(bytes payload not None, int format, *, uint64_t most):
    """The protocol message in these bytes, and whether it has something odd, which no other format can represent.

    With more than ``most`` values, including keys, a member that does not fit is not made: it is an Unread.
    A value other than a map is returned as it is. Raises: ValueError, as above.
    """
    cdef _Reader reader = _Reader(payload, format == 1)
    reader.own = True
    if _has_more(reader, most):
        skip_blank(&reader.source)
        if _begins_map(reader):
            return reader.outline(most), True
        return _TOO_MANY, True
    value = reader.value(0)
    reader.end()
    return value, reader.odd


cdef bint _begins_map(_Reader reader) noexcept:
    cdef uint8_t byte = reader.source.data[reader.source.at]
    if reader.msgpack:
        return 0x80 <= byte < 0x90 or 0xde <= byte <= 0xdf
    return byte == c'{'


def is_json(bytes text not None, *, uint64_t most):
    """Is it one complete JSON value? Makes no objects. Raises: OverflowError, like ``decode``."""
    cdef _Reader reader = _Reader(text, False)
    cdef uint64_t items = 0
    try:
        reader.skip(&items, most)
        reader.end()
    except ValueError:
        return False
    if items > most:
        raise OverflowError(f"it has more than {most} values in it")
    return not reader.odd
