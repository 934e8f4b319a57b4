/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge exec and lodge shell: commands in guests that were made from images, through ssh. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cli/exec.h"
#include "cli/guest_image.h"
#include "cli/registry.h"

#define TRY_MS 2000 /* a guest that is up says what it is sooner, as a rule */

const struct opt_desc exec_opts[] = {
    {.name = "user",
     .letter = 'u',
     .arg = "NAME",
     .parse = opt_string,
     .field = offsetof(struct exec_opts, user),
     .help = "who to be in the guest (default: who the guest was made\nfor)"},
    {.name = "tty",
     .letter = 't',
     .parse = opt_flag,
     .field = offsetof(struct exec_opts, tty),
     .help = "give the command a terminal"},
    {.name = "wait",
     .letter = 'w',
     .arg = "SECONDS",
     .parse = opt_uint,
     .def = "60",
     .max = 86400,
     .field = offsetof(struct exec_opts, wait),
     .help = "how long the guest may take to come up"},
    {NULL},
};

static double seconds_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int connect_to(const struct guest_ssh *ssh)
{
    struct sockaddr_storage addr = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&addr;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&addr;
    socklen_t len = sizeof(*v4);
    int fd;

    if (inet_pton(AF_INET, ssh->addr, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)ssh->port);
    } else if (inet_pton(AF_INET6, ssh->addr, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)ssh->port);
        len = sizeof(*v6);
    } else {
        return -1;
    }
    fd = socket(addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, len)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* The published port takes connections before the guest does, so what counts is the server's first word. */
static bool answers(const struct guest_ssh *ssh)
{
    int fd = connect_to(ssh);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char word[4];
    bool ok;

    if (fd < 0)
        return false;
    ok = poll(&p, 1, TRY_MS) > 0 && recv(fd, word, sizeof(word), MSG_WAITALL) == sizeof(word) &&
         !memcmp(word, "SSH-", sizeof(word));
    close(fd);
    return ok;
}

static int wait_up(const struct store *s, const char *name, unsigned wait, struct guest_ssh *ssh,
                   struct err *err)
{
    double start = seconds_now();
    bool said = false;
    int r;

    for (;;) {
        r = guest_ssh_find(s, name, ssh, err);
        if (r && r != -ENOTCONN)
            return r;
        if (!r && answers(ssh))
            return 0;
        if (seconds_now() - start >= wait)
            break;
        if (!said && seconds_now() - start > 3) {
            fprintf(stderr, "lodge: waiting for ssh in the guest %s\n", name);
            said = true;
        }
        usleep(200000);
    }
    if (r)
        return r;
    err_set(err, -ETIMEDOUT, "ssh in the guest %s did not answer within %u seconds", name, wait);
    err_next(err, "It may still be starting: --wait gives it more time.");
    return -ETIMEDOUT;
}

/* The words as one that the guest's shell takes apart in the same way; malloc'd. */
char *exec_quote(int argc, char **argv)
{
    size_t size = 1;
    char *text, *to;

    for (int i = 0; i < argc; i++)
        size += 4 * strlen(argv[i]) + 3;
    to = text = malloc(size);
    for (int i = 0; to && i < argc; i++) {
        if (i)
            *to++ = ' ';
        *to++ = '\'';
        for (const char *p = argv[i]; *p; p++) {
            if (*p == '\'')
                to = stpcpy(to, "'\\''");
            else
                *to++ = *p;
        }
        *to++ = '\'';
    }
    if (to)
        *to = '\0';
    return text;
}

/* Returns only when ssh could not be started. */
static int start_ssh(const struct guest_ssh *ssh, const struct exec_opts *o, char *command,
                     struct err *err)
{
    char known[STORE_PATH + 64], port[16];
    const char *argv[40] = {"ssh", "-i", ssh->key, "-p", port};
    static const char *const always[] = {
        "BatchMode=yes",      "IdentitiesOnly=yes", "StrictHostKeyChecking=accept-new",
        "HostKeyAlias=guest", "LogLevel=ERROR",     "ConnectTimeout=30",
        "ControlMaster=no",   "ControlPath=none"};
    unsigned n = 5;

    snprintf(known, sizeof(known), "UserKnownHostsFile=\"%s/known_hosts\"", ssh->dir);
    snprintf(port, sizeof(port), "%u", ssh->port);
    argv[n++] = "-o";
    argv[n++] = known;
    for (size_t i = 0; i < ARRAY_SIZE(always); i++) {
        argv[n++] = "-o";
        argv[n++] = always[i];
    }
    /* The user's own configuration is for the hosts that the user knows. */
    argv[n++] = "-F";
    argv[n++] = "none";
    argv[n++] = o->tty ? "-t" : "-T";
    argv[n++] = "-l";
    argv[n++] = o->user ? o->user : ssh->user;
    argv[n++] = "--";
    argv[n++] = ssh->addr;
    argv[n++] = command;
    execvp(argv[0], (char *const *)argv);
    err_set(err, -errno, "cannot start ssh: %s", strerror(errno));
    if (errno == ENOENT)
        err_next(err, "On Debian it comes with: apt-get install openssh-client");
    return err->code;
}

/* `command`: NULL for a shell. */
static int reach(const char *name, struct exec_opts *o, char *command, struct err *err)
{
    struct guest_ssh ssh;
    struct store store;
    int r = registry_check_name(name, err);

    if (!r)
        r = store_open(&store, err);
    if (!r)
        r = wait_up(&store, name, o->wait, &ssh, err);
    return r ? r : start_ssh(&ssh, o, command, err);
}

static int run(const struct verb *verb, int argc, char **argv, bool shell)
{
    struct exec_opts opts;
    struct err err = {0};
    char *command = NULL;
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (nargs < 1 || (!shell && nargs < 2)) {
        err_set(&err, -EINVAL, nargs ? "no command was given" : "no name of a guest was given");
        return verb_usage(verb, &err);
    }
    if (shell)
        opts.tty = opts.tty || isatty(STDIN_FILENO);
    else
        command = exec_quote(nargs - 1, argv + 1);
    if (!shell && !command)
        err_set(&err, -ENOMEM, "no memory for the command");
    else
        reach(argv[0], &opts, command, &err);
    free(command);
    err_report(&err);
    /* Like ssh's own, which no command of the guest should have. */
    return 255;
}

int verb_exec(const struct verb *verb, int argc, char **argv)
{
    return run(verb, argc, argv, false);
}

int verb_shell(const struct verb *verb, int argc, char **argv)
{
    return run(verb, argc, argv, true);
}
