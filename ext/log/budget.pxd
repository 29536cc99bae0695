from libc.stdint cimport uint64_t


cdef struct Piece:              # of what one holder holds; the first thing in what it allocates for it
    Piece* older                # in its queue of the share, by the time at which they began
    Piece* newer
    void* holder                # borrowed: it takes its pieces out before it goes


cdef struct Queue:
    Piece* oldest
    Piece* newest


cdef class Holder:
    cdef Share share

    cdef void let_go(self, Piece* piece) noexcept


cdef class Share:
    cdef readonly Budget budget
    cdef readonly uint64_t held     # bytes of all that it holds
    cdef readonly uint64_t frames   # bytes of its frames among them
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
    cdef readonly uint64_t pressed      # pieces that had to give way so far
    cdef uint64_t kept_frames           # of a share, which entries are not spared for
    cdef list _shares
    cdef Share _victim

    cdef void make_room(self) noexcept
    cdef Piece* _oldest(self) noexcept


cdef void enqueue(Queue* queue, Piece* piece) noexcept nogil
cdef void dequeue(Queue* queue, Piece* piece) noexcept nogil
cdef Share unbounded()
