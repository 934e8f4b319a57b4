/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge create, rm, recover, prune, rename, edit and validate: what is kept of guests. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/guest_image.h"
#include "cli/guests.h"
#include "cli/life_opts.h"
#include "cli/registry.h"
#include "cli/run.h"
#include "cli/tidy.h"
#include "cli/verb.h"

static int failed(const struct err *err)
{
    if (err->code)
        err_report(err);
    return CLI_FAILED;
}

/* Hold a name while what is kept under it changes. */
static int hold(struct registry *reg, const char *name, struct err *err)
{
    char base[256];
    int r = registry_check_name(name, err);

    reg->fd = -1;
    if (!r)
        r = registry_base(base, sizeof(base), err);
    if (!r)
        r = registry_claim(reg, base, name, err);
    if (r == -EBUSY) {
        err_set(err, r, "the guest %s is running", name);
        err_next(err, "End it first: lodge stop %s.", name);
    }
    return r;
}

/* ---- create --------------------------------------------------------------------- */

static int keep_new(const char *name, const struct definition *def, struct err *err)
{
    struct registry reg;
    int r = hold(&reg, name, err);

    if (!r)
        r = state_create(name, def, err);
    registry_release(&reg);
    return r;
}

int verb_create(const struct verb *verb, int argc, char **argv)
{
    struct run_opts opts;
    struct definition def;
    struct err err = {0};
    int r = run_parse(verb, &opts, &def, argc, argv);

    if (r >= 0)
        goto out;
    if (opts.detach || opts.rm) {
        err_set(&err, -EINVAL, "lodge create starts nothing: --%s is for lodge run",
                opts.detach ? "detach" : "rm");
        r = verb_usage(verb, &err);
    } else if (!def.name) {
        err_set(&err, -EINVAL, "the guest needs a name: --name NAME");
        r = verb_usage(verb, &err);
    } else if (keep_new(opts.name, &def, &err)) {
        r = failed(&err);
    } else {
        if (!opts.quiet)
            printf("%s\n", opts.name);
        r = cli_flush();
    }
out:
    run_opts_fini(&opts);
    definition_fini(&def);
    return r;
}

/* ---- rm, recover, prune ----------------------------------------------------------- */

static int rm_one(const char *name, void *opaque, struct err *err)
{
    const struct define_opts *opts = opaque;
    char as[STATE_PATH];
    struct registry reg;
    int r = guest_check_protected(name, "removed", err);

    if (!r && opts->force && guest_is_held(name))
        r = guest_kill(name, err);
    /* It may have ended by itself, and with --rm be gone already. */
    if (r == -ESRCH)
        r = 0;
    if (r)
        return r;
    *err = (struct err){0};
    r = hold(&reg, name, err);
    if (!r && !state_exists(name) && opts->force && err->code == 0) {
        r = err_set(err, -ENOENT, "nothing is kept of the guest %s", name);
    } else if (!r) {
        r = guest_image_note(name, false, err);
        if (!r)
            r = state_remove(name, as, err);
        if (!r)
            r = guest_image_move(name, as, err);
    }
    registry_release(&reg);
    return r;
}

int verb_rm(const struct verb *verb, int argc, char **argv)
{
    struct define_opts opts;
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    state_sweep();
    return r >= 0 ? r : guests_each(verb, nargs, argv, opts.quiet, rm_one, &opts);
}

/* The newest NAME~N of `name`, or `name` itself if it is written in full. */
static int find_trashed(const char *name, char found[STATE_PATH], struct err *err)
{
    struct state_names names;
    size_t len = strlen(name);
    int r = state_list(&names, true, err);

    if (r)
        return r;
    found[0] = '\0';
    for (unsigned i = 0; i < names.count; i++) {
        const char *n = names.name[i];

        /* Sorted by number. */
        if (!strcmp(n, name) || (!strncmp(n, name, len) && n[len] == '~'))
            snprintf(found, STATE_PATH, "%s", n);
    }
    state_names_free(&names);
    if (found[0])
        return 0;
    err_set(err, -ENOENT, "there is no removed guest %s", name);
    return err_next(err, "lodge prune lists those that there are before it deletes them.");
}

static int recover_one(const char *name, void *opaque, struct err *err)
{
    char trashed[STATE_PATH], to[STATE_PATH];
    struct registry reg;
    int r = find_trashed(name, trashed, err);

    if (r)
        return r;
    snprintf(to, sizeof(to), "%.*s", (int)strcspn(trashed, "~"), trashed);
    r = hold(&reg, to, err);
    if (!r)
        r = guest_image_note(trashed, true, err);
    if (!r)
        r = state_restore(trashed, to, err);
    if (!r)
        r = guest_image_move(trashed, to, err);
    registry_release(&reg);
    return r;
}

int verb_recover(const struct verb *verb, int argc, char **argv)
{
    struct define_opts opts;
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    return r >= 0 ? r : guests_each(verb, nargs, argv, opts.quiet, recover_one, &opts);
}

static bool agreed(const struct state_names *names)
{
    char answer[16];

    if (!isatty(STDIN_FILENO)) {
        fprintf(stderr, "lodge: nothing is deleted without --force, since nobody can be asked\n");
        return false;
    }
    printf("Delete %s for good? [y/N] ", names->count == 1 ? "it" : "them");
    fflush(stdout);
    return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

int verb_prune(const struct verb *verb, int argc, char **argv)
{
    struct define_opts opts;
    struct state_names names;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    state_sweep();
    tidy_all();
    if (state_list(&names, true, &err))
        return failed(&err);
    r = CLI_OK;
    for (unsigned i = 0; !opts.quiet && i < names.count; i++)
        printf("%s\n", names.name[i]);
    if (names.count && !opts.force && !agreed(&names)) {
        r = CLI_FAILED;
    } else {
        for (unsigned i = 0; i < names.count; i++)
            if (guest_image_move(names.name[i], NULL, &err) || state_prune(names.name[i], &err))
                r = failed(&err);
    }
    state_names_free(&names);
    return cli_flush() == CLI_OK ? r : CLI_FAILED;
}

/* ---- rename --------------------------------------------------------------------- */

static int rename_guest(const char *from, const char *to, struct err *err)
{
    struct registry old = {.fd = -1}, new = {.fd = -1};
    int r = registry_check_name(to, err);

    if (!r && !state_exists(from) && guest_is_held(from)) {
        err_set(err, -ENOENT, "the guest %s runs in the foreground and cannot be renamed", from);
        r = -ENOENT;
    }
    if (!r)
        r = hold(&old, from, err);
    if (!r)
        r = hold(&new, to, err);
    if (!r)
        r = guest_image_note(from, false, err);
    if (!r)
        r = state_rename(from, to, err);
    if (!r)
        r = guest_image_move(from, to, err);
    registry_release(&new);
    registry_release(&old);
    return r;
}

int verb_rename(const struct verb *verb, int argc, char **argv)
{
    struct define_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (nargs != 2) {
        err_set(&err, -EINVAL, "lodge rename needs the old name and the new one");
        return verb_usage(verb, &err);
    }
    if (rename_guest(argv[0], argv[1], &err))
        return failed(&err);
    if (!opts.quiet)
        printf("%s\n", argv[1]);
    return cli_flush();
}

/* ---- edit ----------------------------------------------------------------------- */

static int run_editor(const char *file, struct err *err)
{
    const char *editor = getenv("VISUAL");
    char *command;
    int status;

    if (!editor || !*editor)
        editor = getenv("EDITOR");
    if (!editor || !*editor)
        editor = "vi";
    /* The variables hold a command with its arguments, as for other programs. */
    if (asprintf(&command, "%s '%s'", editor, file) < 0)
        return err_set(err, -ENOMEM, "no memory for the editor's command");
    status = system(command);
    free(command);
    if (status != -1 && WIFEXITED(status) && !WEXITSTATUS(status))
        return 0;
    err_set(err, -ECANCELED, "the editor (%s) failed; nothing was changed", editor);
    return err_next(err, "EDITOR or VISUAL says which editor to use.");
}

/* What was written stays for another try when it is wrong. */
static int edit_copy(const char *name, char *file, struct err *err)
{
    struct definition def;
    int r = run_editor(file, err);

    if (!r) {
        r = definition_read(&def, file, err);
        if (!r && def.name && strcmp(def.name, name) != 0) {
            r = err_set(err, -EINVAL, "the name cannot be changed here");
            err_next(err, "Use lodge rename %s %s.", name, def.name);
        }
        if (!r)
            r = state_write(name, &def, err);
        definition_fini(&def);
    }
    if (r != -EINVAL) {
        unlink(file);
    } else if (!err->next[0]) {
        err_next(err, "Nothing was changed; your text is in %.150s.", file);
    } else {
        fprintf(stderr, "lodge: nothing was changed; your text is in %s\n", file);
    }
    return r;
}

static int edit_guest(const char *name, struct err *err)
{
    const char *tmp = getenv("TMPDIR");
    char path[STATE_PATH], file[STATE_PATH], buf[4096];
    int in, out, r = registry_check_name(name, err);
    ssize_t n = 0;

    if (!r && !state_exists(name)) {
        r = err_set(err, -ENOENT, "nothing is kept of a guest named %s", name);
        err_next(err, "lodge ls shows those that there are.");
    }
    if (!r)
        r = guest_check_protected(name, "edited", err);
    if (!r)
        r = state_path(path, name, STATE_DEFINITION, err);
    if (r)
        return r;
    if (snprintf(file, sizeof(file), "%s/lodge-%s-XXXXXX.yaml", tmp && *tmp == '/' ? tmp : "/tmp",
                 name) >= (int)sizeof(file))
        return err_set(err, -ENAMETOOLONG, "the path in TMPDIR is too long");
    in = open(path, O_RDONLY | O_CLOEXEC);
    out = mkostemps(file, 5, O_CLOEXEC);
    if (in < 0 || out < 0)
        r = err_set(err, -errno, "cannot copy %s: %s", path, strerror(errno));
    while (!r && (n = read(in, buf, sizeof(buf))) > 0)
        if (write(out, buf, (size_t)n) != n)
            n = -1;
    if (!r && n < 0)
        r = err_set(err, -EIO, "cannot copy %s to %s", path, file);
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    if (!r)
        return edit_copy(name, file, err);
    if (out >= 0)
        unlink(file);
    return r;
}

int verb_edit(const struct verb *verb, int argc, char **argv)
{
    struct define_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (nargs != 1) {
        err_set(&err, -EINVAL, "lodge edit needs the name of a guest");
        return verb_usage(verb, &err);
    }
    if (edit_guest(argv[0], &err))
        return failed(&err);
    if (!opts.quiet && guest_is_held(argv[0]))
        fprintf(stderr, "lodge: the guest %s runs; the change counts from its next start\n",
                argv[0]);
    return CLI_OK;
}

/* ---- validate ------------------------------------------------------------------- */

static int validate_one(const char *path, void *opaque, struct err *err)
{
    struct definition def;
    int r = definition_read(&def, path, err);

    definition_fini(&def);
    return r;
}

int verb_validate(const struct verb *verb, int argc, char **argv)
{
    struct define_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (!nargs) {
        err_set(&err, -EINVAL, "lodge validate needs a file, or - for standard input");
        return verb_usage(verb, &err);
    }
    return guests_each(verb, nargs, argv, opts.quiet, validate_one, NULL);
}
