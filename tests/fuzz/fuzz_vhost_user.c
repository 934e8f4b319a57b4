/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/block/ src/base/bucket.c src/base/err.c src/base/log.c */
/*
 * A vhost-user back end. The first byte is the number of operations, each of
 * six bytes (fuzz_ops.h): requests, and what the back end does to the ring. The
 * rest is what it says while the disk is opened. Whatever it does, every
 * request is answered once.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/log.h"
#include "block/block.h"
#include "fuzz_ops.h"

#define MEMORY  MIB(1)
#define OPS_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What the front end has told the back end. */
struct told {
    int shared_fd, call_fd;
    uint64_t base, size; /* of the second region */
    uint64_t used, avail;
    uint8_t *map;
};

struct message {
    uint32_t request, flags, size, words[80];
};

struct asked {
    struct block_req req;
    struct iovec iov;
    unsigned done;
};

static void listen_to(int fd, struct told *t)
{
    for (;;) {
        struct message m = {0};
        char control[256];
        struct iovec iov = {&m, 12};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
        int fds[8], n = 0;

        if (recvmsg(fd, &msg, MSG_DONTWAIT) != 12)
            return;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
            n = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(c), (size_t)n * sizeof(int));
        }
        fuzz_check(m.size <= sizeof(m.words));
        fuzz_check(recv(fd, m.words, m.size, MSG_DONTWAIT) == (ssize_t)m.size);
        if (m.request == 5 && n == 2) {
            t->shared_fd = fds[--n];
            memcpy(&t->size, &m.words[2 + 8 + 2], 8);
            memcpy(&t->base, &m.words[2 + 8 + 4], 8);
        } else if (m.request == 9) {
            memcpy(&t->used, &m.words[4], 8);
            memcpy(&t->avail, &m.words[6], 8);
        } else if (m.request == 13 && n) {
            t->call_fd = fds[--n];
        }
        while (n)
            close(fds[--n]);
    }
}

static void on_done(struct block_req *req, int result)
{
    struct asked *a = container_of(req, struct asked, req);

    fuzz_check(!a->done && result <= 0);
    a->done++;
}

static void ask(struct block *b, const struct block_memory *memory, struct asked *a,
                const struct fuzz_op *op)
{
    *a = (struct asked){.iov = {(char *)memory->base + (op->val & 0xff00), op->addr * 512ul}};
    a->req = (struct block_req){.op = op->what >> 3 & 7,
                                .unmap = op->what & 0x80,
                                .offset = (op->val >> 16) * 512ull,
                                .len = a->iov.iov_len,
                                .iov = &a->iov,
                                .iovcnt = 1,
                                .done = on_done};
    if (a->req.op > BLOCK_WRITE_ZEROES)
        a->req.op = BLOCK_READ;
    block_submit(b, &a->req);
}

static void meddle(struct told *t, const struct fuzz_op *op)
{
    uint8_t *used = t->map + (t->used - t->base), *avail = t->map + (t->avail - t->base);
    const uint64_t one = 1;
    uint16_t idx, head;

    switch (op->what & 7) {
    case 3: /* anything, anywhere */
        memcpy(t->map + op->val % (t->size - 4), &op->val, 4);
        break;
    case 4:
        memcpy(used + 2, &op->val, 2);
        break;
    case 5:
        memcpy(used + 4 + op->addr % 128 * 8, &op->val, 4);
        break;
    case 6: /* as it should be */
        memcpy(&idx, used + 2, 2);
        memcpy(&head, avail + 4 + idx % 128 * 2, 2);
        memset(used + 4 + idx % 128 * 8, 0, 8);
        memcpy(used + 4 + idx % 128 * 8, &head, 2);
        idx++;
        memcpy(used + 2, &idx, 2);
        break;
    default:
        fuzz_check(write(t->call_fd, &one, sizeof(one)) == sizeof(one));
    }
}

static void use(struct block *b, const struct block_memory *memory, int peer, struct told *t,
                const uint8_t *ops, size_t len)
{
    static struct asked asked[OPS_MAX];
    unsigned count = 0;
    struct fuzz_op op;

    t->map = mmap(NULL, t->size, PROT_READ | PROT_WRITE, MAP_SHARED, t->shared_fd, 0);
    fuzz_check(t->map != MAP_FAILED);
    while (fuzz_next(&ops, &len, &op)) {
        if ((op.what & 7) < 3 && count < OPS_MAX)
            ask(b, memory, &asked[count++], &op);
        else
            meddle(t, &op);
        if (op.what & 0x40)
            block_reap(b);
    }
    shutdown(peer, SHUT_RDWR);
    block_drain(b);
    for (unsigned i = 0; i < count; i++)
        fuzz_check(asked[i].done == 1);
    munmap(t->map, t->size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct block_memory memory;
    struct block_config cfg = {.path = "back end", .format = BLOCK_VHOST_USER, .memory = &memory};
    const struct timeval soon = {.tv_usec = 1000};
    struct told told = {.shared_fd = -1, .call_fd = -1};
    struct block *b;
    struct err err;
    size_t ops;
    int pair[2];

    if (!memory.base) {
        log_set_level(LOG_ERROR);
        memory.fd = memfd_create("fuzz", MFD_CLOEXEC);
        memory.size = MEMORY;
        fuzz_check(!ftruncate(memory.fd, MEMORY));
        memory.base = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, memory.fd, 0);
        fuzz_check(memory.base != MAP_FAILED);
    }
    if (!len || len < 1 + (ops = data[0] % OPS_MAX * 6ul) || len > 4096)
        return 0;
    fuzz_check(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    fuzz_check(write(pair[1], data + 1 + ops, len - 1 - ops) == (ssize_t)(len - 1 - ops));
    fuzz_check(!setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof(soon)));
    cfg.connection = pair[0];
    if (!block_open(&b, &cfg, &err)) {
        listen_to(pair[1], &told);
        use(b, &memory, pair[1], &told, data + 1, ops);
        block_close(b);
    }
    close(pair[1]);
    if (told.shared_fd >= 0)
        close(told.shared_fd);
    if (told.call_fd >= 0)
        close(told.call_fd);
    return 0;
}
