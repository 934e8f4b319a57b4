/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/definition.h"
#include "cli/passing.h"
#include "cli/registry.h"

#define TRASH_MAX 10000

/* ---- Paths ---------------------------------------------------------------------- */

int state_base(char *buf, size_t size, struct err *err)
{
    const char *own = getenv("LODGE_STATE_DIR"), *xdg = getenv("XDG_STATE_HOME"),
               *home = getenv("HOME");
    int n;

    if (own && own[0] == '/')
        n = snprintf(buf, size, "%s", own);
    else if (geteuid() == 0)
        n = snprintf(buf, size, "/var/lib/lodge");
    else if (xdg && xdg[0] == '/')
        n = snprintf(buf, size, "%s/lodge", xdg);
    else if (home && home[0] == '/')
        n = snprintf(buf, size, "%s/.local/state/lodge", home);
    else {
        err_set(err, -ENOENT, "there is no place to keep guests: HOME is not set");
        return err_next(err, "Set XDG_STATE_HOME to a folder of yours.");
    }
    if (n < 0 || (size_t)n >= size)
        return err_set(err, -ENAMETOOLONG, "the path of the folder that keeps guests is too long");
    return 0;
}

/* base/KIND/NAME/FILE; name and file may be NULL. */
static int path_in(char buf[STATE_PATH], const char *kind, const char *name, const char *file,
                   struct err *err)
{
    char base[STATE_PATH];
    int n, r = state_base(base, sizeof(base), err);

    if (r)
        return r;
    n = snprintf(buf, STATE_PATH, "%s/%s%s%s%s%s", base, kind, name ? "/" : "", name ? name : "",
                 file ? "/" : "", file ? file : "");
    if (n < 0 || n >= STATE_PATH)
        return err_set(err, -ENAMETOOLONG, "the path of the folder that keeps guests is too long");
    return 0;
}

int state_path(char buf[STATE_PATH], const char *name, const char *file, struct err *err)
{
    return path_in(buf, "guests", name, file, err);
}

/* The folder and those above it, mode 0700. */
static int make_dirs(const char *kind, char buf[STATE_PATH], struct err *err)
{
    int r = path_in(buf, kind, NULL, NULL, err);

    if (r)
        return r;
    for (char *slash = buf + 1;; slash++) {
        slash = strchrnul(slash, '/');
        char was = *slash;

        *slash = '\0';
        if (mkdir(buf, 0700) && errno != EEXIST && access(buf, F_OK))
            return err_set(err, -errno, "cannot make the folder %s: %s", buf, strerror(errno));
        *slash = was;
        if (!was)
            return 0;
    }
}

bool state_exists(const char *name)
{
    char path[STATE_PATH];

    return !state_path(path, name, NULL, NULL) && !access(path, F_OK);
}

static int no_guest(const char *name, struct err *err)
{
    err_set(err, -ENOENT, "there is no guest named %s", name);
    err_next(err, "lodge ls shows those that there are.");
    return -ENOENT;
}

/* ---- Writing -------------------------------------------------------------------- */

static int sync_dir(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;

    /* Some file systems cannot do this for folders. */
    if (fd < 0 || (fsync(fd) && errno != EINVAL && errno != EROFS))
        r = err_set(err, -errno, "cannot write %s to disk: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return r;
}

/* A file that is on disk as a whole, or not there. */
static int write_new(const char *path, const char *text, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600), code = 0;
    size_t len = strlen(text);

    if (fd < 0)
        return err_set(err, -errno, "cannot make %s: %s", path, strerror(errno));
    while (len && !code) {
        ssize_t n = write(fd, text, len);

        if (n >= 0) {
            text += n;
            len -= (size_t)n;
        } else if (errno != EINTR) {
            code = -errno;
        }
    }
    if (!code && fsync(fd))
        code = -errno;
    if (close(fd) && !code)
        code = -errno;
    if (!code)
        return 0;
    unlink(path);
    err_set(err, code, "cannot write %s: %s", path, strerror(-code));
    if (code == -ENOSPC || code == -EDQUOT)
        err_next(err, "Make room on that disk; nothing was changed.");
    return code;
}

/* Replace `file` in a guest's directory; it is `hidden` until it is on disk. */
static int replace(const char *name, const char *file, const char *hidden, const char *text,
                   struct err *err)
{
    char dir[STATE_PATH], path[STATE_PATH], temp[STATE_PATH];
    int r = state_path(dir, name, NULL, err);

    if (!r)
        r = state_path(path, name, file, err);
    if (!r)
        r = state_path(temp, name, hidden, err);
    if (!r && access(dir, F_OK))
        r = no_guest(name, err);
    if (!r)
        r = write_new(temp, text, err);
    if (r)
        return r;
    if (rename(temp, path)) {
        r = err_set(err, -errno, "cannot replace %s: %s", path, strerror(errno));
        unlink(temp);
        return r;
    }
    return sync_dir(dir, err);
}

int state_write(const char *name, const struct definition *def, struct err *err)
{
    char *text = definition_text(def, NULL, err), hidden[PASSING_NAME];
    int r;

    passing_name(hidden, STATE_DEFINITION);
    r = text ? replace(name, STATE_DEFINITION, hidden, text, err) : err->code;
    free(text);
    return r;
}

int state_write_last(const char *name, const json_t *last, struct err *err)
{
    char *text = json_dumps(last, JSON_INDENT(2));
    int r = text ? replace(name, STATE_LAST, STATE_LAST_NEW, text, err)
                 : err_set(err, -ENOMEM, "no memory");

    free(text);
    return r;
}

/* From one directory to a name that nobody has. */
static int move_dir(const char *from, const char *to)
{
    char *slash;
    char parent[STATE_PATH];

    /* An empty directory at `to` would be replaced, but there are none: all have a definition. */
    if (rename(from, to))
        return errno == ENOTEMPTY ? -EEXIST : -errno;
    snprintf(parent, sizeof(parent), "%s", to);
    slash = strrchr(parent, '/');
    *slash = '\0';
    sync_dir(parent, NULL);
    return 0;
}

static int passing_path(char buf[STATE_PATH], const char *kind, const char *name, struct err *err)
{
    char hidden[PASSING_NAME];

    passing_name(hidden, name);
    return path_in(buf, kind, hidden, NULL, err);
}

static int fill_new(const char *temp, const char *text,
                    int (*fill)(void *opaque, const char *dir, struct err *err), void *opaque,
                    struct err *err)
{
    char path[STATE_PATH + 16];
    int r;

    if (mkdir(temp, 0700))
        return err_set(err, -errno, "cannot make the folder %s: %s", temp, strerror(errno));
    snprintf(path, sizeof(path), "%s/" STATE_DEFINITION, temp);
    r = write_new(path, text, err);
    if (!r && fill)
        r = fill(opaque, temp, err);
    return r ? r : sync_dir(temp, err);
}

int state_create(const char *name, const struct definition *def, struct err *err)
{
    return state_create_filled(name, def, NULL, NULL, err);
}

int state_create_filled(const char *name, const struct definition *def,
                        int (*fill)(void *opaque, const char *dir, struct err *err), void *opaque,
                        struct err *err)
{
    char dir[STATE_PATH], path[STATE_PATH], temp[STATE_PATH];
    char *text = definition_text(def, NULL, err);
    int r = text ? make_dirs("guests", dir, err) : err->code;

    if (!r)
        r = state_path(path, name, NULL, err);
    if (!r)
        r = passing_path(temp, "guests", name, err);
    if (!r) {
        passing_delete(temp);
        r = fill_new(temp, text, fill, opaque, err);
        if (!r) {
            r = move_dir(temp, path);
            if (r == -EEXIST) {
                err_set(err, r, "there is a guest named %s already", name);
                err_next(err, "Choose another name, or remove that one: lodge rm %s.", name);
            } else if (r) {
                err_set(err, r, "cannot make %s: %s", path, strerror(-r));
            }
        }
        if (r)
            passing_delete(temp);
    }
    free(text);
    return r;
}

/* ---- Reading -------------------------------------------------------------------- */

int state_read(const char *name, struct definition *def, struct err *err)
{
    char path[STATE_PATH];
    int r = state_path(path, name, STATE_DEFINITION, err);

    definition_init(def);
    if (!r && !state_exists(name))
        r = no_guest(name, err);
    return r ? r : definition_read(def, path, err);
}

json_t *state_read_last(const char *name)
{
    char path[STATE_PATH];
    json_t *last;

    if (state_path(path, name, STATE_LAST, NULL))
        return NULL;
    last = json_load_file(path, 0, NULL);
    if (json_is_object(last))
        return last;
    json_decref(last);
    return NULL;
}

/* ---- Removing and renaming ------------------------------------------------------- */

int state_remove(const char *name, char as[STATE_PATH], struct err *err)
{
    char dir[STATE_PATH], path[STATE_PATH], to[STATE_PATH], trashed[REGISTRY_NAME_MAX + 16];
    int r = make_dirs("trash", dir, err);

    if (!r)
        r = state_path(path, name, NULL, err);
    for (int n = 1; !r; n++) {
        snprintf(trashed, sizeof(trashed), "%s~%d", name, n);
        r = path_in(to, "trash", trashed, NULL, err);
        if (r)
            break;
        r = move_dir(path, to);
        if (!r) {
            if (as)
                strcpy(as, trashed);
            return 0;
        }
        if (r == -ENOENT)
            return no_guest(name, err);
        if (r != -EEXIST || n == TRASH_MAX)
            return err_set(err, r, "cannot move %s to %s: %s", path, to, strerror(-r));
        r = 0;
    }
    return r;
}

/* Away in one step, then deleted at leisure. */
static int drop(const char *kind, const char *name, struct err *err)
{
    char path[STATE_PATH], temp[STATE_PATH];
    int r = path_in(path, kind, name, NULL, err);

    if (!r)
        r = passing_path(temp, kind, name, err);
    if (r)
        return r;
    if (rename(path, temp)) {
        if (errno == ENOENT)
            return no_guest(name, err);
        /* A guest's own process may not rename (cli/confine.h): it removes it where it is. */
        if (errno != EACCES)
            return err_set(err, -errno, "cannot remove %s: %s", path, strerror(errno));
        strcpy(temp, path);
    }
    r = passing_delete(temp);
    return r ? err_set(err, r, "cannot remove all of %s: %s", temp, strerror(-r)) : 0;
}

int state_drop(const char *name, struct err *err)
{
    return drop("guests", name, err);
}

int state_prune(const char *trashed, struct err *err)
{
    return drop("trash", trashed, err);
}

int state_rename(const char *from, const char *to, struct err *err)
{
    char a[STATE_PATH], b[STATE_PATH];
    int r = state_path(a, from, NULL, err);

    if (!r)
        r = state_path(b, to, NULL, err);
    if (r)
        return r;
    r = move_dir(a, b);
    if (r == -ENOENT)
        return no_guest(from, err);
    if (r == -EEXIST)
        err_set(err, r, "there is a guest named %s already", to);
    else if (r)
        err_set(err, r, "cannot rename %s to %s: %s", a, b, strerror(-r));
    return r;
}

int state_restore(const char *trashed, const char *name, struct err *err)
{
    char dir[STATE_PATH], a[STATE_PATH], b[STATE_PATH];
    int r = make_dirs("guests", dir, err);

    if (!r)
        r = path_in(a, "trash", trashed, NULL, err);
    if (!r)
        r = state_path(b, name, NULL, err);
    if (r)
        return r;
    r = move_dir(a, b);
    if (r == -ENOENT)
        return err_set(err, r, "there is no %s among the removed guests", trashed);
    if (r == -EEXIST)
        err_set(err, r, "there is a guest named %s already", name);
    else if (r)
        err_set(err, r, "cannot rename %s to %s: %s", a, b, strerror(-r));
    return r;
}

/* ---- Renamed, and what goes by the name not yet ---------------------------------------- */

static const char *kind_of(bool trash)
{
    return trash ? "trash" : "guests";
}

int state_note(const char *name, bool trash, struct err *err)
{
    char dir[STATE_PATH], path[STATE_PATH];
    int r = path_in(dir, kind_of(trash), name, NULL, err);

    if (!r)
        r = path_in(path, kind_of(trash), name, STATE_NOTE, err);
    if (!r)
        r = write_new(path, name, err);
    return r ? r : sync_dir(dir, err);
}

/* False: it has no note, or is still called so. */
static bool read_note(const char *path, const char *name, char *from, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd < 0 ? 0 : read(fd, from, size - 1);

    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return false;
    from[n] = '\0';
    return from[0] != '.' && !strchr(from, '/') && strcmp(from, name) != 0;
}

static void each_renamed(bool trash, int (*fn)(void *opaque, const char *from, const char *to),
                         void *opaque)
{
    char path[STATE_PATH], from[REGISTRY_NAME_MAX + 16];
    struct state_names names;

    if (state_list(&names, trash, NULL))
        return;
    for (unsigned i = 0; i < names.count; i++)
        if (!path_in(path, kind_of(trash), names.name[i], STATE_NOTE, NULL) &&
            read_note(path, names.name[i], from, sizeof(from)) && !fn(opaque, from, names.name[i]))
            unlink(path);
    state_names_free(&names);
}

void state_each_renamed(int (*fn)(void *opaque, const char *from, const char *to), void *opaque)
{
    each_renamed(false, fn, opaque);
    each_renamed(true, fn, opaque);
}

/* ---- Lists ----------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strverscmp(*(char *const *)a, *(char *const *)b);
}

bool state_names_add(struct state_names *names, const char *name)
{
    char **more;

    for (unsigned i = 0; i < names->count; i++)
        if (!strcmp(names->name[i], name))
            return true;
    more = realloc(names->name, (names->count + 1) * sizeof(*more));
    if (!more)
        return false;
    names->name = more;
    more[names->count] = strdup(name);
    if (!more[names->count])
        return false;
    names->count++;
    qsort(more, names->count, sizeof(*more), by_name);
    return true;
}

void state_names_free(struct state_names *names)
{
    for (unsigned i = 0; i < names->count; i++)
        free(names->name[i]);
    free(names->name);
    *names = (struct state_names){0};
}

int state_list(struct state_names *names, bool trash, struct err *err)
{
    char dir[STATE_PATH];
    int r = path_in(dir, trash ? "trash" : "guests", NULL, NULL, err);
    struct dirent *e;
    DIR *d;

    *names = (struct state_names){0};
    if (r)
        return r;
    d = opendir(dir);
    if (!d)
        return errno == ENOENT ? 0
                               : err_set(err, -errno, "cannot read %s: %s", dir, strerror(errno));
    while (!r && (e = readdir(d)))
        if (trash ? e->d_name[0] != '.' : !registry_check_name(e->d_name, NULL))
            r = state_names_add(names, e->d_name)
                    ? 0
                    : err_set(err, -ENOMEM, "no memory for the list of guests");
    closedir(d);
    if (r)
        state_names_free(names);
    return r;
}

static void sweep_kind(const char *kind)
{
    char dir[STATE_PATH];

    if (!path_in(dir, kind, NULL, NULL, NULL))
        passing_sweep(dir, NULL);
}

void state_sweep(void)
{
    sweep_kind("guests");
    sweep_kind("trash");
}
