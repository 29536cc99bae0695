# cython: language_level=3
"""Syncs the numbered logs of a directory, in a thread that never needs the interpreter.

    begin  --semaphore-->  the thread: fdatasync of every log that may hold unsynced data
    ended  <---- flag, eventfd ----+                              (then of the directory, if there is a new one)

    000007.log  000012.log  000015.log        12 was the newest at the last sync: 7 has not been written to since then,
       done      to sync     to sync          because only the newest grows

The directory is listed only when inotify reports that a file was added or removed: for a series of small batches,
listing would be a tenth of the work. Without inotify the directory is listed each time.

Data written to the logs before ``begin`` is on the disk when the sync has ended without an error. It is no error if a
log vanishes meanwhile: its contents must be durable elsewhere before it is removed (RocksDB does that).

A thread that takes the interpreter's lock at its start and end waits for computations of others, twice for each batch.
This one does not, so a loop that stays in C can see its end."""
cimport cython
from libc cimport errno as libc_errno
from libc.errno cimport EAGAIN, EINTR, ENOENT, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport strerror

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t* thread, const void* attributes, void* (*run)(void*) noexcept nogil, void* argument)
    int pthread_join(pthread_t thread, void** result)
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, const void* attributes)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)
    int pthread_mutex_destroy(pthread_mutex_t* mutex)
    int pthread_cond_init(pthread_cond_t* condition, const void* attributes)
    int pthread_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex)
    int pthread_cond_broadcast(pthread_cond_t* condition)
    int pthread_cond_destroy(pthread_cond_t* condition)

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t* semaphore, int shared, unsigned int value)
    int sem_post(sem_t* semaphore)
    int sem_wait(sem_t* semaphore)
    int sem_destroy(sem_t* semaphore)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t* set)
    int pthread_sigmask(int how, const sigset_t* set, sigset_t* before)
    int SIG_SETMASK

cdef extern from "<dirent.h>" nogil:
    ctypedef struct DIR:
        pass
    cdef struct dirent:
        char* d_name
    DIR* opendir(const char* name)
    dirent* readdir(DIR* dir)
    void rewinddir(DIR* dir)
    int closedir(DIR* dir)
    int dirfd(DIR* dir)

cdef extern from "<fcntl.h>" nogil:
    int openat(int directory, const char* name, int flags)
    int O_RDONLY, O_CLOEXEC

cdef extern from "<sys/inotify.h>" nogil:
    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char* path, uint32_t mask)
    int IN_NONBLOCK, IN_CLOEXEC
    uint32_t IN_CREATE, IN_DELETE, IN_MOVED_FROM, IN_MOVED_TO

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void* buf, size_t count)
    int fdatasync(int fd)
    int fsync(int fd)
    int c_close "close"(int fd)
    ssize_t c_write "write"(int fd, const void* buf, size_t count)

cdef extern from * nogil:
    """
    static inline int load_flag(int* flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }
    static inline void store_flag(int* flag, int value) { __atomic_store_n(flag, value, __ATOMIC_RELEASE); }
    """
    int load_flag(int* flag)
    void store_flag(int* flag, int value)

cdef enum:
    EVENTS_BYTES = 4096         # for inotify events, per read

cdef struct Work:
    sem_t wanted                # posted for a sync, and for the end; with a condition, each would be two system calls more
    pthread_mutex_t mutex       # held only for ``ended``, never during a sync
    pthread_cond_t changed      # signalled when that is set
    DIR* directory
    uint64_t newest             # number of the newest log at the last sync
    int fd                      # that log, kept open so that no writeback error is lost; -1: none yet
    int inotify                 # reports files added to and removed from the directory; -1: not available
    int alone                   # the last sync succeeded, and found no log after the newest, which is open
    int wake_fd                 # an eventfd to write to at the end, or -1
    int error                   # errno of the last sync; 0: success
    int begun, ended            # requested and not started; finished


cdef bint _number_of(const char* name, uint64_t* number) noexcept nogil:
    """Is it <digits>.log, and what is the number?"""
    cdef int i = 0
    number[0] = 0
    while c'0' <= name[i] <= c'9' and i < 19:
        number[0] = number[0] * 10 + <uint64_t>(name[i] - c'0')
        i += 1
    return i > 0 and name[i] == c'.' and name[i + 1] == c'l' and name[i + 2] == c'o' and name[i + 3] == c'g' and name[i + 4] == 0


cdef int _datasync(int fd) noexcept nogil:
    while fdatasync(fd) < 0:
        if errno != EINTR:
            return errno
    return 0


cdef bint _unchanged(Work* work) noexcept nogil:
    """No file was added or removed since the last call."""
    cdef char events[EVENTS_BYTES]
    cdef bint unchanged = True
    if work.inotify < 0:
        return False
    while c_read(work.inotify, events, EVENTS_BYTES) > 0:
        unchanged = False
    return unchanged and errno == EAGAIN


cdef int _sync(Work* work) noexcept nogil:
    """Returns: 0, or an errno."""
    cdef int error
    if _unchanged(work) and work.alone:         # always called, and before the directory is listed
        error = _datasync(work.fd)
    else:
        error = _sync_listed(work)
    work.alone = error == 0 and work.fd >= 0
    return error


cdef int _sync_listed(Work* work) noexcept nogil:
    cdef dirent* entry
    cdef uint64_t number, highest = work.newest
    cdef int fd, newer = -1, error = 0, found = 0
    rewinddir(work.directory)
    while error == 0:
        libc_errno.errno = 0
        entry = readdir(work.directory)
        if entry is NULL:
            error = errno               # 0 at the end: an unlisted file may be a log
            break
        if not _number_of(entry.d_name, &number) or number < work.newest:
            continue
        if number == work.newest and work.fd >= 0:
            found += 1
            error = _datasync(work.fd)
            continue
        fd = openat(dirfd(work.directory), entry.d_name, O_RDONLY | O_CLOEXEC)
        if fd < 0:
            if errno != ENOENT:
                error = errno
            continue
        found += 1
        error = _datasync(fd)
        if number >= highest:
            if newer >= 0:
                c_close(newer)
            newer = fd
            highest = number
        else:
            c_close(fd)
    if error == 0 and found == 0:
        error = ENOENT
    if error == 0 and newer >= 0:
        while fsync(dirfd(work.directory)) < 0:
            if errno != EINTR:
                error = errno
                break
    if error == 0 and newer >= 0:
        if work.fd >= 0:
            c_close(work.fd)
        work.fd = newer
        work.newest = highest
    elif newer >= 0:
        c_close(newer)
    return error


cdef void* _run(void* argument) noexcept nogil:
    cdef Work* work = <Work*>argument
    cdef uint64_t one = 1
    cdef int wake_fd
    while True:
        while sem_wait(&work.wanted) < 0:
            pass                        # a signal
        if not load_flag(&work.begun):  # a sync requested before the close is still done
            return NULL
        store_flag(&work.begun, 0)
        work.error = _sync(work)
        wake_fd = work.wake_fd
        pthread_mutex_lock(&work.mutex)
        store_flag(&work.ended, 1)
        pthread_cond_broadcast(&work.changed)
        pthread_mutex_unlock(&work.mutex)
        if wake_fd >= 0:
            c_write(wake_fd, &one, sizeof(one))


cdef void _await_end(Work* work) noexcept nogil:
    pthread_mutex_lock(&work.mutex)
    while not work.ended:
        pthread_cond_wait(&work.changed, &work.mutex)
    pthread_mutex_unlock(&work.mutex)


cdef void _stop(Work* work, pthread_t thread) noexcept nogil:
    sem_post(&work.wanted)
    pthread_join(thread, NULL)


@cython.final
cdef class FileSync:
    """For the logs ``<digits>.log`` in one directory. One sync at a time: ``begin``, then ``end``."""

    cdef Work _work
    cdef pthread_t _thread
    cdef bint _running, _begun

    def __cinit__(self, *args, **kwargs):
        self._work.fd = self._work.inotify = -1
        sem_init(&self._work.wanted, 0, 0)
        pthread_mutex_init(&self._work.mutex, NULL)
        pthread_cond_init(&self._work.changed, NULL)

    def __init__(self, str directory not None):
        """Raises: OSError, the directory can't be read, or no thread can be started."""
        cdef sigset_t all, before
        cdef int error
        cdef bytes path = directory.encode("utf-8", "surrogateescape")
        if self._running:
            raise ValueError("it runs already")
        self._work.directory = opendir(path)
        if self._work.directory is NULL:
            raise OSError(errno, strerror(errno).decode(), directory)
        self._work.inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
        if self._work.inotify >= 0 and inotify_add_watch(
                self._work.inotify, path, IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO) < 0:
            c_close(self._work.inotify)
            self._work.inotify = -1
        sigfillset(&all)
        pthread_sigmask(SIG_SETMASK, &all, &before)         # signals are for the interpreter's threads
        error = pthread_create(&self._thread, NULL, _run, &self._work)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if error:
            raise OSError(error, strerror(error).decode())
        self._running = True

    def begin(self, int wake_fd):
        """Start a sync; ``wake_fd`` (an eventfd, or -1) is written to at its end."""
        if not self._running or self._begun:
            raise ValueError("it is closed" if not self._running else "a sync is under way")
        self._begun = True
        self._work.wake_fd = wake_fd
        store_flag(&self._work.ended, 0)
        store_flag(&self._work.begun, 1)
        sem_post(&self._work.wanted)

    @property
    def ended(self):
        """The sync has finished: ``end`` will not block."""
        return self._begun and load_flag(&self._work.ended) != 0

    def wait(self):
        """Wait until the sync that was begun, if any, has finished, without the interpreter's lock. It may be called
        from any thread, also while another one takes the outcome."""
        if self._begun:
            with nogil:
                _await_end(&self._work)

    def end(self):
        """Take the outcome; waits if necessary. Raises: OSError, with the disk's error."""
        if not self._begun:
            raise ValueError("no sync was begun")
        if not load_flag(&self._work.ended):
            with nogil:
                _await_end(&self._work)
        self._begun = False
        if self._work.error:
            raise OSError(self._work.error, strerror(self._work.error).decode())

    def close(self):
        """End the thread, after the current sync."""
        if self._running:
            self._running = False
            with nogil:
                _stop(&self._work, self._thread)
            self._begun = False

    def __dealloc__(self):
        if self._running:
            with nogil:
                _stop(&self._work, self._thread)
        sem_destroy(&self._work.wanted)
        pthread_cond_destroy(&self._work.changed)
        pthread_mutex_destroy(&self._work.mutex)
        if self._work.fd >= 0:
            c_close(self._work.fd)
        if self._work.inotify >= 0:
            c_close(self._work.inotify)
        if self._work.directory is not NULL:
            closedir(self._work.directory)
