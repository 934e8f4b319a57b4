/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "net/switch.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/thread.h"
#include "net/switch_wire.h"

#define MAX_MEMBERS  64
#define WAITING_MOST (1u << 20) /* bytes that wait for one member; more are dropped */
#define BATCH        64         /* messages that are received at one go */
#define SEND_BUFFER  (1 << 20)

struct waiting {
    struct waiting *next;
    size_t len;
    uint8_t bytes[];
};

struct member {
    uint64_t id;
    int fd; /* connected to its socket */
    struct waiting *first, **last;
    size_t waiting;
};

struct lan {
    struct net net;
    char dir[NET_SWITCH_DIR + 1];
    uint64_t id;
    int fd, wake_fd; /* our socket */
    bool bound;
    pthread_mutex_t lock; /* members and the table */
    struct member member[MAX_MEMBERS];
    unsigned count;
    struct switch_table table;
    pthread_t thread;
    bool started;
    _Atomic bool stop, full; /* the card had no room for what is in `message` */
    /* The thread's own. */
    size_t len;
    uint8_t message[SWITCH_MESSAGE_MAX], piece[NET_FRAME_MAX];
    bool refused;
};

static struct lan *lan_of(struct net *net)
{
    return container_of(net, struct lan, net);
}

static void wake(struct lan *l)
{
    const uint64_t one = 1;

    while (write(l->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static struct sockaddr_un address(const struct lan *l, uint64_t id)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%.*s/%016" PRIx64, NET_SWITCH_DIR, l->dir, id);
    return addr;
}

/* ---- Members, with the lock held ------------------------------------------------------- */

static void member_fini(struct member *m)
{
    struct waiting *w;

    while ((w = m->first)) {
        m->first = w->next;
        free(w);
    }
    close(m->fd);
}

static void drop_member(struct lan *l, unsigned i, bool dead)
{
    struct sockaddr_un addr = address(l, l->member[i].id);

    if (dead)
        unlink(addr.sun_path);
    switch_forget(&l->table, l->member[i].id);
    member_fini(&l->member[i]);
    l->count--;
    if (i == l->count)
        return;
    l->member[i] = l->member[l->count];
    if (!l->member[i].first)
        l->member[i].last = &l->member[i].first;
}

/* A socket that refuses is of a process that is gone; its name is not used again. */
static struct member *add_member(struct lan *l, uint64_t id)
{
    struct sockaddr_un addr = address(l, id);
    struct member *m = &l->member[l->count];
    int size = SEND_BUFFER, fd;

    if (l->count == MAX_MEMBERS)
        return NULL;
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return NULL;
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        if (errno == ECONNREFUSED)
            unlink(addr.sun_path);
        close(fd);
        return NULL;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    *m = (struct member){.id = id, .fd = fd};
    m->last = &m->first;
    l->count++;
    return m;
}

static struct member *find_member(struct lan *l, uint64_t id)
{
    for (unsigned i = 0; i < l->count; i++)
        if (l->member[i].id == id)
            return &l->member[i];
    return NULL;
}

static void put_off(struct member *m, const struct iovec *iov, unsigned n, size_t len)
{
    struct waiting *w;
    size_t at = 0;

    if (m->waiting + len > WAITING_MOST)
        return;
    w = malloc(sizeof(*w) + len);
    if (!w)
        return;
    w->next = NULL;
    w->len = len;
    for (unsigned i = 0; i < n; i++) {
        memcpy(w->bytes + at, iov[i].iov_base, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    *m->last = w;
    m->last = &w->next;
    m->waiting += len;
}

/* False: the member is gone. */
static bool send_to(struct lan *l, struct member *m, const struct iovec *iov, unsigned n,
                    size_t len)
{
    const struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n};

    if (!m->first && sendmsg(m->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return true;
    if (!m->first && errno == EMSGSIZE)
        return true; /* this host's limits are below what a card sends at once */
    if (!m->first && errno != EAGAIN && errno != ENOBUFS && errno != EINTR)
        return false;
    if (!m->first)
        wake(l); /* the thread has more to wait for now */
    put_off(m, iov, n, len);
    return true;
}

/* To whom has this address, else to all. */
static void send_frame(struct lan *l, const uint8_t *mac, const struct iovec *iov, unsigned n,
                       size_t len)
{
    uint64_t to = mac ? switch_find(&l->table, mac) : 0;

    for (unsigned i = l->count; i-- > 0;)
        if ((!to || l->member[i].id == to) && !send_to(l, &l->member[i], iov, n, len))
            drop_member(l, i, true);
}

static void send_word(struct lan *l, enum switch_kind kind)
{
    struct switch_header h = {.magic = SWITCH_MAGIC, .kind = (uint16_t)kind, .sender = l->id};
    const struct iovec iov = {&h, sizeof(h)};

    send_frame(l, NULL, &iov, 1, sizeof(h));
}

static void send_waiting(struct lan *l, unsigned i)
{
    struct member *m = &l->member[i];
    struct waiting *w;

    while ((w = m->first)) {
        if (send(m->fd, w->bytes, w->len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
            if (errno != EAGAIN && errno != ENOBUFS && errno != EINTR)
                drop_member(l, i, true);
            return;
        }
        m->first = w->next;
        m->waiting -= w->len;
        free(w);
    }
    m->last = &m->first;
}

/* ---- To the guest ------------------------------------------------------------------------- */

static void to_card(void *opaque, const struct net_offload *o, const uint8_t *bytes, size_t len)
{
    struct lan *l = opaque;
    const struct iovec iov = {(void *)bytes, len};
    const struct net_frame frame = {.offload = *o, .iov = &iov, .iovcnt = 1, .len = len};

    l->refused |= !l->net.card_ops->receive(l->net.card, &frame);
}

/* False: there was no room; the message stays for the next try. Segments that it was cut into may then come twice. */
static bool hand_over(struct lan *l)
{
    uint8_t *frame = l->message + sizeof(struct switch_header);
    unsigned takes = atomic_load(&l->net.card_takes);
    struct switch_header h;

    memcpy(&h, l->message, sizeof(h));
    if (!(takes & NET_TAKES_CSUM))
        h.offload.flags &= (uint8_t)~NET_DATA_VALID;
    l->refused = false;
    switch_reduce(frame, l->len - sizeof(h), &h.offload, takes, l->piece, to_card, l);
    memcpy(l->message, &h, sizeof(h));
    return !l->refused;
}

/* Learn from a message; true: there is a frame in it for the guest. */
static bool take(struct lan *l)
{
    struct switch_header h;
    bool frame = false;

    if (!switch_read(l->message, l->len, &h) || h.sender == l->id)
        return false;
    pthread_mutex_lock(&l->lock);
    if (h.kind == SWITCH_BYE) {
        struct member *m = find_member(l, h.sender);

        if (m)
            drop_member(l, (unsigned)(m - l->member), false);
    } else if (find_member(l, h.sender) || add_member(l, h.sender)) {
        frame = h.kind == SWITCH_FRAME;
        if (frame)
            switch_learn(&l->table, l->message + sizeof(h) + NET_MAC_LEN, h.sender);
    }
    pthread_mutex_unlock(&l->lock);
    return frame;
}

static void receive_some(struct lan *l)
{
    for (unsigned i = 0; i < BATCH; i++) {
        ssize_t n = recv(l->fd, l->message, sizeof(l->message), MSG_DONTWAIT | MSG_TRUNC);

        if (n < 0)
            return;
        l->len = (size_t)n;
        if (l->len > sizeof(l->message) || !take(l))
            continue;
        atomic_store(&l->full, true);
        if (!hand_over(l))
            return;
        atomic_store(&l->full, false);
    }
}

/* ---- The thread ----------------------------------------------------------------------------- */

/* Our socket, unless the card is full; members for whom something waits. */
static unsigned fill_fds(struct lan *l, struct pollfd *fds)
{
    unsigned n = 2;

    fds[0] = (struct pollfd){.fd = l->wake_fd, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = atomic_load(&l->full) ? -1 : l->fd, .events = POLLIN};
    pthread_mutex_lock(&l->lock);
    for (unsigned i = 0; i < l->count; i++)
        if (l->member[i].first)
            fds[n++] = (struct pollfd){.fd = l->member[i].fd, .events = POLLOUT};
    pthread_mutex_unlock(&l->lock);
    return n;
}

static void *lan_thread(void *opaque)
{
    struct lan *l = opaque;
    struct pollfd fds[2 + MAX_MEMBERS];
    uint64_t count;

    thread_name("net switch");
    while (!atomic_load(&l->stop)) {
        poll(fds, fill_fds(l, fds), -1);
        /* The card's `ready` wakes us after it has made room. */
        if (read(l->wake_fd, &count, sizeof(count)) > 0 && atomic_load(&l->full) && hand_over(l))
            atomic_store(&l->full, false);
        pthread_mutex_lock(&l->lock);
        for (unsigned i = l->count; i-- > 0;)
            if (l->member[i].first)
                send_waiting(l, i);
        pthread_mutex_unlock(&l->lock);
        if (!atomic_load(&l->full))
            receive_some(l);
    }
    return NULL;
}

/* ---- The card's side -------------------------------------------------------------------------- */

static void lan_send(struct net *net, const struct net_frame *f)
{
    struct lan *l = lan_of(net);
    struct switch_header h = {
        .magic = SWITCH_MAGIC, .kind = SWITCH_FRAME, .offload = f->offload, .sender = l->id};
    uint8_t bytes[NET_FRAME_MAX];
    const struct iovec iov[2] = {{&h, sizeof(h)}, {bytes, f->len}};
    size_t len = 0;

    /* One copy of what the guest may still write to. */
    for (unsigned i = 0; i < f->iovcnt && f->iov[i].iov_len <= sizeof(bytes) - len; i++) {
        memcpy(bytes + len, f->iov[i].iov_base, f->iov[i].iov_len);
        len += f->iov[i].iov_len;
    }
    if (len != f->len)
        return;
    pthread_mutex_lock(&l->lock);
    send_frame(l, bytes, iov, 2, sizeof(h) + len);
    pthread_mutex_unlock(&l->lock);
}

static void lan_ready(struct net *net)
{
    if (atomic_load(&lan_of(net)->full))
        wake(lan_of(net));
}

static int lan_start(struct net *net, struct err *err)
{
    struct lan *l = lan_of(net);
    sigset_t all, old;
    int rc;

    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&l->thread, NULL, lan_thread, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return err_set(err, -rc, "cannot start a thread for a network: %s", strerror(rc));
    l->started = true;
    return 0;
}

static void lan_stop(struct net *net)
{
    struct lan *l = lan_of(net);

    if (!l->started)
        return;
    atomic_store(&l->stop, true);
    wake(l);
    pthread_join(l->thread, NULL);
    l->started = false;
}

static void lan_free(struct net *net)
{
    struct lan *l = lan_of(net);

    lan_stop(net);
    if (l->bound) {
        struct sockaddr_un addr = address(l, l->id);

        unlink(addr.sun_path);
        send_word(l, SWITCH_BYE);
        rmdir(l->dir); /* if we were the last */
    }
    while (l->count)
        member_fini(&l->member[--l->count]);
    if (l->fd >= 0)
        close(l->fd);
    if (l->wake_fd >= 0)
        close(l->wake_fd);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static const struct net_ops lan_ops = {
    .name = "switch",
    .send = lan_send,
    .ready = lan_ready,
    .start = lan_start,
    .stop = lan_stop,
    .free = lan_free,
};

/* ---- Joining ------------------------------------------------------------------------------------ */

/* A folder that nobody else can write to. */
static int make_dir(const char *dir, struct err *err)
{
    struct stat st;

    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_set(err, -errno, "cannot make %s: %s", dir, strerror(errno));
    if (lstat(dir, &st) < 0)
        return err_set(err, -errno, "cannot look at %s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
        return err_set(err, -EPERM, "%s is not a folder that is yours alone to write to", dir);
    return 0;
}

static int bind_socket(struct lan *l, const char *base, struct err *err)
{
    struct sockaddr_un addr = address(l, l->id);
    int code = -ENOENT;

    l->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return err_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    /* Who leaves removes the folder when it is empty. */
    for (unsigned tries = 0; code == -ENOENT && tries < 100; tries++) {
        code = make_dir(base, err);
        if (!code)
            code = make_dir(l->dir, err);
        if (code && code != -ENOENT)
            return code;
        if (!code)
            code = bind(l->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
    }
    l->bound = !code;
    return !code ? 0
                 : err_set(err, code, "cannot join the network at %s: %s", l->dir, strerror(-code));
}

/* All that are there; they learn of us by the greeting, and who comes later greets us. */
static int meet(struct lan *l, struct err *err)
{
    DIR *dir = opendir(l->dir);
    struct dirent *e;

    if (!dir)
        return err_set(err, -errno, "cannot read %s: %s", l->dir, strerror(errno));
    while ((e = readdir(dir))) {
        char *end;
        uint64_t id = strtoull(e->d_name, &end, 16);

        if (strlen(e->d_name) == 16 && !*end && id && id != l->id)
            add_member(l, id);
    }
    closedir(dir);
    send_word(l, SWITCH_HELLO);
    return 0;
}

int net_switch_check_name(const char *name, struct err *err)
{
    size_t len = strlen(name);

    if (len && len <= NET_SWITCH_NAME && name[0] != '-' && name[0] != '_' &&
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == len)
        return 0;
    return err_set(
        err, -EINVAL,
        "'%.60s' names no network: it takes letters and digits, behind the first also '-' "
        "and '_', at most %d",
        name, NET_SWITCH_NAME);
}

int net_switch_new(struct net **net, const char *base, const char *name, struct err *err)
{
    struct lan *l = calloc(1, sizeof(*l));
    int code = 0, n;

    if (!l)
        return err_set(err, -ENOMEM, "no memory for a network");
    l->net =
        (struct net){.ops = &lan_ops, .takes = NET_TAKES_CSUM | NET_TAKES_TSO4 | NET_TAKES_TSO6};
    l->fd = -1;
    pthread_mutex_init(&l->lock, NULL);
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    n = snprintf(l->dir, sizeof(l->dir), "%s/%s", base, name);
    while (!code && !l->id)
        code = getrandom(&l->id, sizeof(l->id), 0) < 0 ? -errno : 0;
    if (l->wake_fd < 0 || code)
        code = err_set(err, -errno, "cannot make a network: %s", strerror(errno));
    else if (n < 0 || (size_t)n >= sizeof(l->dir))
        code = err_set(err, -ENAMETOOLONG,
                       "the folder for sockets of networks has too long a name: "
                       "%s",
                       base);
    if (!code)
        code = bind_socket(l, base, err);
    if (!code)
        code = meet(l, err);
    if (code < 0) {
        lan_free(&l->net);
        return code;
    }
    *net = &l->net;
    return 0;
}
