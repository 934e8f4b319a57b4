/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: all */
/*
 * Saved states from somebody with bad intentions. The first byte of the input chooses: the rest is a file, or changes
 * to one that a guest has left, whose sums are then made right: section, place in it (two bytes), new value. What is
 * accepted must be a state that can be saved and is then accepted again; devices' threads run on it meanwhile.
 */
#include <errno.h>
#include <sys/mman.h>

#include "../unit/snapshot_guest.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "core/snapfile.h"
#include "core/snapshot.h"
#include "fuzz_ops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define PATCHES 16

static struct snapshot_guest guest;
static struct snapfile base;

static int save(struct err *err)
{
    int fd = memfd_create("state", MFD_CLOEXEC), code;

    machine_pause(guest.vm);
    code = vm_save(guest.vm, fd, err);
    machine_resume(guest.vm);
    fuzz_check(!code);
    return fd;
}

static void cleanup(void)
{
    snapshot_guest_free(&guest);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct err err = {0};
    int fd;

    log_set_level(LOG_ERROR);
    fuzz_check(snapshot_guest_new(&guest, 0, &err));
    atexit(cleanup);
    snapshot_guest_use(guest.vm);
    fd = save(&err);
    fuzz_check(!snapfile_read(&base, fd, &err));
    close(fd);
    return 0;
}

/* A file as the input changes it. */
static int patched(const uint8_t *data, size_t len)
{
    int fd = memfd_create("changed", MFD_CLOEXEC);
    struct snapfile_out out;
    struct err err = {0};

    snapfile_begin(&out);
    for (unsigned i = 0; i < base.count; i++) {
        const struct snapfile_section *s = &base.section[i];
        uint8_t *copy = malloc(s->len + 1);

        memcpy(copy, s->data, s->len);
        for (size_t n = 0; n + 4 <= len && n < PATCHES * 4; n += 4)
            if (data[n] % base.count == i && s->len)
                copy[(size_t)(data[n + 1] | data[n + 2] << 8) % s->len] = data[n + 3];
        snapfile_add_bytes(&out, s->name, s->index, copy, s->len);
        free(copy);
    }
    fuzz_check(!snapfile_finish(&out, fd, &err));
    return fd;
}

static int restore(int fd)
{
    struct vm_origin origin = {.state_fd = fd};
    struct err err = {0};
    int code;

    guest.vm->cfg.origin = &origin;
    code = vm_restore(guest.vm, &err);
    fuzz_check(!code || (err.code && err.what[0]));
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct err err = {0};
    struct snapfile f;
    int fd, again;

    if (!len)
        return 0;
    if (!(data[0] & 1)) {
        if (!snapfile_parse(&f, data + 1, len - 1, &err))
            snapfile_fini(&f);
        return 0;
    }
    fd = patched(data + 1, len - 1);
    if (!restore(fd)) {
        again = save(&err);
        fuzz_check(!restore(again));
        close(again);
    }
    close(fd);
    return 0;
}
