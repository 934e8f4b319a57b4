/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge image convert: raw and qcow2 here, others through qemu-img. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/lock.h"
#include "block/qcow2.h"
#include "cli/image.h"
#include "cli/stop.h"

#define PIECE MIB(2)
#define UNIT  KIB(4) /* zeroes are found in units of this, or of a cluster */

/* Either a qcow2 image or a raw file. */
struct side {
    const char *path;
    struct qcow2 *q;
    int fd; /* -1: none */
    uint64_t size;
};

struct copy {
    struct side from, to;
    char temp[4096];
    bool made; /* temp exists */
    int guard; /* the target that is replaced, locked; -1: none */
    uint64_t unit;
    uint8_t *buf;
    struct progress progress;
};

/* ---- Either side ------------------------------------------------------------------------------ */

static void side_close(struct side *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    qcow2_abandon(s->q);
    s->q = NULL;
}

static int source_open(struct side *s, const char *path, const char *format, struct err *err)
{
    struct qcow2_info info;
    off_t end;
    int r;

    *s = (struct side){.path = path, .fd = -1};
    if (!strcmp(format, "qcow2")) {
        r = qcow2_open(&s->q, &(struct qcow2_config){.path = path, .read_only = true}, err);
        if (r)
            return r;
        qcow2_get_info(s->q, &info);
        s->size = info.size;
        return 0;
    }
    s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    end = s->fd < 0 ? -1 : lseek(s->fd, 0, SEEK_END);
    if (end < 0)
        return err_set(err, -errno, "cannot read %s: %s", path, strerror(errno));
    s->size = (uint64_t)end;
    return block_lock(s->fd, false, path, err);
}

/* Is it known without reading that there are zeroes? *len: of how much that is said. */
static int side_is_zero(const struct side *s, uint64_t off, uint64_t max, bool *zero, uint64_t *len)
{
    off_t at;

    *len = max;
    *zero = false;
    if (s->q)
        return qcow2_is_zero(s->q, off, max, zero, len);
    at = lseek(s->fd, (off_t)off, SEEK_DATA);
    if (at < 0) {
        *zero = errno == ENXIO;
        return 0;
    }
    *zero = (uint64_t)at > off;
    if (!*zero)
        at = lseek(s->fd, (off_t)off, SEEK_HOLE);
    if (at > (off_t)off && (uint64_t)at - off < max)
        *len = (uint64_t)at - off;
    return 0;
}

static int side_read(const struct side *s, uint8_t *buf, uint64_t off, uint64_t len)
{
    struct iovec iov = {buf, len};
    struct qcow2_file f = {.ops = &qcow2_file_fd, .fd = s->fd};

    return s->q ? qcow2_readv(s->q, &iov, 1, off, len) : file_read(&f, buf, len, off);
}

static int side_write(const struct side *s, const uint8_t *buf, uint64_t off, uint64_t len)
{
    struct iovec iov = {(void *)buf, len};
    struct qcow2_file f = {.ops = &qcow2_file_fd, .fd = s->fd};

    return s->q ? qcow2_writev(s->q, &iov, 1, off, len) : file_write(&f, buf, len, off);
}

/* ---- Copying ---------------------------------------------------------------------------------- */

static bool all_zero(const uint8_t *buf, uint64_t len)
{
    return !len || (!buf[0] && !memcmp(buf, buf + 1, len - 1));
}

/* A piece, without its units of zeroes: the target is zero where nothing is written. */
static int write_piece(struct copy *c, uint64_t off, uint64_t len)
{
    int r = 0;

    for (uint64_t at = 0, end; at < len && !r; at = end) {
        bool zero = all_zero(c->buf + at, c->unit < len - at ? c->unit : len - at);

        for (end = at; end < len; end += c->unit)
            if (all_zero(c->buf + end, c->unit < len - end ? c->unit : len - end) != zero)
                break;
        end = end < len ? end : len;
        if (!zero)
            r = side_write(&c->to, c->buf + at, off + at, end - at);
    }
    return r;
}

static int copy_all(struct copy *c, struct err *err)
{
    uint64_t len, data_until = 0; /* what was asked about need not be asked again: it may be slow */
    bool zero = false;
    int r = 0;

    for (uint64_t off = 0; off < c->from.size && !stop_asked(); off += len) {
        /* Pieces end on multiples of their size, so that units are whole. */
        uint64_t max = PIECE - off % PIECE;

        if (max > c->from.size - off)
            max = c->from.size - off;
        if (off >= data_until)
            r = side_is_zero(&c->from, off, c->from.size - off, &zero, &len);
        if (r)
            return err_set(err, r, "cannot read %s: %s", c->from.path, strerror(-r));
        progress_show(&c->progress, off, c->from.size);
        if (off >= data_until && !zero)
            data_until = off + len;
        if (zero && len < max)
            zero = false;
        if (zero) {
            len -= off + len == c->from.size ? 0 : (off + len) % c->unit;
            continue;
        }
        len = max;
        r = side_read(&c->from, c->buf, off, len);
        if (r)
            return err_set(err, r, "cannot read %s: %s", c->from.path, strerror(-r));
        r = write_piece(c, off, len);
        if (r)
            return err_set(err, r, "cannot write %s: %s", c->temp, strerror(-r));
    }
    return stop_asked() ? err_set(err, -EINTR, "stopped; nothing was made") : 0;
}

/* ---- The target --------------------------------------------------------------------------------- */

/* Nobody may be using what is going to be replaced. */
static int target_guard(struct copy *c, bool force, struct err *err)
{
    struct stat st;

    if (stat(c->to.path, &st))
        return 0;
    if (!S_ISREG(st.st_mode))
        return err_set(err, -EINVAL, "%s is there already and is no file", c->to.path);
    if (!force) {
        err_set(err, -EEXIST, "%s is there already", c->to.path);
        return err_next(err, "Remove it first, or say --force.");
    }
    c->guard = open(c->to.path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (c->guard < 0)
        return err_set(err, -errno, "cannot open %s: %s", c->to.path, strerror(errno));
    return block_lock(c->guard, true, c->to.path, err);
}

static int target_raw(struct copy *c, struct err *err)
{
    c->to.fd = open(c->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0666);
    if (c->to.fd < 0)
        return err_set(err, -errno, "cannot create %s: %s", c->temp, strerror(errno));
    c->made = true;
    if (ftruncate(c->to.fd, (off_t)c->from.size))
        return err_set(err, -errno, "cannot write %s: %s", c->temp, strerror(errno));
    return 0;
}

static int target_qcow2(struct copy *c, unsigned cluster_bits, struct err *err)
{
    struct qcow2_create qc = {.path = c->temp,
                              .size = ALIGN_UP(c->from.size, (uint64_t)512),
                              .cluster_bits = cluster_bits};
    int r = qcow2_create(&qc, err);

    if (r)
        return r;
    c->made = true;
    c->unit = 1ull << (cluster_bits ? cluster_bits : QCOW2_CLUSTER_BITS);
    return qcow2_open(&c->to.q, &(struct qcow2_config){.path = c->temp}, err);
}

/* All of it is on the disk before the name is its own. */
static int target_finish(struct copy *c, struct err *err)
{
    int r;

    if (c->to.q) {
        r = qcow2_close(c->to.q);
        c->to.q = NULL;
    } else {
        r = fsync(c->to.fd) ? -errno : 0;
    }
    if (!r && rename(c->temp, c->to.path))
        r = -errno;
    if (r)
        return err_set(err, r, "cannot write %s: %s", c->to.path, strerror(-r));
    c->made = false;
    return 0;
}

static int convert_here(const struct image_convert_opts *o, struct copy *c, const char *from,
                        const char *to, struct err *err)
{
    unsigned bits = 0;
    int r = image_cluster_bits(o->cluster_size, &bits, err);

    if (!r)
        r = source_open(&c->from, c->from.path, from, err);
    if (!r)
        r = target_guard(c, o->force, err);
    if (!r)
        r = strcmp(to, "raw") ? target_qcow2(c, bits, err) : target_raw(c, err);
    if (r)
        return r;
    c->buf = malloc(PIECE);
    if (!c->buf)
        return err_set(err, -ENOMEM, "no memory to copy with");
    stop_catch();
    progress_begin(&c->progress, "converting");
    if (o->quiet)
        c->progress.on = false;
    r = copy_all(c, err);
    progress_end(&c->progress);
    return r ? r : target_finish(c, err);
}

/* ---- qemu-img ----------------------------------------------------------------------------------- */

static int qemu_img(struct copy *c, const struct image_convert_opts *o, const char *from,
                    const char *to, struct err *err)
{
    char cluster[64];
    const char *argv[16] = {"qemu-img", "convert", "-f", from, "-O", to};
    int n = 6, status;
    pid_t pid;

    if (!o->quiet && isatty(STDERR_FILENO))
        argv[n++] = "-p";
    if (o->cluster_size && !strcmp(to, "qcow2")) {
        snprintf(cluster, sizeof(cluster), "cluster_size=%llu",
                 (unsigned long long)o->cluster_size);
        argv[n++] = "-o";
        argv[n++] = cluster;
    }
    argv[n++] = "--";
    argv[n++] = c->from.path;
    argv[n++] = c->temp;
    stop_catch();
    c->made = true;
    pid = fork();
    if (!pid) {
        dup2(STDERR_FILENO, STDOUT_FILENO);
        execvp(argv[0], (char *const *)argv);
        _exit(errno == ENOENT ? 127 : 126);
    }
    if (pid < 0)
        return err_set(err, -errno, "cannot start qemu-img: %s", strerror(errno));
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return err_set(err, -errno, "cannot wait for qemu-img: %s", strerror(errno));
        kill(pid, SIGTERM);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127) {
        err_set(err, -ENOENT, "%s images are left to qemu-img, which is not installed",
                strcmp(from, "raw") && strcmp(from, "qcow2") ? from : to);
        return err_next(err, "On Debian it comes with: apt-get install qemu-utils");
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        return err_set(err, -EIO, "qemu-img could not convert %s", c->from.path);
    if (rename(c->temp, c->to.path))
        return err_set(err, -errno, "cannot write %s: %s", c->to.path, strerror(errno));
    c->made = false;
    return 0;
}

static bool ours(const char *format)
{
    return !strcmp(format, "raw") || !strcmp(format, "qcow2");
}

static int convert_image(const struct image_convert_opts *o, struct copy *c, struct err *err)
{
    const char *from = image_format_of(c->from.path, o->from, "--from", err);
    const char *to = o->to ? o->to : image_format_of_name(c->to.path);
    unsigned bits;
    int r;

    if (!from)
        return -EINVAL;
    to = to ? to : "qcow2";
    if (o->cluster_size && strcmp(to, "qcow2") != 0)
        return err_set(err, -EINVAL, "only qcow2 images have clusters");
    if (snprintf(c->temp, sizeof(c->temp), "%s.%d.tmp", c->to.path, (int)getpid()) >=
        (int)sizeof(c->temp))
        return err_set(err, -ENAMETOOLONG, "the name of the target is too long");
    if (ours(from) && ours(to))
        return convert_here(o, c, from, to, err);
    if (access(c->from.path, R_OK))
        return err_set(err, -errno, "cannot open %s: %s", c->from.path, strerror(errno));
    r = image_cluster_bits(o->cluster_size, &bits, err);
    if (!r)
        r = target_guard(c, o->force, err);
    return r ? r : qemu_img(c, o, from, to, err);
}

static void copy_fini(struct copy *c)
{
    if (c->made)
        unlink(c->temp);
    side_close(&c->from);
    side_close(&c->to);
    if (c->guard >= 0)
        close(c->guard);
    free(c->buf);
}

int image_convert(const char *source, const char *from, const char *target, const char *to,
                  bool quiet, struct err *err)
{
    struct image_convert_opts opts = {.from = from, .to = to, .quiet = quiet};
    struct copy c = {.from = {.path = source, .fd = -1},
                     .to = {.path = target, .fd = -1},
                     .guard = -1,
                     .unit = UNIT};
    int r = convert_image(&opts, &c, err);

    copy_fini(&c);
    return r;
}

int verb_image_convert(const struct verb *verb, int argc, char **argv)
{
    struct copy c = {.from.fd = -1, .to.fd = -1, .guard = -1, .unit = UNIT};
    struct image_convert_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (nargs < 2) {
        err_set(&err, -EINVAL, "a source and a target are needed");
        return verb_usage(verb, &err);
    }
    c.from.path = argv[0];
    c.to.path = argv[1];
    r = convert_image(&opts, &c, &err);
    copy_fini(&c);
    if (!r)
        return CLI_OK;
    image_failed(&err);
    return stop_asked() ? 128 + stop_asked() : CLI_FAILED;
}
