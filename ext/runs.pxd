"""Message ids that connections count by themselves, <connection id>:<msgSerial>:0, as runs of numbers.

    table   [ Run ][ Run ][     ][ Run ]    open addressing, Robin Hood order, by the hash of the connection's id
    Run     who | number, mark | block      the newest id of a connection is in the table itself
                                  |
            Block  <-  Block  <-  Block     those before it, ascending; the newest block grows, and then there is another

What follows the newest one of its connection is put behind it: no search, no hash, and memory that was used just before. A
mark is what is remembered of an id, and never 0: that is a place without one, left by an id that was taken back.

Whatever does not follow (and whoever comes when there are MOST_RUNS) has no place here; the caller has others."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc

from ext.siphash cimport Hash

cdef enum:
    WHO_BYTES = 10              # of a connection's id; text of any other form is not counted
    NUMBER_DIGITS = 18          # at most
    FIRST_RUNS = 1              # most channels have few who publish
    MOST_RUNS = 8192            # a larger table would take long to grow, and to let go of
    FIRST_COUNTED = 2
    MOST_COUNTED = 4096         # of a block, 64 KiB: what is moved at once when it grows


cdef struct Counted:
    uint64_t number
    uint64_t mark


cdef struct Block:
    Block* older
    uint32_t count, room
    Counted ids[0]


cdef struct Run:
    Hash who
    uint64_t number
    uint64_t mark               # 0: the place is free
    Block* block


cdef struct Runs:
    uint32_t capacity, used
    Run slots[0]


cdef inline bint is_counted(const uint8_t* text, size_t size, uint64_t* number) noexcept nogil:
    """Is this a counted id, in the one way to write it? Then its first WHO_BYTES are who."""
    cdef uint64_t total = 0
    cdef size_t at = WHO_BYTES + 1
    if size < WHO_BYTES + 4 or size > WHO_BYTES + 3 + NUMBER_DIGITS:
        return False
    if text[WHO_BYTES] != 58 or text[size - 2] != 58 or text[size - 1] != 48:           # ":", ":0"
        return False
    if text[at] == 48 and size > WHO_BYTES + 4:
        return False
    while at < size - 2:
        if not 48 <= text[at] <= 57:
            return False
        total = total * 10 + (text[at] - 48)
        at += 1
    number[0] = total
    return True


cdef inline uint32_t _home_of(Hash who, uint32_t capacity) noexcept nogil:
    return <uint32_t>((who.low >> 32) * capacity >> 32)


cdef inline uint32_t _from_home(const Runs* runs, uint32_t at) noexcept nogil:
    cdef uint32_t home = _home_of(runs.slots[at].who, runs.capacity)
    return at - home if at >= home else at + (runs.capacity - home)


cdef inline uint32_t _after(const Runs* runs, uint32_t at) noexcept nogil:
    return at + 1 if at + 1 < runs.capacity else 0


cdef inline Run* run_of(Runs* runs, Hash who) noexcept nogil:
    """NULL: there is none."""
    cdef uint32_t at, distance = 0
    if runs is NULL:
        return NULL
    at = _home_of(who, runs.capacity)
    while distance < runs.capacity and runs.slots[at].mark != 0:
        if runs.slots[at].who.low == who.low and runs.slots[at].who.high == who.high:
            return &runs.slots[at]
        if _from_home(runs, at) < distance:         # ours would have taken this place from it
            return NULL
        at = _after(runs, at)
        distance += 1
    return NULL


cdef inline uint64_t* mark_in(Run* run, uint64_t number) noexcept nogil:
    """Where the mark of this number is, 0 perhaps; NULL: there is no place for it."""
    cdef Block* block = run.block
    cdef uint32_t low, high, middle
    if number >= run.number:
        return &run.mark if number == run.number else NULL
    while block is not NULL and number < block.ids[0].number:
        block = block.older
    if block is NULL:
        return NULL
    low, high = 0, block.count
    while low + 1 < high:                           # the last one that is not greater
        middle = (low + high) // 2
        if block.ids[middle].number <= number:
            low = middle
        else:
            high = middle
    return &block.ids[low].mark if block.ids[low].number == number else NULL


cdef inline void _put_run(Runs* runs, Run item) noexcept nogil:
    """Of one that is not there; there is a free place."""
    cdef uint32_t at = _home_of(item.who, runs.capacity), distance = 0, other
    cdef Run displaced
    while runs.slots[at].mark != 0:
        other = _from_home(runs, at)
        if other < distance:
            displaced = runs.slots[at]
            runs.slots[at] = item
            item = displaced
            distance = other
        at = _after(runs, at)
        distance += 1
    runs.slots[at] = item
    runs.used += 1


cdef inline bint _room_for_run(Runs** place) noexcept nogil:
    """Small tables may be full, large ones to seven eighths. False: no memory, and nothing has changed."""
    cdef Runs* runs = place[0]
    cdef Runs* grown
    cdef uint32_t capacity = runs.capacity if runs is not NULL else 0, at
    if runs is not NULL and (runs.used < capacity if capacity < 8 else <uint64_t>(runs.used + 1) * 8 <= <uint64_t>capacity * 7):
        return True
    capacity = FIRST_RUNS if capacity == 0 else capacity * 2 if capacity < 64 else capacity + (capacity >> 1)
    grown = <Runs*>calloc(1, sizeof(Runs) + <size_t>capacity * sizeof(Run))
    if grown is NULL:
        return False
    grown.capacity = capacity
    if runs is not NULL:
        for at in range(runs.capacity):
            if runs.slots[at].mark != 0:
                _put_run(grown, runs.slots[at])
        free(runs)
    place[0] = grown
    return True


cdef inline bint _put_behind(Run* run) noexcept nogil:
    """Its newest id goes to its blocks. False: no memory, and nothing has changed."""
    cdef Block* block = run.block
    cdef Block* grown
    cdef uint32_t room
    if block is NULL or block.count == block.room:
        if block is NULL or block.count == MOST_COUNTED:
            grown = <Block*>realloc(NULL, sizeof(Block) + FIRST_COUNTED * sizeof(Counted))
            if grown is NULL:
                return False
            grown.older = block
            grown.count = 0
            grown.room = FIRST_COUNTED
        else:
            room = min(block.room + (block.room + 1) // 2, <uint32_t>MOST_COUNTED)
            grown = <Block*>realloc(block, sizeof(Block) + <size_t>room * sizeof(Counted))
            if grown is NULL:
                return False
            grown.room = room
        block = run.block = grown
    block.ids[block.count].number = run.number
    block.ids[block.count].mark = run.mark
    block.count += 1
    return True


cdef inline int add_counted(Runs** place, Hash who, uint64_t number, uint64_t mark) noexcept nogil:
    """Take an id that is not held: 1. Or 0: it has no place here, or -1: no memory; then nothing has changed."""
    cdef Run* run = run_of(place[0], who)
    cdef Run item
    cdef uint64_t* left
    if run is NULL:
        if place[0] is not NULL and place[0].used >= MOST_RUNS:
            return 0
        if not _room_for_run(place):
            return -1
        item.who = who
        item.number = number
        item.mark = mark
        item.block = NULL
        _put_run(place[0], item)
        return 1
    if number < run.number:
        left = mark_in(run, number)
        if left is NULL or left[0] != 0:
            return 0
        left[0] = mark
        return 1
    if not _put_behind(run):
        return -1
    run.number = number
    run.mark = mark
    return 1


cdef inline void _take_out_run(Runs* runs, Run* run) noexcept nogil:
    """Free its place, and move those behind it one nearer to their homes."""
    cdef uint32_t hole = <uint32_t>(run - runs.slots), at = _after(runs, hole), moved = 1
    while moved < runs.capacity and runs.slots[at].mark != 0 and _from_home(runs, at) > 0:
        runs.slots[hole] = runs.slots[at]
        hole = at
        at = _after(runs, at)
        moved += 1
    runs.slots[hole].mark = 0
    runs.used -= 1


cdef inline void remove_counted(Runs** place, Hash who, uint64_t number) noexcept nogil:
    """Take back one that is held here."""
    cdef Run* run = run_of(place[0], who)
    cdef Block* block
    mark_in(run, number)[0] = 0
    while run.mark == 0 and run.block is not NULL:      # the newest that is left comes to the table
        block = run.block
        block.count -= 1
        run.number = block.ids[block.count].number
        run.mark = block.ids[block.count].mark
        if block.count == 0:
            run.block = block.older
            free(block)
    if run.mark == 0:
        _take_out_run(place[0], run)
        if place[0].used == 0:
            free(place[0])
            place[0] = NULL


cdef inline void free_runs(Runs** place) noexcept nogil:
    cdef Runs* runs = place[0]
    cdef Block* block
    cdef Block* older
    cdef uint32_t at
    if runs is NULL:
        return
    for at in range(runs.capacity):
        if runs.slots[at].mark != 0:
            block = runs.slots[at].block
            while block is not NULL:
                older = block.older
                free(block)
                block = older
    free(runs)
    place[0] = NULL


cdef inline size_t bytes_of_runs(const Runs* runs) noexcept nogil:
    """Allocated, for the table and all blocks."""
    cdef size_t total
    cdef uint32_t at
    cdef const Block* block
    if runs is NULL:
        return 0
    total = sizeof(Runs) + <size_t>runs.capacity * sizeof(Run)
    for at in range(runs.capacity):
        if runs.slots[at].mark != 0:
            block = runs.slots[at].block
            while block is not NULL:
                total += sizeof(Block) + <size_t>block.room * sizeof(Counted)
                block = block.older
    return total
