from libc.stdint cimport uint64_t


cdef struct Piece:              # of a holder's memory; the first member of what the holder allocates for it
    Piece* older                # in its queue of the share, by age
    Piece* newer
    void* holder                # borrowed: it removes its pieces before it is freed


cdef struct Queue:
    Piece* oldest
    Piece* newest


cdef class Holder:
    cdef Share share

    cdef void let_go(self, Piece* piece) noexcept


cdef class Share:
    cdef readonly Budget budget
    cdef readonly uint64_t held     # bytes of everything held
    cdef readonly uint64_t frames   # bytes of frames among them
    cdef Queue entries_queue, frames_queue

    cdef inline void hold(self, uint64_t size) noexcept nogil:
        self.held += size
        self.budget.held += size

    cdef inline void release(self, uint64_t size) noexcept nogil:
        self.held -= size
        self.budget.held -= size


cdef class Budget:
    cdef readonly uint64_t most, held   # bytes
    cdef readonly uint64_t frames       # bytes of frames among them, in all shares
    cdef readonly uint64_t pressed      # pieces evicted so far
    cdef uint64_t kept_frames           # frames of a share that are kept in preference to entries
    cdef list _shares
    cdef Share _victim

    cdef void make_room(self) noexcept
    cdef Piece* _oldest(self) noexcept


cdef void enqueue(Queue* queue, Piece* piece) noexcept nogil
cdef void dequeue(Queue* queue, Piece* piece) noexcept nogil
cdef Share unbounded()
