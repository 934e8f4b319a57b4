/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ssh keys: whose a guest lets in. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/guest_image.h"
#include "cli/spawn.h"

#define KEYS_MAX KIB(64)

int guest_read_file(const char *path, size_t max, char **text, size_t *len, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY), r = 0;
    char *buf = malloc(max + 1);
    size_t have = 0;
    ssize_t n = 1;

    if (fd < 0)
        r = err_set(err, -errno, "cannot open %s: %s", path, strerror(errno));
    else if (!buf)
        r = err_set(err, -ENOMEM, "no memory for %s", path);
    while (!r && n > 0 && have <= max) {
        n = read(fd, buf + have, max + 1 - have);
        if (n < 0)
            r = err_set(err, -errno, "cannot read %s: %s", path, strerror(errno));
        else
            have += (size_t)n;
    }
    if (!r && have > max)
        r = err_set(err, -EFBIG, "%s has more than %zu bytes", path, max);
    if (fd >= 0)
        close(fd);
    if (r) {
        free(buf);
        return r;
    }
    buf[have] = '\0';
    *text = buf;
    *len = have;
    return 0;
}

/* ssh-keygen makes it, in a folder that comes to its name with the key in it. */
static int make_key(const struct store *s, const char *dir, struct err *err)
{
    char temp[STORE_PATH], file[STORE_PATH + 16];
    const char *const argv[] = {"ssh-keygen", "-q",    "-t", "ed25519", "-N", "",
                                "-C",         "lodge", "-f", file,      NULL};
    const struct spawn run = {.argv = argv};
    int status = 0, r;

    snprintf(temp, sizeof(temp), "%s/.key-XXXXXX", s->root);
    if (!mkdtemp(temp))
        return err_set(err, -errno, "cannot make a folder in %s: %s", s->root, strerror(errno));
    snprintf(file, sizeof(file), "%s/id_ed25519", temp);
    r = spawn_run(&run, &status, err);
    if (r == -ENOENT) {
        err_set(err, r,
                "ssh-keygen, which makes the key that Lodge logs in with, is not installed");
        err_next(err, "On Debian it comes with: apt-get install openssh-client");
    } else if (!r && status) {
        r = err_set(err, -EIO, "ssh-keygen could not make a key (exit status %d)", status);
    }
    if (!r && rename(temp, dir))
        r = err_set(err, -errno, "cannot make %s: %s", dir, strerror(errno));
    if (r)
        store_remove_tree(temp);
    return r;
}

int guest_key(const struct store *s, char path[STORE_PATH], struct err *err)
{
    char dir[STORE_ROOT + 8];
    int lock, r = 0;

    snprintf(dir, sizeof(dir), "%s/key", s->root);
    snprintf(path, STORE_PATH, "%s/id_ed25519", dir);
    if (!access(path, F_OK))
        return 0;
    lock = store_lock(s, err);
    if (lock < 0)
        return lock;
    if (access(path, F_OK))
        r = make_key(s, dir, err);
    close(lock);
    return r;
}

struct key_text {
    char *text;
    size_t len;
};

/* Lines that are public keys; how many, or negative. */
static int add_keys(struct key_text *k, const char *file, struct err *err)
{
    static const char *const kinds[] = {"ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"};
    char *text, *rest = NULL;
    size_t len;
    int r = guest_read_file(file, KEYS_MAX, &text, &len, err), n = 0;

    if (r)
        return r;
    for (char *line = strtok_r(text, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest)) {
        bool key = false;
        char *more;

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
            key = key || !strncmp(line, kinds[i], strlen(kinds[i]));
        more = key ? realloc(k->text, k->len + strlen(line) + 2) : NULL;
        if (!more)
            continue;
        k->text = more;
        k->len += (size_t)sprintf(k->text + k->len, "%s\n", line);
        n++;
    }
    free(text);
    return n;
}

int guest_public_keys(const struct store *s, const char *file, char **keys, struct err *err)
{
    char path[STORE_PATH], pattern[STORE_PATH], own[STORE_PATH + 8];
    const char *home = getenv("HOME");
    struct key_text k = {NULL, 0};
    glob_t found;
    int r = guest_key(s, path, err);

    if (!r) {
        snprintf(own, sizeof(own), "%s.pub", path);
        r = add_keys(&k, own, err);
        if (!r)
            r = err_set(err, -EINVAL, "%s has no public key", own);
    }
    if (r > 0 && file) {
        r = add_keys(&k, file, err);
        if (!r) {
            r = err_set(err, -EINVAL, "%s has no public key of ssh", file);
            err_next(err, "A public key's file mostly ends in .pub.");
        }
    } else if (r > 0 && home && *home) {
        snprintf(pattern, sizeof(pattern), "%s/.ssh/id_*.pub", home);
        if (!glob(pattern, 0, NULL, &found)) {
            for (size_t i = 0; i < found.gl_pathc; i++)
                add_keys(&k, found.gl_pathv[i], NULL);
            globfree(&found);
        }
    }
    if (r < 0) {
        free(k.text);
        return r;
    }
    *keys = k.text;
    return 0;
}
