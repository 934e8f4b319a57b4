/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge image: its verbs, and those that are short: create and resize. */
#include "cli/image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block/lock.h"
#include "block/qcow2.h"
#include "cli/size.h"
#include "cli/suggest.h"

#define SIZES "Sizes are like 512M, 2GiB or 1.5G; a plain number is MiB.\n"

const struct verb image_verbs[] = {
    {.name = "image build",
     .args = "[OPTION]... debian/VERSION",
     .summary = "Make an image of a system from its distribution's packages",
     .about = "The system has a stock kernel, systemd, sshd and DHCP, and what --package adds.\n"
              "lodge run NAME starts guests on it. Needs mmdebstrap; as another user than root\n"
              "also newuidmap and a range in /etc/subuid.\n" SIZES,
     .opts = image_build_opts,
     .max_args = 1,
     .run = verb_image_build},
    {.name = "image ls",
     .args = "[OPTION]...",
     .summary = "List the images that guests can be made from",
     .opts = image_ls_opts,
     .run = verb_image_ls},
    {.name = "image rm",
     .args = "[OPTION]... NAME...",
     .summary = "Remove images",
     .opts = image_rm_opts,
     .max_args = 1000,
     .run = verb_image_rm},
    {.name = "image discard",
     .args = "[OPTION]... GUEST...",
     .summary = "Throw away the disks that guests have on images",
     .about = "The next lodge run of that name begins with the image as it is.\n",
     .max_args = 1000,
     .run = verb_image_discard},
    {.name = "image import",
     .args = "[OPTION]... FILE NAME",
     .summary = "Make an image of a disk that there is",
     .about =
         "The disk is copied. Lodge starts kernels itself: the newest one on the disk is kept\n"
         "beside it, if it is found there.\n" SIZES,
     .opts = image_import_opts,
     .max_args = 2,
     .run = verb_image_import},
    {.name = "image create",
     .args = "[OPTION]... FILE [SIZE]",
     .summary = "Make an empty disk image, or one that stands on another",
     .about = "Without SIZE the disk is as large as that of the backing file.\n" SIZES,
     .opts = image_create_opts,
     .max_args = 2,
     .run = verb_image_create},
    {.name = "image info",
     .args = "[OPTION]... FILE",
     .summary = "Say what an image is",
     .opts = image_info_opts,
     .max_args = 1,
     .run = verb_image_info},
    {.name = "image check",
     .args = "[OPTION]... FILE|IMAGE",
     .summary = "Look for damage in a qcow2 image, and repair it",
     .about = "With the name of an image of a system (lodge image ls): see whether its files are\n"
              "those that were made. The exit status is 0 for an image that is as it should be "
              "(now), else 1. Leaked\n"
              "space, which a crash may leave behind, does no harm to what is on the disk.\n",
     .opts = image_check_opts,
     .max_args = 1,
     .run = verb_image_check},
    {.name = "image resize",
     .args = "[OPTION]... FILE [+|-]SIZE",
     .summary = "Change the size of the disk in an image",
     .about = "With + or - the disk gets that much larger or smaller.\n" SIZES,
     .opts = image_resize_opts,
     .max_args = 2,
     .run = verb_image_resize},
    {.name = "image convert",
     .args = "[OPTION]... SOURCE TARGET",
     .summary = "Copy a disk to an image of another format",
     .about = "The target holds all of the disk and needs no backing file. Formats other than\n"
              "raw and qcow2 are left to qemu-img.\n",
     .opts = image_convert_opts,
     .max_args = 2,
     .run = verb_image_convert},
    {NULL},
};

int verb_image(const struct verb *verb, int argc, char **argv)
{
    struct err err = {0};
    struct suggest s;

    if (!argc || (argv[0][0] == '-' && argv[0][1] != 'h' && strcmp(argv[0], "--help") != 0)) {
        err_set(&err, -EINVAL, "lodge image needs a verb of its own");
        return verb_usage(verb, &err);
    }
    if (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h")) {
        verb_help(verb);
        return cli_flush();
    }
    suggest_init(&s, argv[0]);
    for (const struct verb *v = image_verbs; v->name; v++) {
        if (!strcmp(v->name + strlen("image "), argv[0]))
            return v->run(v, argc - 1, argv + 1);
        suggest_try(&s, v->name + strlen("image "));
    }
    err_set(&err, -EINVAL, "lodge image has no verb '%.80s'", argv[0]);
    if (s.best)
        err_next(&err, "Did you mean lodge image %s?", s.best);
    return verb_usage(verb, &err);
}

/* ---- What the verbs share ----------------------------------------------------------------- */

const char *image_format_of_name(const char *path)
{
    static const char *const table[][2] = {{".qcow2", "qcow2"},
                                           {".raw", "raw"},
                                           {".vmdk", "vmdk"},
                                           {".vdi", "vdi"},
                                           {".vhdx", "vhdx"}};
    size_t len = strlen(path);

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        size_t n = strlen(table[i][0]);

        if (len > n && !strcmp(path + len - n, table[i][0]))
            return table[i][1];
    }
    return NULL;
}

bool image_is_qcow2(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    uint8_t head[8];
    bool is;

    if (fd < 0)
        return false;
    is = pread(fd, head, sizeof(head), 0) == sizeof(head) && qcow2_probe(head);
    close(fd);
    return is;
}

const char *image_format_of(const char *path, const char *given, const char *option,
                            struct err *err)
{
    const char *format = given ? given : image_format_of_name(path);

    if (format)
        return format;
    if (!image_is_qcow2(path))
        return "raw";
    err_set(err, -EINVAL, "%s looks like a qcow2 image, but its name does not say so", path);
    err_next(err, "Add %s qcow2 if it is one, %s raw if a guest made it look so.", option, option);
    return NULL;
}

int image_cluster_bits(uint64_t size, unsigned *bits, struct err *err)
{
    *bits = 0;
    if (!size)
        return 0;
    if (size & (size - 1) || size < 1u << QCOW2_CLUSTER_BITS_MIN ||
        size > 1u << QCOW2_CLUSTER_BITS_MAX) {
        err_set(err, -EINVAL, "--cluster-size takes a power of two from 512B to 2M");
        return -EINVAL;
    }
    *bits = (unsigned)__builtin_ctzll(size);
    return 0;
}

int image_failed(const struct err *err)
{
    err_report(err);
    return CLI_FAILED;
}

static double seconds_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

void progress_begin(struct progress *p, const char *what)
{
    *p = (struct progress){.what = what, .start = seconds_now(), .on = isatty(STDERR_FILENO)};
}

void progress_show(struct progress *p, uint64_t done, uint64_t total)
{
    double now = p->on ? seconds_now() : 0;

    if (!p->on || now - p->start < 2 || now - p->shown < 0.2)
        return;
    p->shown = now;
    fprintf(stderr, "\r%s: %u%% ", p->what,
            total ? (unsigned)((double)done / (double)total * 100) : 100);
}

void progress_end(struct progress *p)
{
    if (p->shown > 0)
        fprintf(stderr, "\r\033[K");
    p->shown = 0;
}

/* ---- create --------------------------------------------------------------------------------- */

static int size_from(const char *text, uint64_t *size, struct err *err)
{
    if (size_parse(text, size) || *size > INT64_MAX - 512) {
        err_set(err, -EINVAL, "'%.100s' is not a size", text);
        err_next(err, "Write it like 512M, 2GiB or 1.5G; a plain number is MiB.");
        return -EINVAL;
    }
    *size = ALIGN_UP(*size, (uint64_t)512);
    return 0;
}

static int raw_size(const char *path, uint64_t *size, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), code;
    off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);

    code = end < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    *size = code ? 0 : (uint64_t)end;
    return code ? err_set(err, code, "cannot read %s: %s", path, strerror(-code)) : 0;
}

/* The backing file must be there and make sense; its name is seen from the new image. */
static int backing_look(const struct image_create_opts *o, const char *path, const char **format,
                        uint64_t *size, struct err *err)
{
    const char *slash = strrchr(path, '/');
    struct qcow2_info info;
    char name[4096];
    struct qcow2 *q;
    int r;

    if (o->backing[0] == '/' || !slash)
        snprintf(name, sizeof(name), "%s", o->backing);
    else
        snprintf(name, sizeof(name), "%.*s/%s", (int)(slash - path), path, o->backing);
    *format = image_format_of(name, o->backing_format, "--backing-type", err);
    if (!*format)
        return -EINVAL;
    if (strcmp(*format, "raw") != 0 && strcmp(*format, "qcow2") != 0)
        return err_set(err, -ENOTSUP, "a backing file is raw or qcow2, not %s", *format);
    if (!strcmp(*format, "raw"))
        return raw_size(name, size, err);
    r = qcow2_open(&q, &(struct qcow2_config){.path = name, .read_only = true}, err);
    if (r)
        return r;
    qcow2_get_info(q, &info);
    *size = info.size;
    qcow2_close(q);
    return 0;
}

static int raw_create(const char *path, uint64_t size, bool replace, struct err *err)
{
    int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | (replace ? 0 : O_EXCL);
    int fd = open(path, flags, 0666), r;

    if (fd < 0) {
        r = -errno;
        err_set(err, r, "cannot create %s: %s", path, strerror(-r));
        return r == -EEXIST ? err_next(err, "Remove it first, or say --force.") : r;
    }
    r = block_lock(fd, true, path, err);
    if (!r && (ftruncate(fd, 0) || ftruncate(fd, (off_t)size)))
        r = err_set(err, -errno, "cannot write %s: %s", path, strerror(errno));
    close(fd);
    return r;
}

static const char *create_format(const struct image_create_opts *o, const char *path)
{
    size_t len = strlen(path);

    if (o->format)
        return o->format;
    if (len > 4 && !strcmp(path + len - 4, ".img"))
        return "raw";
    return image_format_of_name(path) ? image_format_of_name(path) : "qcow2";
}

static int create_image(const struct image_create_opts *o, const char *path, const char *size_text,
                        struct err *err)
{
    struct qcow2_create c = {
        .path = path, .backing = o->backing, .lazy_refcounts = o->lazy, .replace = o->force};
    const char *format = create_format(o, path);
    int r = image_cluster_bits(o->cluster_size, &c.cluster_bits, err);

    if (!r && o->backing)
        r = backing_look(o, path, &c.backing_fmt, &c.size, err);
    if (!r && size_text)
        r = size_from(size_text, &c.size, err);
    c.size = ALIGN_UP(c.size, (uint64_t)512);
    if (!r && !strcmp(format, "raw"))
        return o->backing || o->lazy || o->cluster_size
                   ? err_set(err, -EINVAL, "a raw image has no backing file, clusters or refcounts")
                   : raw_create(path, c.size, o->force, err);
    if (!r && strcmp(format, "qcow2") != 0) {
        err_set(err, -ENOTSUP, "Lodge makes raw and qcow2 images, not %s", format);
        return err_next(err, "lodge image convert can make one through qemu-img.");
    }
    return r ? r : qcow2_create(&c, err);
}

int verb_image_create(const struct verb *verb, int argc, char **argv)
{
    struct image_create_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (nargs < 1 || (nargs < 2 && !opts.backing)) {
        err_set(&err, -EINVAL, nargs ? "a disk needs a size" : "no name for the image was given");
        return verb_usage(verb, &err);
    }
    if (create_image(&opts, argv[0], nargs > 1 ? argv[1] : NULL, &err))
        return image_failed(&err);
    return CLI_OK;
}

/* ---- resize --------------------------------------------------------------------------------- */

static int new_size(const char *text, uint64_t old, uint64_t *size, struct err *err)
{
    char sign = *text == '+' || *text == '-' ? *text : '\0';
    int r = size_from(text + !!sign, size, err);

    if (r)
        return r;
    if (sign == '-' && *size >= old)
        return err_set(err, -EINVAL, "the disk has no more than that");
    if (sign == '+' && __builtin_add_overflow(old, *size, size))
        return err_set(err, -EFBIG, "no disk is that large");
    if (sign == '-')
        *size = old - *size;
    return 0;
}

static int raw_resize(const char *path, const char *text, bool shrink, struct err *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY), r = 0;
    uint64_t size = 0;
    struct stat st;

    if (fd < 0 || fstat(fd, &st))
        r = err_set(err, -errno, "cannot open %s: %s", path, strerror(errno));
    if (!r && !S_ISREG(st.st_mode))
        r = err_set(err, -EINVAL, "%s is no file, so its size is not Lodge's to change", path);
    if (!r)
        r = block_lock(fd, true, path, err);
    if (!r)
        r = new_size(text, (uint64_t)st.st_size, &size, err);
    if (!r && size < (uint64_t)st.st_size && !shrink) {
        r = err_set(err, -EINVAL, "%s has more than that, and what lies behind would be lost",
                    path);
        err_next(err, "Say --shrink if that is meant.");
    }
    if (!r && ftruncate(fd, (off_t)size))
        r = err_set(err, -errno, "cannot resize %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return r;
}

static int resize_image(const struct image_resize_opts *o, const char *path, const char *text,
                        struct err *err)
{
    const char *format = image_format_of(path, o->format, "--type", err);
    struct qcow2_info info;
    struct qcow2 *q;
    uint64_t size;
    int r, closed;

    if (!format)
        return -EINVAL;
    if (!strcmp(format, "raw"))
        return raw_resize(path, text, o->shrink, err);
    if (strcmp(format, "qcow2") != 0)
        return err_set(err, -ENOTSUP, "Lodge resizes raw and qcow2 images, not %s", format);
    r = qcow2_open(&q, &(struct qcow2_config){.path = path}, err);
    if (r)
        return r;
    qcow2_get_info(q, &info);
    r = new_size(text, info.size, &size, err);
    if (!r)
        r = qcow2_resize(q, size, o->shrink, err);
    closed = qcow2_close(q);
    if (!r && closed)
        r = err_set(err, closed, "cannot write %s: %s", path, strerror(-closed));
    return r;
}

/* -5G is a size here, not an option. */
static void protect_minus(int argc, char **argv, char **kept)
{
    *kept = NULL;
    for (int i = 0; i < argc; i++) {
        if (argv[i][0] != '-' || argv[i][1] < '0' || argv[i][1] > '9')
            continue;
        *kept = argv[i];
        argv[i] = "-";
    }
}

int verb_image_resize(const struct verb *verb, int argc, char **argv)
{
    struct image_resize_opts opts;
    struct err err = {0};
    char *minus;
    int nargs, r;

    protect_minus(argc, argv, &minus);
    r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);
    if (r >= 0)
        return r;
    if (nargs < 2) {
        err_set(&err, -EINVAL, "an image and a size are needed");
        return verb_usage(verb, &err);
    }
    if (resize_image(&opts, argv[0], minus && !strcmp(argv[1], "-") ? minus : argv[1], &err))
        return image_failed(&err);
    return CLI_OK;
}
