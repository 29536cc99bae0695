# cython: language_level=3
"""What is staged in all logs of a partition, until it is visible: the loops of the sequencer.

    stage     decide: is it new, and may it be kept?  then  enter: serial, entry -> its log's pending
    take      pending -> under way, by log          each entry learns the serial of the one before it
    reveal    under way -> visible, as in a mirror of the log (ext/log/view.pyx)
    settle    tell publishers the outcome: stored, or why not        refuse    ... of what was never under way
    part      pending -> what needs no journal, and what would

Every path, fast or slow, asks ``decide`` and calls ``enter``. ``engine.sequencer.Sequencer`` adds the consequences of a
decision: what a repeat is told, what waits, what is refused."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.log.common cimport Common
from ext.log.counters cimport Meter
from ext.log.decision cimport EARLIER_IDS, FULL, NEW, OVERFULL, REFUSING, SEEN
from ext.log.dedup cimport Id
from ext.log.entry cimport EPHEMERAL_FLAG, Entry
from ext.log.home cimport Home
from ext.log.kept cimport Kept
from ext.log.staging cimport LONGEST_INDEX, Names, holds_any, names_after, remember
from ext.text.serial cimport SerialClock
from ext.wire.acks cimport Receipt

cdef object _new_tuple = tuple.__new__      # bypasses the constructor of named tuples

cdef enum:
    ENTRY_BYTES = 256           # cost of an entry besides its record, until it is visible


cdef class Sequence:
    """One for all logs of a partition."""

    def __init__(self, SerialClock clock not None, Common common not None):
        self.clock = clock
        self.common = common
        self.revealed = clock._last
        self._homes = []
        self.refusing = None

    def __len__(self):
        """The number of entries that are pending: not yet taken."""
        return self._count

    def stage(self, Home home not None, str base not None, tuple ids, uint32_t count, bint of_before, uint32_t flags,
              uint64_t origin, make_record not None, completion):
        """Stage a publish of ``count`` messages, if ``decide`` says NEW. Returns the decision.

        Args:
            ids: of its messages: one, or ``<x>:0``, ``<x>:1``, ...; None: they are ``<base>:0``, ``<base>:1``, ...
            make_record: makes its record, once that is needed.
        Raises: ValueError, the ids are not of this form; nothing is staged.
        """
        cdef Names names
        cdef Id id
        cdef bytes text
        cdef int decision
        cdef str first = ids[0] if ids is not None else None
        if first is not None and count == 1:
            id = home.dedup._id(first)
            names = Names(NULL, 0, 1, id)
        else:
            if first is not None:
                base = first[:-2]
                if ids != tuple([f"{base}:{index}" for index in range(count)]):
                    raise ValueError(f"{ids[:3]} do not begin several ids of one base")
            text = base.encode() + b":\0\0\0"            # space for an index
            names = names_after(home.dedup, <uint8_t*>PyBytes_AS_STRING(text), <size_t>len(text) - LONGEST_INDEX, count)
        decision = self.decide(home, &names, of_before, flags)
        if decision == NEW:
            self.enter(home, &names, make_record(), origin, flags, completion)
        return decision

    cdef int decide(self, Home home, Names* names, bint of_before, uint32_t flags) noexcept:
        """The only function that decides whether a publish may be staged. It changes nothing.

        Args:
            of_before: an earlier life of the server may have taken its ids.
        Returns: NEW, or the first that applies of OVERFULL, FULL, EARLIER_IDS, SEEN, REFUSING.
        """
        if self.common.pending_bytes > self.common.max_pending:
            return OVERFULL
        if not self.common.may_remember(home.meter, names.count):
            return FULL
        if of_before and home.earlier is not None:
            if not home.recalled:
                return EARLIER_IDS
            if holds_any(home.earlier, names):
                return SEEN
        if holds_any(home.dedup, names):
            return SEEN
        if self.refusing is not None and home.kept and (not flags & EPHEMERAL_FLAG or home._under_way is not None):
            return REFUSING         # and no id is remembered: ids in doubt must not be forgotten because of it
        return NEW

    cdef int enter(self, Home home, Names* names, bytes record, uint64_t origin, uint32_t flags,
                   object completion) except -1:
        """Stage an entry that is NEW: remember its ids, assign a serial, and register ``completion``."""
        cdef Entry entry = Entry.__new__(Entry)
        cdef Common common = self.common
        cdef uint64_t serial = self.clock.take(<uint64_t>common.now_ms)
        remember(home.dedup, names, serial, <uint64_t>common.steady_ms)
        home.last_used_ms = common.steady_ms
        entry.serial = serial
        entry.record = record
        entry.origin = origin
        entry.flags = flags
        entry.count = names.count
        entry.completion = completion
        if home._pending is None:
            home._pending = []
            self._homes.append(home)
        home._pending.append(entry)
        self._count += 1
        common.remember(home.meter, names.count)
        common.pending_bytes += <uint64_t>len(record) + ENTRY_BYTES
        return 0

    def take_pending(self, make not None):
        """Take everything that is pending; it is under way until ``settle``.

        Args:
            make: a class of tuples, for a log's part of a batch: its key, its retention, its series, and a ``Kept`` of
                entries.
        Returns: ``[(log, entries), ...]``, the tuples of logs with something to be kept, and whether any of that is to
            be synced.
        """
        cdef list groups = [], blocks = [], kept
        cdef bint synced = False
        cdef Home home
        cdef Entry entry
        cdef Kept some
        cdef uint64_t previous
        cdef list homes = self._homes
        if not (isinstance(make, type) and issubclass(make, tuple)):
            raise TypeError("blocks can only be made as tuples")
        self._homes = []
        self._count = 0
        for home in homes:
            home._under_way, home._pending = home._pending, None
            groups.append((home, home._under_way))
            if not home.kept:
                continue
            kept = home._under_way           # the same list, unless something in it is to be left out
            previous = home.last_stored
            for entry in home._under_way:
                if entry.flags & EPHEMERAL_FLAG:
                    kept = None
                else:
                    entry.previous = previous
                    previous = entry.serial
            if kept is None:
                kept = [entry for entry in home._under_way if not entry.flags & EPHEMERAL_FLAG]
                if not kept:
                    continue
            some = Kept.__new__(Kept)
            some._entries = kept
            blocks.append(_new_tuple(make, (home.key, home.retention, home.series, some)))
            synced |= home.synced
        return groups, blocks, synced

    def part_pending(self):
        """Divide everything that is pending while the journal takes nothing. What needs no journal is under way until
        ``settle``; the rest is no longer staged, and is to be refused.

        What needs no journal is refused too, if earlier entries of its log are under way and may still appear.
        Returns: ``[(log, entries), ...]`` of either kind.
        """
        cdef list free = [], bound = [], homes = self._homes
        cdef Home home
        cdef Entry entry
        cdef bint needs
        self._homes = []
        self._count = 0
        for home in homes:
            needs = home._under_way is not None
            if home.kept and not needs:
                for entry in home._pending:
                    if not entry.flags & EPHEMERAL_FLAG:
                        needs = True
                        break
            if needs:
                bound.append((home, home._pending))
            else:
                home._under_way = home._pending
                free.append((home, home._pending))
            home._pending = None
        return free, bound

    def reveal(self, list groups not None):
        """The journal has stored them: make them visible. Returns the streams that have grown; ``settle`` follows."""
        cdef list moved = []
        cdef Home home
        cdef tuple group
        cdef list entries
        cdef uint64_t readers, newest
        for group in groups:
            home = group[0]
            entries = group[1]
            readers = home.show_all(entries, moved)
            home.note_shown(entries)
            newest = (<Entry>entries[-1]).serial
            if newest > self.revealed:
                self.revealed = newest
            if home.meter is not None:
                _measure(home, entries, readers)
        return moved

    def settle(self, list groups not None, error=None):
        """Tell publishers the outcome of what was under way, and no longer is.

        Args:
            error: why the journal has not stored the entries; the caller forgets their ids before this.
                None: it has, and they are visible.
        """
        cdef Home home
        cdef Entry entry
        cdef tuple group
        if error is not None:
            for group in groups:
                home = group[0]
                home._under_way = None
            self.refuse(groups, error)
            return
        for group in groups:
            home = group[0]
            home._under_way = None
            for entry in <list>group[1]:
                self.common.pending_bytes -= <uint64_t>len(entry.record) + ENTRY_BYTES
                if type(entry.completion) is Receipt:
                    (<Receipt>entry.completion).store(entry.serial, home.series, 0, entry.count)
                else:
                    entry.completion.accepted(entry.serial, home.series, 0, entry.count)
                if entry.followers is not None:
                    for completion, first, count in entry.followers:
                        completion.accepted(entry.serial, home.series, first, count)

    def refuse(self, list groups not None, error not None):
        """Tell publishers why their entries, which were never taken, are not stored."""
        cdef Entry entry
        cdef tuple group
        for group in groups:
            for entry in <list>group[1]:
                self.common.pending_bytes -= <uint64_t>len(entry.record) + ENTRY_BYTES
                _refuse(entry, error)

    def leave_open(self, list groups not None, error not None):
        """It is unknown whether the journal has stored the entries: tell their publishers, and forget these.

        The entries stay under way: a repeat still finds its first one. Returns: how many were told.
        """
        cdef Entry entry
        cdef tuple group
        cdef Py_ssize_t told = 0
        for group in groups:
            for entry in <list>group[1]:
                told += entry.completion is not _nobody
                told += len(entry.followers) if entry.followers is not None else 0
                _refuse(entry, error)
                entry.completion = _nobody
                entry.followers = None
        return told


@cython.final
cdef class _Nobody:
    """Replaces a publisher that waited for an outcome, and was told that it is unknown."""

    def accepted(self, uint64_t serial, str series, uint32_t index, uint32_t count):
        pass

    def refused(self, error):
        pass

cdef _Nobody _nobody = _Nobody()


cdef int _refuse(Entry entry, object error) except -1:
    entry.completion.refused(error)
    if entry.followers is not None:
        for completion, _, _ in entry.followers:
            completion.refused(error)
    return 0


cdef int _measure(Home home, list entries, uint64_t readers) except -1:
    """Count the entries; each goes to all current readers (a publisher's own included, if not echoed)."""
    cdef Meter meter = home.meter
    cdef Entry entry
    cdef uint64_t count = 0, data = 0, kept_count = 0, kept_data = 0, realtime_count = 0, realtime_data = 0, size
    for entry in entries:
        size = <uint64_t>len(entry.record)
        count += entry.count
        data += size
        if type(entry.completion) is Receipt:
            realtime_count += entry.count
            realtime_data += size
        if not entry.flags & EPHEMERAL_FLAG:
            kept_count += entry.count
            kept_data += size
    meter.realtime_count += realtime_count
    meter.realtime_data += realtime_data
    meter.rest_count += count - realtime_count
    meter.rest_data += data - realtime_data
    meter.outbound_count += count * readers
    meter.outbound_data += data * readers
    if home.persisted:
        meter.persisted_count += kept_count
        meter.persisted_data += kept_data
    return 0
