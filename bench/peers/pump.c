/* The load of the comparison: sockets that are open already, published to and read from as fast as one core can.
 *
 *     publisher   template  ........~un~ 0003 0000001f 00000a5bc0ffee00 xxxx....   one mark in each message:
 *                                    |   pub  seq      due, ns         padding     who, which, when it was due
 *     subscriber  raw bytes are scanned for marks, whatever frames are around them
 *     ACKs        occurrences of a pattern in the raw bytes that a publisher gets, in the order of its messages
 *
 * A message is in flight until it is acknowledged, where the peer does that, and has reached every subscriber of its
 * channel. Either a window of so many in flight for each publisher (closed loop: the highest throughput), or a rate:
 * then a message's time is when it was due, not when it could be sent. For each pair of subscriber and publisher it is
 * known which of the latest HISTORY messages have come, so that lost, repeated and swapped ones are told apart.
 *
 * One thread, one epoll, no allocation once it runs. Python opens the sockets, see pump.py; both know these structs. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MARK = 32,                  /* bytes of a mark: ~un~ and 28 digits */
    HISTORY = 4096,             /* messages back to which a repeat is told from a late one; windows are shorter */
    SUB_BUCKETS = 64,           /* of a histogram, for each octave: 1.6 % wide */
    BUCKETS = 64 * SUB_BUCKETS,
    READ_BYTES = 1 << 20,       /* one read; more than a socket holds */
    HEAD_ROOM = 256,            /* before it, for what the read before has left of a mark or pattern */
    BATCH = 64,                 /* messages of one publisher made at once */
    EVENTS = 512,
    PAUSE = 50 * 1000 * 1000,   /* ns between two looks at the sockets: more was not spent on looking */
};
enum { SUBSCRIBER, PUBLISHER };
enum { NO_COUNTER, DECIMAL, BYTE };     /* DECIMAL: from 0, blanks before it; BYTE: 1 to 255 and again */

struct pump_conn {              /* filled in by Python */
    int32_t fd, role, channel, counter;
    uint32_t size, mark_at, counter_at, counter_width;
    const uint8_t *message;     /* the template; publishers only */
};
struct pump_plan {
    struct pump_conn *conns;
    const uint8_t *ack;         /* ack_size 0: the peer does not acknowledge */
    const int32_t *pids;
    uint32_t conn_count, channels, ack_size, window, pid_count, spin;
    uint64_t warmup_ns, duration_ns, count;     /* count: stop after so many messages in all; 0: by time */
    uint64_t quiet_ns;          /* nothing comes for so long though something should: give up */
    double rate;                /* messages/s of all publishers; 0: by window */
};
struct pump_result {
    uint64_t sent, acked, delivered, expected, lost, repeats, inversions, closed, stalled;
    uint64_t span_ns, span_sent, span_acked, span_delivered;    /* within the measured span */
    uint64_t server_cpu_ns, load_cpu_ns, late_ns;
    uint64_t latency_max, ack_max;
    uint64_t latency[BUCKETS], ack_latency[BUCKETS];
};

struct reader {                 /* of one publisher's messages by one subscriber */
    uint32_t next;
    uint64_t seen[HISTORY / 64];
};
struct state {
    uint8_t tail[HEAD_ROOM];
    uint32_t tail_size, number;         /* publisher: its number in all; subscriber: its place in its channel */
    struct reader *readers;             /* subscriber: by publisher's place in the channel */
    uint8_t *out;
    uint32_t out_size, out_at, sent, acked, done, place, closed;
    uint16_t *got;                      /* publisher: deliveries of message seq & (HISTORY - 1) */
    uint64_t *made;                     /* when; for the ACK's latency */
};
struct run {
    const struct pump_plan *plan;
    struct pump_result *result;
    struct state *states;
    uint32_t *publishers, *subs, *pubs; /* indices of publishers; counts by channel */
    uint32_t publisher_count;
    uint8_t *buffer;
    uint64_t begin, end;                /* of the measured span; 0: not yet */
};

static uint64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static uint64_t own_cpu_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

/* What the server's processes have run so far, all their threads, in ns. A thread that has ended is not counted. */
static uint64_t server_cpu_ns(const struct pump_plan *plan) {
    uint64_t total = 0;
    for (uint32_t n = 0; n < plan->pid_count; n++) {
        char path[320];
        snprintf(path, sizeof path, "/proc/%d/task", plan->pids[n]);
        DIR *tasks = opendir(path);
        for (struct dirent *task; tasks && (task = readdir(tasks));) {
            if (task->d_name[0] == '.') continue;
            snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", plan->pids[n], task->d_name);
            FILE *file = fopen(path, "r");
            unsigned long long ran;
            if (!file) continue;
            if (fscanf(file, "%llu", &ran) == 1) total += ran;
            fclose(file);
        }
        if (tasks) closedir(tasks);
    }
    return total;
}

/* Where a latency is counted: exactly below 64 ns, then in 64 steps from each power of two to the next. */
uint32_t pump_bucket(uint64_t value) {
    if (value < SUB_BUCKETS) return (uint32_t)value;
    uint32_t octave = 63 - (uint32_t)__builtin_clzll(value) - 6;
    return (octave + 1) * SUB_BUCKETS + (uint32_t)((value >> octave) - SUB_BUCKETS);
}

static void record(uint64_t *buckets, uint64_t *max, uint64_t value) {
    buckets[pump_bucket(value)]++;
    if (value > *max) *max = value;
}

static void put_hex(uint8_t *at, uint64_t number, int digits) {
    while (digits--) {
        at[digits] = (uint8_t)"0123456789abcdef"[number & 15];
        number >>= 4;
    }
}

static int take_hex(const uint8_t *at, int digits, uint64_t *number) {
    uint64_t found = 0;
    int wrong = 0;
    for (int n = 0; n < digits; n++) {
        uint8_t c = at[n], digit = (uint8_t)(c - '0');
        if (digit > 9) {
            digit = (uint8_t)(c - 'a' + 10);
            wrong |= digit < 10 || digit > 15;
        }
        found = found << 4 | digit;
    }
    *number = found;
    return !wrong;
}

/* The oldest messages that are through, acknowledged and delivered, are not in flight any more. */
static void settle(struct run *run, struct state *publisher, uint32_t subscribers) {
    while (publisher->done < publisher->sent && (!run->plan->ack_size || publisher->done < publisher->acked)) {
        uint16_t *got = &publisher->got[publisher->done & (HISTORY - 1)];
        if (subscribers && *got < subscribers) break;
        *got = 0;
        publisher->done++;
    }
}

static void delivered(struct run *run, struct state *state, int32_t channel, const uint8_t *mark, uint64_t at) {
    struct pump_result *result = run->result;
    uint64_t publisher, sequence, due;
    if (!take_hex(mark + 4, 4, &publisher) || !take_hex(mark + 8, 8, &sequence) || !take_hex(mark + 16, 16, &due)) return;
    if (publisher >= run->publisher_count) return;              /* of another run: a channel that has kept something */
    uint32_t index = run->publishers[publisher];
    struct state *from = &run->states[index];
    if (run->plan->conns[index].channel != channel || sequence >= from->sent) return;
    struct reader *reader = &state->readers[from->place];
    uint32_t seq = (uint32_t)sequence;
    uint64_t *word = &reader->seen[seq / 64 % (HISTORY / 64)], bit = (uint64_t)1 << (seq & 63);
    if (seq >= reader->next) {
        for (uint32_t n = reader->next; n < seq; n++) {
            reader->seen[n / 64 % (HISTORY / 64)] &= ~((uint64_t)1 << (n & 63));
            result->lost++;                                     /* until it comes after all */
        }
        reader->next = seq + 1;
    } else if (reader->next - seq > HISTORY || *word & bit) {
        result->repeats++;
        return;
    } else {
        result->lost--;
        result->inversions++;
    }
    *word |= bit;
    result->delivered++;
    if (!run->plan->rate && !run->plan->count) from->got[seq & (HISTORY - 1)]++;
    if (!run->begin || run->end) {
        if (run->begin && due >= run->begin && due <= run->end) record(result->latency, &result->latency_max, at - due);
        return;
    }
    result->span_delivered++;
    if (due >= run->begin) record(result->latency, &result->latency_max, at > due ? at - due : 0);
}

static void acknowledged(struct run *run, struct state *state, uint64_t at) {
    struct pump_result *result = run->result;
    if (state->acked >= state->sent) return;                    /* more ACKs than messages: something else's */
    uint64_t due = state->made[state->acked & (HISTORY - 1)];
    state->acked++;
    result->acked++;
    if (run->begin && !run->end) result->span_acked++;
    if (run->begin && due >= run->begin && (!run->end || due <= run->end))
        record(result->ack_latency, &result->ack_max, at > due ? at - due : 0);
}

/* What has come on one connection; the end of it that may be the beginning of a mark or pattern is kept. */
static void scan(struct run *run, uint32_t index, uint8_t *data, size_t size, uint64_t at) {
    const struct pump_plan *plan = run->plan;
    const struct pump_conn *conn = &plan->conns[index];
    struct state *state = &run->states[index];
    const uint8_t *from = data, *stop = data + size, *found;
    size_t keep = MARK - 1;
    if (conn->role == SUBSCRIBER) {
        while ((found = memchr(from, '~', (size_t)(stop - from)))) {
            if (stop - found < MARK) break;
            if (memcmp(found, "~un~", 4) == 0) {
                delivered(run, state, conn->channel, found, at);
                from = found + MARK;
            } else {
                from = found + 1;
            }
        }
    } else if (plan->ack_size) {
        keep = plan->ack_size - 1;
        while ((found = memmem(from, (size_t)(stop - from), plan->ack, plan->ack_size))) {
            acknowledged(run, state, at);
            from = found + plan->ack_size;
        }
    }
    if ((size_t)(stop - from) < keep) keep = (size_t)(stop - from);
    memcpy(state->tail, stop - keep, keep);
    state->tail_size = (uint32_t)keep;
}

static void receive(struct run *run, uint32_t index) {
    struct state *state = &run->states[index];
    uint8_t *data = run->buffer + HEAD_ROOM;
    ssize_t got = recv(run->plan->conns[index].fd, data, READ_BYTES, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        if (!state->closed) run->result->closed++;
        state->closed = 1;
        return;
    }
    uint64_t at = now_ns();
    data -= state->tail_size;
    memcpy(data, state->tail, state->tail_size);
    scan(run, index, data, (size_t)got + state->tail_size, at);
}

static void make(struct run *run, uint32_t index, uint64_t due) {
    const struct pump_conn *conn = &run->plan->conns[index];
    struct state *state = &run->states[index];
    uint8_t *at = state->out + state->out_size;
    memcpy(at, conn->message, conn->size);
    uint8_t *mark = at + conn->mark_at;
    memcpy(mark, "~un~", 4);
    put_hex(mark + 4, state->number, 4);
    put_hex(mark + 8, state->sent, 8);
    put_hex(mark + 16, due, 16);
    if (conn->counter == DECIMAL) {
        uint32_t number = state->sent, left = conn->counter_width;
        do at[conn->counter_at + --left] = (uint8_t)('0' + number % 10);
        while ((number /= 10) && left);
    } else if (conn->counter == BYTE) {
        at[conn->counter_at] = (uint8_t)(1 + state->sent % 255);
    }
    state->out_size += conn->size;
    state->made[state->sent & (HISTORY - 1)] = due;
    state->sent++;
    run->result->sent++;
    if (run->begin && !run->end) run->result->span_sent++;
}

static void send_out(struct run *run, uint32_t index) {
    struct state *state = &run->states[index];
    if (state->out_at == state->out_size || state->closed) return;
    ssize_t sent = send(run->plan->conns[index].fd, state->out + state->out_at, state->out_size - state->out_at,
                        MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) state->out_at += (uint32_t)sent;
    if (state->out_at == state->out_size) state->out_at = state->out_size = 0;
}

/* Publish what window or schedule allow. Returns whether something waits for a socket. */
static int publish(struct run *run, uint64_t start, uint64_t *scheduled) {
    const struct pump_plan *plan = run->plan;
    uint64_t at = now_ns();
    int waiting = 0;
    if (plan->rate > 0) {
        for (;;) {
            uint64_t due = start + (uint64_t)((double)*scheduled * 1e9 / plan->rate);
            uint32_t index = run->publishers[*scheduled % run->publisher_count];
            struct state *state = &run->states[index];
            if (due > at || run->end) break;
            if (state->out_size > (BATCH - 1) * plan->conns[index].size) send_out(run, index);
            if (state->out_size > (BATCH - 1) * plan->conns[index].size) break;     /* its socket is full: late */
            make(run, index, due);
            ++*scheduled;
            if (at - due > run->result->late_ns) run->result->late_ns = at - due;
        }
    }
    for (uint32_t n = 0; n < run->publisher_count; n++) {
        uint32_t index = run->publishers[n];
        struct state *state = &run->states[index];
        if (plan->rate <= 0 && !run->end && state->out_size == 0) {
            if (!plan->count) settle(run, state, run->subs[plan->conns[index].channel]);
            else state->done = plan->ack_size ? state->acked : state->sent;
            uint32_t flying = state->sent - state->done;
            for (uint32_t made = 0; flying < plan->window && made < BATCH; flying++, made++) {
                if (plan->count && run->result->sent >= plan->count) break;
                make(run, index, at);
            }
        }
        send_out(run, index);
        waiting |= state->out_size != 0;
    }
    return waiting;
}

static int finished(const struct run *run) {
    const struct pump_result *result = run->result;
    return result->delivered >= result->expected && (!run->plan->ack_size || result->acked >= result->sent);
}

static void loop(struct run *run, int epoll) {
    const struct pump_plan *plan = run->plan;
    struct pump_result *result = run->result;
    struct epoll_event events[EVENTS];
    uint64_t start = now_ns(), scheduled = 0, server = 0, cpu = 0, before = 0, quiet = 0, last = start;
    for (;;) {
        uint64_t at = now_ns();
        if (!run->begin && at >= start + plan->warmup_ns) {
            run->begin = at;
            server = server_cpu_ns(plan);
            cpu = own_cpu_ns();
        }
        int over = plan->count ? result->sent >= plan->count && finished(run) : at >= run->begin + plan->duration_ns;
        uint64_t progress = result->acked + result->delivered + result->sent;
        /* A pause of our own, when the machine does something else, is no silence of the server's. */
        quiet = progress != before || (plan->rate > 0 && !run->end) ? 0 : quiet + (at - last < PAUSE ? at - last : PAUSE);
        before = progress;
        last = at;
        int stalled = quiet > plan->quiet_ns || result->closed;
        if (run->begin && !run->end && (over || stalled)) {
            run->end = at;
            result->span_ns = run->end - run->begin;
            result->server_cpu_ns = server_cpu_ns(plan) - server;
            result->load_cpu_ns = own_cpu_ns() - cpu;
        }
        int waiting = publish(run, start, &scheduled);
        result->expected = 0;
        for (uint32_t n = 0; run->end && n < run->publisher_count; n++) {
            const struct state *state = &run->states[run->publishers[n]];
            result->expected += (uint64_t)state->sent * run->subs[plan->conns[run->publishers[n]].channel];
        }
        if (run->end && ((!waiting && finished(run)) || stalled)) {
            result->stalled = !finished(run);
            return;
        }
        int count = epoll_wait(epoll, events, EVENTS, plan->spin ? 0 : 1);
        for (int n = 0; n < count; n++) receive(run, events[n].data.u32);
    }
}

/* Gives 0, or -1 without memory or descriptors. The caller frees nothing; the sockets stay open. */
int pump_run(const struct pump_plan *plan, struct pump_result *result) {
    struct run run = {.plan = plan, .result = result};
    int epoll = epoll_create1(EPOLL_CLOEXEC), outcome = -1;
    memset(result, 0, sizeof *result);
    run.states = calloc(plan->conn_count, sizeof *run.states);
    run.publishers = calloc(plan->conn_count + 1, sizeof *run.publishers);
    run.subs = calloc(plan->channels, sizeof *run.subs);
    run.pubs = calloc(plan->channels, sizeof *run.pubs);
    run.buffer = malloc(HEAD_ROOM + READ_BYTES);
    if (epoll < 0 || !run.states || !run.publishers || !run.subs || !run.pubs || !run.buffer) goto done;
    if (plan->window > HISTORY || plan->ack_size > HEAD_ROOM) goto done;
    for (uint32_t n = 0; n < plan->conn_count; n++) {
        const struct pump_conn *conn = &plan->conns[n];
        struct state *state = &run.states[n];
        if (conn->role == PUBLISHER) {
            state->number = run.publisher_count;
            state->place = run.pubs[conn->channel]++;
            run.publishers[run.publisher_count++] = n;
            state->out = malloc((size_t)conn->size * BATCH);
            state->got = calloc(HISTORY, sizeof *state->got);
            state->made = calloc(HISTORY, sizeof *state->made);
            if (!state->out || !state->got || !state->made) goto done;
        } else {
            state->number = run.subs[conn->channel]++;
        }
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = n};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, conn->fd, &event) < 0) goto done;
    }
    for (uint32_t n = 0; n < plan->conn_count; n++) {
        if (plan->conns[n].role != SUBSCRIBER) continue;
        run.states[n].readers = calloc(run.pubs[plan->conns[n].channel] + 1, sizeof(struct reader));
        if (!run.states[n].readers) goto done;
    }
    loop(&run, epoll);
    result->lost += result->expected > result->delivered + result->lost
                        ? result->expected - result->delivered - result->lost : 0;     /* those at the end */
    outcome = 0;
done:
    for (uint32_t n = 0; run.states && n < plan->conn_count; n++) {
        free(run.states[n].readers);
        free(run.states[n].out);
        free(run.states[n].got);
        free(run.states[n].made);
    }
    free(run.states);
    free(run.publishers);
    free(run.subs);
    free(run.pubs);
    free(run.buffer);
    if (epoll >= 0) close(epoll);
    return outcome;
}

/* Replay: send the request on one socket, and count the marks that come back: 0 to count - 1, each once. Gives how many
 * of them came; the time in ns through span, and how many came again, or behind a later one. */
uint64_t pump_replay(int32_t fd, const uint8_t *request, uint32_t size, uint64_t count, uint64_t quiet_ns,
                     const int32_t *pids, uint32_t pid_count, uint64_t *span, uint64_t *cpu, uint64_t *repeats,
                     uint64_t *inversions) {
    struct pump_plan plan = {.pids = pids, .pid_count = pid_count};
    uint8_t *buffer = malloc(HEAD_ROOM + READ_BYTES), *seen = calloc(count / 8 + 1, 1);
    uint64_t got = 0, next = 0, before = server_cpu_ns(&plan), start = now_ns(), last = start, kept = 0;
    *repeats = *inversions = 0;
    if (!buffer || !seen || send(fd, request, size, MSG_NOSIGNAL) != (ssize_t)size) {
        free(buffer);
        free(seen);
        return 0;
    }
    while (got < count && now_ns() - last < quiet_ns) {
        ssize_t read = recv(fd, buffer + kept, READ_BYTES, MSG_DONTWAIT);
        if (read == 0 || (read < 0 && errno != EAGAIN && errno != EINTR)) break;
        if (read < 0) continue;
        last = now_ns();
        const uint8_t *from = buffer, *stop = buffer + kept + read, *found;
        while ((found = memchr(from, '~', (size_t)(stop - from))) && stop - found >= MARK) {
            uint64_t sequence;
            if (memcmp(found, "~un~", 4) == 0 && take_hex(found + 8, 8, &sequence) && sequence < count) {
                uint8_t *byte = &seen[sequence / 8], bit = (uint8_t)(1 << (sequence & 7));
                if (*byte & bit) {
                    ++*repeats;
                } else {
                    *byte |= bit;
                    got++;
                    *inversions += sequence < next;
                    if (sequence >= next) next = sequence + 1;
                }
                from = found + MARK;
            } else {
                from = found + 1;
            }
        }
        kept = (size_t)(stop - from) < MARK - 1 ? (size_t)(stop - from) : MARK - 1;
        memmove(buffer, stop - kept, kept);
    }
    *span = last - start;
    *cpu = server_cpu_ns(&plan) - before;
    free(buffer);
    free(seen);
    return got;
}
