/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `lodge VERB` can be: a table in main.c, one verb per file. */
#ifndef LODGE_CLI_VERB_H
#define LODGE_CLI_VERB_H

#include "base/err.h"
#include "cli/opts.h"

/* Exit statuses. A run that a signal ended gives 128 + its number instead. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct verb {
    const char *name;
    const char *args;    /* what follows the name in the usage line */
    const char *summary; /* one line */
    const char *about;   /* more, for --help; NULL: nothing */
    const struct opt_desc *opts;
    unsigned max_args;      /* positional arguments it takes */
    const struct verb *sub; /* verbs of its own, which come next; ends like `verbs`; NULL: none */
    int (*run)(const struct verb *verb, int argc, char **argv);
};

extern const struct verb verbs[]; /* ends with an entry whose name is NULL */

const struct verb *verb_find(const char *name);

/* Fill `err` for a name verb_find does not know, with the nearest one as suggestion. Returns CLI_USAGE. */
int verb_unknown(const char *name, struct err *err);

/*
 * Parse the arguments after the verb's name by verb->opts. Returns -1 to go
 * on (positional arguments are then argv[0..*nargs)), or the exit status:
 * help was asked for and printed, or the usage error was reported.
 */
int verb_parse(const struct verb *verb, void *out, size_t size, int argc, char **argv, int *nargs);

/* The same with opts_parse_seen. */
int verb_parse_seen(const struct verb *verb, void *out, size_t size, int argc, char **argv,
                    int *nargs,
                    int (*seen)(void *opaque, const struct opt_desc *opt, const char *val,
                                struct err *err),
                    void *opaque);

/* Report `err` as wrong usage of `verb` (NULL: of lodge itself); returns CLI_USAGE. */
int verb_usage(const struct verb *verb, struct err *err);

void verb_help(const struct verb *verb);
void verb_list(void); /* `lodge --help` */

/* Flush standard output; CLI_FAILED with a message when what was printed did not arrive. */
int cli_flush(void);

int verb_run(const struct verb *verb, int argc, char **argv);
int verb_doctor(const struct verb *verb, int argc, char **argv);
int verb_help_main(const struct verb *verb, int argc, char **argv);
int verb_version(const struct verb *verb, int argc, char **argv);

int verb_image(const struct verb *verb, int argc, char **argv);

int verb_create(const struct verb *verb, int argc, char **argv);
int verb_start(const struct verb *verb, int argc, char **argv);
int verb_stop(const struct verb *verb, int argc, char **argv);
int verb_restart(const struct verb *verb, int argc, char **argv);
int verb_kill(const struct verb *verb, int argc, char **argv);
int verb_pause(const struct verb *verb, int argc, char **argv);
int verb_resume(const struct verb *verb, int argc, char **argv);
int verb_balloon(const struct verb *verb, int argc, char **argv);
int verb_snapshot(const struct verb *verb, int argc, char **argv);
int verb_snapshots(const struct verb *verb, int argc, char **argv);
int verb_restore(const struct verb *verb, int argc, char **argv);
int verb_stats(const struct verb *verb, int argc, char **argv);
int verb_top(const struct verb *verb, int argc, char **argv);
int verb_events(const struct verb *verb, int argc, char **argv);
int verb_set(const struct verb *verb, int argc, char **argv);
int verb_ls(const struct verb *verb, int argc, char **argv);
int verb_info(const struct verb *verb, int argc, char **argv);
int verb_port(const struct verb *verb, int argc, char **argv);
int verb_console(const struct verb *verb, int argc, char **argv);
int verb_logs(const struct verb *verb, int argc, char **argv);
int verb_rm(const struct verb *verb, int argc, char **argv);
int verb_recover(const struct verb *verb, int argc, char **argv);
int verb_prune(const struct verb *verb, int argc, char **argv);
int verb_clone(const struct verb *verb, int argc, char **argv);
int verb_fork(const struct verb *verb, int argc, char **argv);
int verb_rename(const struct verb *verb, int argc, char **argv);
int verb_edit(const struct verb *verb, int argc, char **argv);
int verb_validate(const struct verb *verb, int argc, char **argv);

extern const struct opt_desc ls_opts[], info_opts[], console_opts[], logs_opts[];
extern const struct opt_desc port_opts[], power_opts[], start_opts[], stop_opts[], restart_opts[];
extern const struct opt_desc snapshot_opts[], snapshots_opts[], restore_opts[];
extern const struct opt_desc balloon_opts[], set_opts[];
extern const struct opt_desc stats_opts[], top_opts[], events_opts[];
extern const struct opt_desc rm_opts[], prune_opts[], define_opts[];
extern const struct opt_desc clone_opts[];
extern const struct opt_desc run_opts[];
extern const struct opt_desc doctor_opts[];

#endif
