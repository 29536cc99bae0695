/* What the plane's system calls cost, and what they would cost through io_uring: docs/decisions/0004-io-uring.md
 *
 *     fan-out   1,000 loopback sockets: one send of 200 bytes to each; one of 64 frames (12,800 bytes) to each
 *     ingest    64 loopback sockets: one message of 200 bytes received from each
 *
 * A round is measured (CPU of the whole process, user and system: the kernel's polling thread is one of its threads), and
 * then, unmeasured, the other ends are emptied or filled again. The ways take turns, so that what else the machine does
 * meets all of them; three passes, of which the median is printed. In us of CPU for each message, and of wall time. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FANOUT = 1000, INGEST = 64, FRAME = 200, FRAMES = 64, ROUNDS = 300, PASSES = 3, DEPTH = 1024, GROUP = 7 };

static int ours[FANOUT], theirs[FANOUT];
static char payload[FRAME * FRAMES], sink[1 << 20], received[INGEST][4096];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int must(int result, const char *what) { /* liburing returns -errno */
    if (result < 0) errno = -result, die(what);
    return result;
}

static void connect_all(void) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    if (listener < 0 || bind(listener, (void *)&at, size) || listen(listener, 128)) die("listen");
    if (getsockname(listener, (void *)&at, &size)) die("getsockname");
    for (int i = 0; i < FANOUT; i++) {
        theirs[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (theirs[i] < 0 || connect(theirs[i], (void *)&at, sizeof at)) die("connect (ulimit -n?)");
        ours[i] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (ours[i] < 0) die("accept");
        setsockopt(ours[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(theirs[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    close(listener);
}

static void empty(size_t size) { /* the peers take what was sent to them */
    for (int i = 0; i < FANOUT; i++)
        for (size_t got = 0; got < size;) {
            ssize_t n = recv(theirs[i], sink, size - got, 0);
            if (n <= 0) die("drain");
            got += (size_t)n;
        }
}

static void fill(void) { /* a message waits in each of our sockets */
    for (int i = 0; i < INGEST; i++)
        if (send(theirs[i], payload, FRAME, MSG_NOSIGNAL) != FRAME) die("fill");
}

/* ways to send */

static struct io_uring ring;
static int epoll, skip_success, fixed_files, zero_copy;

static void plain_send(size_t size) {
    for (int i = 0; i < FANOUT; i++)
        if (send(ours[i], payload, size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size) die("send");
}

static void mmsg_send(size_t size) { /* frames of one socket as messages of one call: all that sendmmsg could join */
    struct iovec piece[FRAMES];
    struct mmsghdr messages[FRAMES];
    unsigned count = (unsigned)(size / FRAME);
    memset(messages, 0, sizeof messages);
    for (unsigned k = 0; k < count; k++) {
        piece[k] = (struct iovec){payload + k * FRAME, FRAME};
        messages[k].msg_hdr.msg_iov = &piece[k], messages[k].msg_hdr.msg_iovlen = 1;
    }
    for (int i = 0; i < FANOUT; i++)
        if (sendmmsg(ours[i], messages, count, MSG_NOSIGNAL | MSG_DONTWAIT) != (int)count) die("sendmmsg");
}

static void reap(unsigned wanted, size_t size) {
    struct io_uring_cqe *done[DEPTH];
    while (wanted) {
        unsigned n = io_uring_peek_batch_cqe(&ring, done, DEPTH), over = 0;
        if (!n) {
            must(io_uring_submit_and_wait(&ring, 1), "wait");
            continue;
        }
        for (unsigned k = 0; k < n; k++) {
            int notice = done[k]->flags & IORING_CQE_F_NOTIF; /* zero copy: the buffer is free again */
            if (!notice && done[k]->res != (int)size) errno = -done[k]->res, die("a send through the ring");
            over += !(done[k]->flags & IORING_CQE_F_MORE);
        }
        io_uring_cq_advance(&ring, n);
        wanted -= over;
    }
}

static void uring_send(size_t size) {
    for (int i = 0; i < FANOUT; i++) {
        struct io_uring_sqe *q = io_uring_get_sqe(&ring);
        if (!q) die("the submission queue is full");
        int fd = fixed_files ? i : ours[i];
        if (zero_copy)
            io_uring_prep_send_zc_fixed(q, fd, payload, size, MSG_NOSIGNAL | MSG_WAITALL, 0, 0);
        else
            io_uring_prep_send(q, fd, payload, size, MSG_NOSIGNAL | MSG_WAITALL);
        if (fixed_files) q->flags |= IOSQE_FIXED_FILE;
        if (skip_success && i < FANOUT - 1) q->flags |= IOSQE_CQE_SKIP_SUCCESS;
    }
    if (skip_success) { /* in order, for none of them blocks: the last one's completion is everybody's */
        must(io_uring_submit_and_wait(&ring, 1), "submit");
        reap(1, size);
    } else {
        must(io_uring_submit(&ring), "submit");
        reap(FANOUT, size);
    }
}

/* ways to receive */

static void plain_recv(size_t size) {
    struct epoll_event ready[INGEST];
    (void)size;
    for (int missing = INGEST; missing;) {
        int n = epoll_wait(epoll, ready, INGEST, -1);
        for (int k = 0; k < n; k++)
            if (recv(ours[ready[k].data.u32], received[0], sizeof received[0], MSG_DONTWAIT) != FRAME) die("recv");
        missing -= n;
    }
}

static void uring_recv(size_t size) { /* told by epoll which are ready, as now: only the calls are joined */
    struct epoll_event ready[INGEST];
    for (int missing = INGEST; missing;) {
        int n = epoll_wait(epoll, ready, INGEST, -1);
        for (int k = 0; k < n; k++) {
            struct io_uring_sqe *q = io_uring_get_sqe(&ring);
            int i = (int)ready[k].data.u32;
            io_uring_prep_recv(q, fixed_files ? i : ours[i], received[k], sizeof received[k], 0);
            if (fixed_files) q->flags |= IOSQE_FIXED_FILE;
        }
        must(io_uring_submit(&ring), "submit");
        reap((unsigned)n, FRAME);
        missing -= n;
    }
    (void)size;
}

static struct io_uring_buf_ring *buffers;

static void multishot_recv(size_t size) { /* armed once; instead of epoll */
    struct io_uring_cqe *done[DEPTH];
    (void)size;
    for (unsigned missing = INGEST; missing;) {
        unsigned n = io_uring_peek_batch_cqe(&ring, done, DEPTH);
        if (!n) {
            must(io_uring_submit_and_wait(&ring, missing), "wait");
            continue;
        }
        for (unsigned k = 0; k < n; k++) {
            if (done[k]->res != FRAME || !(done[k]->flags & IORING_CQE_F_MORE)) die("a multishot recv has ended");
            int id = (int)(done[k]->flags >> IORING_CQE_BUFFER_SHIFT);
            io_uring_buf_ring_add(buffers, sink + id * 4096, 4096, (unsigned short)id, 255, (int)k);
        }
        io_uring_buf_ring_advance(buffers, (int)n);
        io_uring_cq_advance(&ring, n);
        missing -= n;
    }
}

/* measuring */

enum { PLAIN, FILES = 1, DEFER = 2, POLLING = 4, SKIP = 8, ZERO = 16, RING = 32, MULTI = 64 };

struct way {
    const char *name;
    void (*round)(size_t);
    int flags;
    double cpu[PASSES], wall[PASSES];
};

static double cpu_now(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static double wall_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void open_ring(int flags) {
    struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE, .cq_entries = 4 * DEPTH};
    params.flags |= flags & POLLING ? IORING_SETUP_SQPOLL : IORING_SETUP_SINGLE_ISSUER;
    params.sq_thread_idle = 2; /* ms; with less it sleeps between rounds and each one wakes it */
    if (flags & DEFER) params.flags |= IORING_SETUP_DEFER_TASKRUN;
    must(io_uring_queue_init_params(DEPTH, &ring, &params), "io_uring (is it allowed here?)");
    io_uring_register_ring_fd(&ring);
    fixed_files = flags & FILES, skip_success = flags & SKIP, zero_copy = flags & ZERO;
    if (fixed_files) must(io_uring_register_files(&ring, ours, FANOUT), "register files");
    if (zero_copy) {
        struct iovec all = {payload, sizeof payload};
        must(io_uring_register_buffers(&ring, &all, 1), "register buffers");
    }
    if (flags & MULTI) {
        if (!buffers && posix_memalign((void **)&buffers, 4096, 256 * sizeof(struct io_uring_buf))) die("buffer ring");
        struct io_uring_buf_reg all = {.ring_addr = (unsigned long)buffers, .ring_entries = 256, .bgid = GROUP};
        must(io_uring_register_buf_ring(&ring, &all, 0), "register buffer ring");
        io_uring_buf_ring_init(buffers);
        for (int id = 0; id < 256; id++)
            io_uring_buf_ring_add(buffers, sink + id * 4096, 4096, (unsigned short)id, 255, id);
        io_uring_buf_ring_advance(buffers, 256);
        for (int i = 0; i < INGEST; i++) {
            struct io_uring_sqe *q = io_uring_get_sqe(&ring);
            io_uring_prep_recv_multishot(q, fixed_files ? i : ours[i], NULL, 0, 0);
            q->flags |= IOSQE_BUFFER_SELECT | (fixed_files ? IOSQE_FIXED_FILE : 0);
            q->buf_group = GROUP;
        }
        must(io_uring_submit(&ring), "submit");
    }
}

static void measure(struct way *way, int pass, size_t size, int receiving) {
    double cpu = 0, wall = 0, messages = (double)(receiving ? INGEST : FANOUT) * (double)(size / FRAME);
    int rounds = receiving ? ROUNDS * 8 : size > FRAME ? ROUNDS / 3 : ROUNDS;
    if (way->flags) open_ring(way->flags);
    for (int round = -5; round < rounds; round++) { /* the first ones warm up */
        if (receiving) fill();
        double c = cpu_now(), w = wall_now();
        way->round(size);
        if (round >= 0) cpu += cpu_now() - c, wall += wall_now() - w;
        if (!receiving) empty(size);
    }
    way->cpu[pass] = cpu / rounds / messages, way->wall[pass] = wall / rounds / messages;
    if (way->flags) io_uring_queue_exit(&ring);
}

static double median(const double *of) {
    double a = of[0], b = of[1], c = of[2];
    return a > b ? (b > c ? b : a > c ? c : a) : (a > c ? a : b > c ? c : b);
}

static void compare(const char *title, struct way *ways, size_t count, size_t size, int receiving) {
    for (int pass = 0; pass < PASSES; pass++)
        for (size_t i = 0; i < count; i++) {
            fprintf(stderr, "\r%s: pass %d, %-60s", title, pass + 1, ways[i].name);
            measure(&ways[i], pass, size, receiving);
        }
    fprintf(stderr, "\r%100s\r", "");
    printf("%s\n%-58s %10s %10s %8s\n", title, "", "CPU us", "wall us", "CPU");
    for (size_t i = 0; i < count; i++)
        printf("  %-56s %10.3f %10.3f %+7.0f%%\n", ways[i].name, median(ways[i].cpu), median(ways[i].wall),
               (median(ways[i].cpu) / median(ways[0].cpu) - 1) * 100);
    printf("\n");
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

int main(void) {
    struct way one[] = {
        {"send", plain_send, PLAIN, {0}, {0}},
        {"io_uring, 1,000 in a batch", uring_send, RING, {0}, {0}},
        {"  + DEFER_TASKRUN", uring_send, DEFER, {0}, {0}},
        {"  + registered files", uring_send, DEFER | FILES, {0}, {0}},
        {"  + no completion of what succeeds", uring_send, DEFER | FILES | SKIP, {0}, {0}},
        {"  + registered buffer, zero copy", uring_send, DEFER | FILES | ZERO, {0}, {0}},
        {"io_uring, SQPOLL, registered files", uring_send, POLLING | FILES, {0}, {0}},
    };
    struct way many[] = {
        {"send, one for all 64", plain_send, PLAIN, {0}, {0}},
        {"sendmmsg, a message for each", mmsg_send, PLAIN, {0}, {0}},
        {"io_uring, 1,000 in a batch", uring_send, RING, {0}, {0}},
        {"  + DEFER_TASKRUN, registered files", uring_send, DEFER | FILES, {0}, {0}},
        {"  + no completion of what succeeds", uring_send, DEFER | FILES | SKIP, {0}, {0}},
        {"  + registered buffer, zero copy", uring_send, DEFER | FILES | ZERO, {0}, {0}},
        {"io_uring, SQPOLL, registered files", uring_send, POLLING | FILES, {0}, {0}},
    };
    struct way in[] = {
        {"epoll_wait, recv", plain_recv, PLAIN, {0}, {0}},
        {"epoll_wait, io_uring recv in a batch", uring_recv, DEFER, {0}, {0}},
        {"  + registered files", uring_recv, DEFER | FILES, {0}, {0}},
        {"io_uring multishot recv, provided buffers, no epoll", multishot_recv, DEFER | FILES | MULTI, {0}, {0}},
    };
    memset(payload, 'x', sizeof payload);
    struct rlimit files = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &files);
    connect_all();
    compare("One send of 200 bytes to each of 1,000 sockets, per send", one, COUNT(one), FRAME, 0);
    compare("64 frames of 200 bytes to each of 1,000 sockets, per frame", many, COUNT(many), sizeof payload, 0);
    epoll = epoll_create1(0);
    for (unsigned i = 0; i < INGEST; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, ours[i], &event)) die("epoll_ctl");
    }
    compare("One message of 200 bytes from each of 64 sockets, per recv", in, COUNT(in), FRAME, 1);
    return 0;
}
