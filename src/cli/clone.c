/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge clone. */
#include "cli/clone.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/guest_image.h"
#include "cli/guests.h"
#include "cli/layers.h"
#include "cli/life_opts.h"
#include "cli/registry.h"
#include "cli/run.h"
#include "cli/verb.h"

#define PATIENCE_MS 600000 /* a guest's disks may take long to be written to their end */

/* ---- Definitions ------------------------------------------------------------------------ */

/* Without mac=: it follows from the name. */
static char *net_of_copy(const char *val)
{
    const char *mac = strstr(val, ",mac=");
    char *text;

    if (!mac)
        return strdup(val);
    return asprintf(&text, "%.*s%s", (int)(mac - val), val, mac + 1 + strcspn(mac + 1, ",")) < 0
               ? NULL
               : text;
}

/* The original has that port of the host: the copy takes any that is free. */
static char *publish_of_copy(const char *val)
{
    char text[NET_PUBLISH_TEXT];
    struct net_publish p;

    if (net_publish_parse(val, &p, NULL))
        return NULL;
    p.host = 0;
    return strdup(net_publish_format(&p, text));
}

/* Sockets of the host. */
static char *path_of_copy(const char *val, const char *name)
{
    char *text;

    if (!strcmp(val, "on") || !strcmp(val, "off"))
        return strdup(val);
    return asprintf(&text, "%s.%s", val, name) < 0 ? NULL : text;
}

int clone_definition(struct definition *def, const char *name, struct err *err)
{
    for (unsigned i = 0; i < def->count; i++) {
        struct definition_item *item = &def->item[i];
        const char *option = item->opt->name;
        char *val = NULL;

        if (!strcmp(option, "net"))
            val = net_of_copy(item->val);
        else if (!strcmp(option, "publish"))
            val = publish_of_copy(item->val);
        else if (!strcmp(option, "vsock") || !strcmp(option, "port"))
            val = path_of_copy(item->val, name);
        else
            continue;
        if (!val)
            return err_set(err, -ENOMEM, "no memory for the definition of %s", name);
        free(item->val);
        item->val = val;
    }
    return 0;
}

/* ---- The original ------------------------------------------------------------------------- */

int clone_layers_dir(const struct definition *def, const char *name, char dir[STORE_PATH],
                     struct err *err)
{
    char path[STATE_PATH];
    int r;

    if (definition_get(def, "image"))
        return guest_image_dir(name, dir, err);
    r = state_path(path, name, STATE_DISKS, err);
    snprintf(dir, STORE_PATH, "%s", r ? "" : path);
    return r;
}

static int freeze_running(const char *name, json_t **result, struct err *err)
{
    struct client_conn conn;
    int r = guest_connect(&conn, name, err);

    if (!r) {
        conn.patience = PATIENCE_MS;
        r = client_ask(&conn, "overlay", NULL, result, err);
    }
    client_fini(&conn);
    return r;
}

/* With the guest's name held. */
static int freeze_stopped(const char *name, const struct definition *def, json_t **result,
                          struct err *err)
{
    struct run_opts opts = {0};
    char dir[STORE_PATH], own[STORE_PATH + 16];
    struct layers layers = {0};
    int r = definition_apply(def, &opts, sizeof(opts), err);
    struct run_disks *d = &opts.disks;

    *result = json_object();
    if (!r)
        r = clone_layers_dir(def, name, dir, err);
    if (!r)
        r = layers_load(&layers, dir, err);
    /* One that never ran has no disk yet. */
    snprintf(own, sizeof(own), "%s/" GUEST_DISK, dir);
    if (!r && definition_get(def, "image") && d->count < VM_MAX_DISKS && !access(own, F_OK))
        d->disk[d->count++] = (struct vm_disk){.image = {.path = own, .format = "qcow2"}};
    if (!r)
        r = layers_still(&layers, d->disk, d->count, *result, err);
    layers_fini(&layers);
    run_opts_fini(&opts);
    return r;
}

/* ---- The copy ------------------------------------------------------------------------------ */

struct copy {
    const char *from, *to;
    const struct definition *def;
    const json_t *disks;
    char dir[STORE_PATH]; /* of the original's layers */
    bool full;
};

static int fill_image(void *opaque, const char *from, const char *dir, struct err *err)
{
    const struct copy *c = opaque;

    return layers_copy(from, c->disks, dir, c->full, err);
}

static int fill_state(void *opaque, const char *dir, struct err *err)
{
    const struct copy *c = opaque;
    char path[STORE_PATH + 16];

    if (!json_array_size(json_object_get(c->disks, "disks")))
        return 0;
    snprintf(path, sizeof(path), "%s/" STATE_DISKS, dir);
    return layers_copy(c->dir, c->disks, path, c->full, err);
}

int clone_make(const char *from, const char *to, const struct definition *def, const json_t *disks,
               bool full, struct err *err)
{
    struct copy c = {.from = from, .to = to, .def = def, .disks = disks, .full = full};
    const struct guest_image_config cfg = {.image = definition_get(def, "image"),
                                           .name = to,
                                           .user = definition_get(def, "user"),
                                           .ssh_key = definition_get(def, "ssh-key"),
                                           .user_data = definition_get(def, "user-data")};
    int r = clone_layers_dir(def, from, c.dir, err);

    if (r)
        return r;
    if (!cfg.image || access(c.dir, F_OK))
        return state_create_filled(to, def, fill_state, &c, err);
    r = guest_image_clone(from, &cfg, fill_image, &c, err);
    if (r)
        return r;
    r = state_create(to, def, err);
    if (r)
        guest_image_move(to, NULL, NULL);
    return r;
}

/* ---- The verb -------------------------------------------------------------------------------- */

static int claim(struct registry *reg, const char *name, struct err *err)
{
    char base[256];
    int r = registry_check_name(name, err);

    reg->fd = -1;
    if (!r)
        r = registry_base(base, sizeof(base), err);
    return r ? r : registry_claim(reg, base, name, err);
}

/* With the names of both held, or the original running. */
static int clone_held(const char *from, const char *to, bool running, bool full, struct err *err)
{
    struct definition def;
    json_t *disks = NULL;
    int r = state_read(from, &def, err);

    if (!r && state_exists(to)) {
        r = err_set(err, -EEXIST, "there is a guest named %s already", to);
        err_next(err, "Choose another name, or remove that one: lodge rm %s.", to);
    }
    if (!r)
        r = running ? freeze_running(from, &disks, err) : freeze_stopped(from, &def, &disks, err);
    if (!r)
        r = clone_definition(&def, to, err);
    if (!r)
        r = clone_make(from, to, &def, disks, full, err);
    json_decref(disks);
    definition_fini(&def);
    return r;
}

static int clone_guest(const char *from, const char *to, bool full, struct err *err)
{
    struct registry old = {.fd = -1}, new = {.fd = -1};
    bool running = guest_is_held(from);
    int r = registry_check_name(from, err);

    if (!r && !state_exists(from)) {
        err_set(err, -ENOENT,
                running ? "nothing is kept of the guest %s, so it cannot be cloned"
                        : "there is no guest named %s",
                from);
        r = -ENOENT;
        err_next(err, "lodge ls shows those that there are; lodge run --detach keeps a guest.");
    }
    if (!r)
        r = claim(&new, to, err);
    if (!r && !running)
        r = claim(&old, from, err);
    if (!r)
        r = clone_held(from, to, running, full, err);
    registry_release(&old);
    registry_release(&new);
    return r;
}

int verb_clone(const struct verb *verb, int argc, char **argv)
{
    struct clone_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (nargs != 2) {
        err_set(&err, -EINVAL, "lodge clone needs the name of a guest and that of the copy");
        return verb_usage(verb, &err);
    }
    if (clone_guest(argv[0], argv[1], opts.full, &err)) {
        err_report(&err);
        return CLI_FAILED;
    }
    if (!opts.quiet)
        printf("%s\n", argv[1]);
    return cli_flush();
}
