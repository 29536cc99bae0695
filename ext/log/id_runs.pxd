"""Message ids that connections count by themselves, <connection id>:<msgSerial>:<index>, as runs of numbers.

    table   [ Run ][ Run ][     ][ Run ]    by the connection's id, as a number (ext/log/robin_hood.pxd)
    Run     origin | the newest publish: its number, serial, width | block
                                                                       |
            Block  <-  Block  <-  Block     all publishes, ascending, with the newest; with only one there is no block
    Block   the first one's number, serial, width | steps
    step    ms << 3 | GONE | WIDE | GAP     varint; ms: the increase of the serial's milliseconds
            counter                         varint: the serial's counter, or its increase while ms is 0
            number - the one before - 2     varint; only with GAP: else it is the next one
            width                           2 bytes; only with WIDE: else 1

A publish takes <number>:0 to <number>:<width - 1>, under one serial. If it follows the newest one of its connection, in
number and in serial, it is appended: two or three bytes, no search, no hash. To find a number, find its block, by
``jump``, and scan at most MAX_STEPS bytes.

A publish that does not follow, and any of a new connection beyond MAX_RUNS, has no place here; the caller keeps it
elsewhere."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from ext.log.robin_hood cimport Keyed, Slots, grown, has_room, put, search, take_out
from ext.text.serial cimport counter_of, ms_of, serial_of

cdef enum:
    WHO_CHARS = 10              # of a connection's id: base64url, 6 bits each
    NUMBER_DIGITS = 18          # at most
    INDEX_DIGITS = 3
    NO_DIGIT = 0xFF
    MAX_RUNS = 8192            # a larger table would take long to grow, and to free
    FIRST_STEPS = 16            # bytes
    MAX_STEPS = 976            # with the head and the overhead of malloc, 1 KiB
    LONGEST_STEP = 24
    GAP = 1
    WIDE = 2
    GONE = 4                    # it was removed; later ones are still relative to it
    FLAG_BITS = 3


cdef struct Block:
    Block* older
    Block* jump                 # an older one, so that any is log(n) steps away; of the oldest, itself
    uint64_t number             # of the first
    uint64_t serial
    uint32_t depth              # number of older blocks
    uint16_t width              # 0: the first was removed
    uint16_t used, room         # bytes of steps
    uint8_t steps[0]


cdef struct Run:
    Keyed keyed                 # by its origin; the serial is the newest one's
    uint64_t number             # of the newest
    Block* block
    uint16_t width


cdef struct Runs:
    uint32_t capacity, used
    Run slots[0]


cdef struct Use:                # of a number: the publish that used it
    uint64_t number
    uint64_t serial
    uint32_t width


cdef inline uint8_t _value_of(uint8_t c) noexcept nogil:
    """The value of a base64url digit."""
    if c'A' <= c <= c'Z':
        return <uint8_t>(c - c'A')
    if c'a' <= c <= c'z':
        return <uint8_t>(c - c'a' + 26)
    if c'0' <= c <= c'9':
        return <uint8_t>(c - c'0' + 52)
    return 62 if c == c'-' else 63 if c == c'_' else NO_DIGIT


cdef inline bint _whole(const uint8_t* text, size_t size, size_t most, uint64_t* value) noexcept nogil:
    """Is this a number in canonical form?"""
    cdef size_t at
    if size == 0 or size > most or (text[0] == c'0' and size > 1):
        return False
    value[0] = 0
    for at in range(size):
        if not c'0' <= text[at] <= c'9':
            return False
        value[0] = value[0] * 10 + (text[at] - c'0')
    return True


cdef inline bint names_connection(const uint8_t* text, size_t size) noexcept nogil:
    """Does this look like an id that a connection counts: its own id, then two numbers, in any notation?"""
    cdef size_t at
    cdef int colons = 0
    if size < WHO_CHARS + 4 or text[WHO_CHARS] != c':' or text[size - 1] == c':':
        return False
    for at in range(<size_t>WHO_CHARS):
        if _value_of(text[at]) == NO_DIGIT:
            return False
    for at in range(<size_t>WHO_CHARS, size):
        if text[at] == c':':
            if at > WHO_CHARS and text[at - 1] == c':':
                return False
            colons += 1
        elif not c'0' <= text[at] <= c'9':
            return False
    return colons == 2


cdef inline bint is_counted(const uint8_t* text, size_t size, uint64_t* origin, uint64_t* number,
                            uint64_t* index) noexcept nogil:
    """Is this a counted id in canonical form?"""
    cdef uint64_t who = 0
    cdef uint8_t digit
    cdef size_t at, colon = size - 2
    if size < WHO_CHARS + 4 or text[WHO_CHARS] != c':':
        return False
    while text[colon] != c':':                        # there is one at WHO_CHARS
        colon -= 1
    if colon == WHO_CHARS:
        return False
    for at in range(<size_t>WHO_CHARS):
        digit = _value_of(text[at])
        if digit == NO_DIGIT:
            return False
        who = who << 6 | digit
    origin[0] = who
    return (_whole(text + WHO_CHARS + 1, colon - WHO_CHARS - 1, NUMBER_DIGITS, number)
            and _whole(text + colon + 1, size - colon - 1, INDEX_DIGITS, index))


# ---- steps

cdef inline size_t _put_varint(uint8_t* to, uint64_t value) noexcept nogil:
    cdef size_t size = 0
    while value >= 128:
        to[size] = <uint8_t>(value | 128)
        value >>= 7
        size += 1
    to[size] = <uint8_t>value
    return size + 1


cdef inline uint64_t _take_varint(const uint8_t* data, size_t* at) noexcept nogil:
    cdef uint64_t value = 0
    cdef int shift = 0
    while data[at[0]] & 128:
        value |= <uint64_t>(data[at[0]] & 127) << shift
        shift += 7
        at[0] += 1
    value |= <uint64_t>data[at[0]] << shift
    at[0] += 1
    return value


cdef inline size_t _put_step(uint8_t* to, uint64_t number, uint64_t serial, uint32_t width,
                             const Run* before) noexcept nogil:
    """The size of the step to this publish from the run's newest."""
    cdef uint64_t ms = ms_of(serial) - ms_of(before.keyed.serial)
    cdef uint64_t counter = counter_of(serial)
    cdef uint64_t gap = number - before.number - 1
    cdef size_t size
    if ms == 0:
        counter -= counter_of(before.keyed.serial)
    size = _put_varint(to, ms << FLAG_BITS | (WIDE if width != 1 else 0) | (GAP if gap else 0))
    size += _put_varint(to + size, counter)
    if gap:
        size += _put_varint(to + size, gap - 1)
    if width != 1:
        to[size] = <uint8_t>width
        to[size + 1] = <uint8_t>(width >> 8)
        size += 2
    return size


cdef inline void _take_step(const Block* block, size_t* at, Use* use) noexcept nogil:
    """Advance ``use`` to the next publish; width 0: it was removed."""
    cdef uint64_t head = _take_varint(block.steps, at), ms = head >> FLAG_BITS
    cdef uint64_t counter = _take_varint(block.steps, at)
    if ms:
        use.serial = serial_of(ms_of(use.serial) + ms, counter)
    else:
        use.serial += counter
    use.number += 1
    if head & GAP:
        use.number += _take_varint(block.steps, at) + 1
    use.width = 1
    if head & WIDE:
        use.width = block.steps[at[0]] | <uint32_t>block.steps[at[0] + 1] << 8
        at[0] += 2
    if head & GONE:
        use.width = 0


cdef inline Use _first_of(const Block* block) noexcept nogil:
    cdef Use use
    use.number = block.number
    use.serial = block.serial
    use.width = block.width
    return use


# ---- the table

cdef inline uint64_t _key_of(uint64_t origin) noexcept nogil:
    """Unique and evenly distributed. (Connection ids are random already, and only our own come here.)"""
    return origin * <uint64_t>0x9E3779B97F4A7C15u


cdef inline Slots _slots_of(Runs* runs) noexcept nogil:
    cdef Slots slots
    slots.data = <uint8_t*>runs.slots
    slots.size = sizeof(Run)
    slots.capacity = runs.capacity
    return slots


cdef inline Run* run_of(Runs* runs, uint64_t origin) noexcept nogil:
    """The run of this connection; NULL: none."""
    return <Run*>search(_slots_of(runs), _key_of(origin), NULL) if runs is not NULL else NULL


cdef inline Block* _block_of(const Run* run, uint64_t number) noexcept nogil:
    """The block that may hold this number; NULL: none."""
    cdef Block* block = run.block
    while block is not NULL and block.number > number:
        if block.older is NULL:
            return NULL
        block = block.jump if block.jump.number > number else block.older
    return block


cdef inline bint find_counted(const Run* run, uint64_t number, Use* use) noexcept nogil:
    """Find the publish that has taken this number."""
    cdef Block* block
    cdef size_t at = 0
    if number >= run.number:
        use.number = number
        use.serial = run.keyed.serial
        use.width = run.width
        return number == run.number
    block = _block_of(run, number)
    if block is NULL:
        return False
    use[0] = _first_of(block)
    while use.number < number and at < block.used:
        _take_step(block, &at, use)
    return use.number == number and use.width != 0


cdef inline bint _room_for_run(Runs** place) noexcept nogil:
    """Make space for a run. False: no memory, and nothing has changed."""
    cdef Runs* runs = place[0]
    cdef Runs* larger
    cdef uint32_t capacity = runs.capacity if runs is not NULL else 0, at
    if runs is not NULL and has_room(runs.used, capacity):
        return True
    capacity = grown(capacity)
    larger = <Runs*>calloc(1, sizeof(Runs) + <size_t>capacity * sizeof(Run))
    if larger is NULL:
        return False
    larger.capacity = capacity
    if runs is not NULL:
        larger.used = runs.used
        for at in range(runs.capacity):
            if runs.slots[at].keyed.serial != 0:
                put(_slots_of(larger), &runs.slots[at].keyed)
        free(runs)
    place[0] = larger
    return True


cdef inline Block* _resized(Block* block, size_t room) noexcept nogil:
    """The block, perhaps moved, with space for ``room`` bytes of steps. NULL: no memory, and nothing has changed."""
    cdef Block* grown = <Block*>realloc(block, sizeof(Block) + room)
    if grown is not NULL:
        grown.room = <uint16_t>room
        if block is not NULL and grown.older is NULL:
            grown.jump = grown
    return grown


cdef inline bint _begin_block(Run* run, uint64_t number, uint64_t serial, uint32_t width) noexcept nogil:
    """Begin a block with this publish. False: no memory, and nothing has changed."""
    cdef Block* older = run.block
    cdef Block* block = _resized(NULL, FIRST_STEPS)
    if block is NULL:
        return False
    block.older = older
    block.number = number
    block.serial = serial
    block.width = <uint16_t>width
    block.used = 0
    if older is NULL:
        block.depth = 0
        block.jump = block
    else:
        block.depth = older.depth + 1
        # Two adjacent jumps of one length are joined into one of twice that and one: as in skew-binary numbers.
        if older.depth - older.jump.depth == older.jump.depth - older.jump.jump.depth:
            block.jump = older.jump.jump
        else:
            block.jump = older
    run.block = block
    return True


cdef inline bint _append(Run* run, uint64_t number, uint64_t serial, uint32_t width) noexcept nogil:
    """Append a publish that follows the run's newest. False: no memory, and nothing has changed."""
    cdef uint8_t step[LONGEST_STEP]
    cdef size_t size = _put_step(step, number, serial, width, run), room
    cdef Block* block = run.block
    if block is NULL:
        if not _begin_block(run, run.number, run.keyed.serial, run.width):
            return False
        block = run.block
    if block.used + size > block.room:
        if block.used + size > MAX_STEPS:
            return _begin_block(run, number, serial, width)
        room = block.room + (block.room >> 1) + LONGEST_STEP
        block = _resized(block, room if room < MAX_STEPS else MAX_STEPS)
        if block is NULL:
            return False
        run.block = block
    memcpy(block.steps + block.used, step, size)
    block.used += <uint16_t>size
    return True


cdef inline int add_counted(Runs** place, uint64_t origin, uint64_t number, uint32_t width,
                            uint64_t serial) noexcept nogil:
    """Take <number>:0 to <number>:<width - 1>, of which none is held. 1: done; 0: they have no place here; -1: no
    memory. With 0 and -1 nothing has changed."""
    cdef Run* run = run_of(place[0], origin)
    cdef Run item
    if run is NULL:
        if place[0] is not NULL and place[0].used >= MAX_RUNS:
            return 0
        if not _room_for_run(place):
            return -1
        item.keyed.key = _key_of(origin)
        item.keyed.serial = serial
        item.number = number
        item.width = <uint16_t>width
        item.block = NULL
        put(_slots_of(place[0]), &item.keyed)
        place[0].used += 1
        return 1
    if number <= run.number or serial <= run.keyed.serial:
        return 0
    if not _append(run, number, serial, width):
        return -1
    run.number = number
    run.keyed.serial = serial
    run.width = <uint16_t>width
    return 1


cdef inline void _strike_out(Block* block, uint64_t number) noexcept nogil:
    """Mark a publish in this block as gone."""
    cdef Use use = _first_of(block)
    cdef size_t at = 0, start = 0
    if use.number == number:
        block.width = 0
        return
    while use.number < number:
        start = at
        _take_step(block, &at, &use)
    block.steps[start] |= GONE                      # the lowest bits are in the first byte


cdef inline bint _newest_left(Run* run) noexcept nogil:
    """Free publishes at the end that are gone. False: no other is left."""
    cdef Block* block
    cdef Use use
    cdef size_t at, end
    while run.block is not NULL:
        block = run.block
        use = _first_of(block)
        run.width = 0
        at = end = 0
        while True:
            if use.width != 0:
                run.number = use.number
                run.keyed.serial = use.serial
                run.width = <uint16_t>use.width
                end = at
            if at == block.used:
                break
            _take_step(block, &at, &use)
        if run.width != 0:
            block.used = <uint16_t>end
            return True
        run.block = block.older
        free(block)
    return False


cdef inline void remove_counted(Runs** place, uint64_t origin, uint64_t number) noexcept nogil:
    """Remove a publish that is held here."""
    cdef Run* run = run_of(place[0], origin)
    cdef bint newest = number == run.number
    if run.block is not NULL:
        _strike_out(_block_of(run, number), number)
    if newest and not _newest_left(run):            # else it stays, because later ones are relative to it
        take_out(_slots_of(place[0]), &run.keyed)
        place[0].used -= 1
        if place[0].used == 0:
            free(place[0])
            place[0] = NULL


cdef inline void _free_blocks(Block* block) noexcept nogil:
    cdef Block* older
    while block is not NULL:
        older = block.older
        free(block)
        block = older


cdef inline void free_runs(Runs** place) noexcept nogil:
    cdef Runs* runs = place[0]
    cdef uint32_t at
    if runs is NULL:
        return
    for at in range(runs.capacity):
        if runs.slots[at].keyed.serial != 0:
            _free_blocks(runs.slots[at].block)
    free(runs)
    place[0] = NULL


cdef inline size_t bytes_of_runs(const Runs* runs) noexcept nogil:
    """Bytes allocated for the table and all blocks."""
    cdef size_t total
    cdef uint32_t at
    cdef const Block* block
    if runs is NULL:
        return 0
    total = sizeof(Runs) + <size_t>runs.capacity * sizeof(Run)
    for at in range(runs.capacity):
        if runs.slots[at].keyed.serial != 0:
            block = runs.slots[at].block
            while block is not NULL:
                total += sizeof(Block) + block.room
                block = block.older
    return total
