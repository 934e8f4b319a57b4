/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Apart from what the verbs do, so that a test can hold the documents against them. */
#include "cli/life_opts.h"

#include "cli/verb.h"

const struct opt_desc ls_opts[] = {
    {.name = "format",
     .arg = "table|json",
     .parse = opt_choice,
     .choices = "table|json",
     .def = "table",
     .field = offsetof(struct ls_opts, format),
     .help = "how to print"},
    {.name = "quiet",
     .letter = 'q',
     .parse = opt_flag,
     .field = offsetof(struct ls_opts, quiet),
     .help = "print nothing but names"},
    {NULL},
};

#define WATCH(f) .field = offsetof(struct watch_opts, f)

const struct opt_desc stats_opts[] = {
    {.name = "format",
     .arg = "table|json",
     .parse = opt_choice,
     .choices = "table|json",
     .def = "table",
     WATCH(format),
     .help = "how to print"},
    {.name = "interval",
     .letter = 'i',
     .arg = "SECONDS",
     .parse = opt_uint,
     .min = 1,
     .max = 3600,
     .def = "1",
     WATCH(interval),
     .help = "time over which CPU use is looked at"},
    {NULL},
};

const struct opt_desc top_opts[] = {
    {.name = "interval",
     .letter = 'i',
     .arg = "SECONDS",
     .parse = opt_uint,
     .min = 1,
     .max = 3600,
     .def = "2",
     WATCH(interval),
     .help = "time between two tables"},
    {.name = "count",
     .letter = 'n',
     .arg = "N",
     .parse = opt_uint,
     .max = 1000000,
     .def = "0",
     WATCH(count),
     .help = "end after so many tables; 0: go on"},
    {NULL},
};

const struct opt_desc events_opts[] = {
    {.name = "format",
     .arg = "text|json",
     .parse = opt_choice,
     .choices = "text|json",
     .def = "text",
     WATCH(format),
     .help = "how to print; json: an object a line"},
    {.name = "count",
     .letter = 'n',
     .arg = "N",
     .parse = opt_uint,
     .max = 1000000,
     .def = "0",
     WATCH(count),
     .help = "end after so many events; 0: go on"},
    {NULL},
};

const struct opt_desc info_opts[] = {
    {.name = "format",
     .arg = "text|json|yaml",
     .parse = opt_choice,
     .choices = "text|json|yaml",
     .def = "text",
     .field = offsetof(struct ls_opts, format),
     .help = "how to print; yaml is the definition alone, as create\ntakes it"},
    {NULL},
};

#define QUIET                                                                                      \
    {                                                                                              \
        .name = "quiet", .letter = 'q', .parse = opt_flag,                                         \
        .field = offsetof(struct power_opts, quiet),                                               \
        .help = "do not print the names of those it is done for"                                   \
    }

const struct opt_desc power_opts[] = {QUIET, {NULL}};

const struct opt_desc start_opts[] = {
    {.name = "autostart",
     .parse = opt_flag,
     .field = offsetof(struct power_opts, all),
     .help = "all that have autostart and do not run"},
    {.name = "anew",
     .parse = opt_flag,
     .field = offsetof(struct power_opts, anew),
     .help = "begin with a boot, and drop what lodge stop --save kept"},
    QUIET,
    {NULL},
};

/* clang-format off */
#define ALL_AND_TIMEOUT                                                                            \
    {.name = "all",                                                                                \
     .letter = 'a',                                                                                \
     .parse = opt_flag,                                                                            \
     .field = offsetof(struct power_opts, all),                                                    \
     .help = "all that run"},                                                                      \
    {.name = "timeout",                                                                            \
     .letter = 't',                                                                                \
     .arg = "SECONDS",                                                                             \
     .parse = opt_uint,                                                                            \
     .def = "60",                                                                                  \
     .max = 86400,                                                                                 \
     .field = offsetof(struct power_opts, timeout),                                                \
     .help = "time that guests get before they are killed"}
/* clang-format on */

const struct opt_desc restart_opts[] = {ALL_AND_TIMEOUT, QUIET, {NULL}};

const struct opt_desc stop_opts[] = {
    ALL_AND_TIMEOUT,
    {.name = "save",
     .parse = opt_flag,
     .field = offsetof(struct power_opts, save),
     .help = "keep what they are, and go on from it when they are\nstarted"},
    {.name = "at-shutdown",
     .parse = opt_flag,
     .field = offsetof(struct power_opts, at_shutdown),
     .help = "save those that are to be (lodge set --at-shutdown)"},
    QUIET,
    {NULL},
};

#define FIELD(f) .field = offsetof(struct attach_opts, f)

const struct opt_desc console_opts[] = {
    {.name = "escape",
     .arg = "KEY",
     .parse = opt_key,
     .def = "^]",
     FIELD(escape),
     .help = "key that leaves the console, like ^] or ctrl-a, or none;\nthe guest goes on"},
    {.name = "no-replay",
     .parse = opt_flag,
     FIELD(no_replay),
     .help = "do not begin with the last of what the guest has said"},
    {.name = "quiet",
     .letter = 'q',
     .parse = opt_flag,
     FIELD(quiet),
     .help = "print nothing of our own"},
    {NULL},
};

const struct opt_desc logs_opts[] = {
    {.name = "follow",
     .letter = 'f',
     .parse = opt_flag,
     FIELD(follow),
     .help = "go on with what comes, until the guest ends"},
    {NULL},
};

#undef QUIET
#define FORCE(text)                                                                                \
    {                                                                                              \
        .name = "force", .letter = 'f', .parse = opt_flag,                                         \
        .field = offsetof(struct define_opts, force), .help = text                                 \
    }
#define QUIET                                                                                      \
    {                                                                                              \
        .name = "quiet", .letter = 'q', .parse = opt_flag,                                         \
        .field = offsetof(struct define_opts, quiet),                                              \
        .help = "do not print the names of those it is done for"                                   \
    }

const struct opt_desc clone_opts[] = {
    {.name = "full",
     .parse = opt_flag,
     .field = offsetof(struct clone_opts, full),
     .help = "copy the disks instead of standing on those of NAME"},
    {.name = "quiet",
     .letter = 'q',
     .parse = opt_flag,
     .field = offsetof(struct clone_opts, quiet),
     .help = "do not print the names of those it is done for"},
    {NULL},
};

const struct opt_desc rm_opts[] = {FORCE("kill those that run"), QUIET, {NULL}};
const struct opt_desc prune_opts[] = {FORCE("do not ask"), QUIET, {NULL}};
const struct opt_desc define_opts[] = {QUIET, {NULL}};

const struct opt_desc set_opts[] = {
    LIMIT_OPTION(offsetof(struct set_opts, limits)),
    SHARES_OPTIONS(offsetof(struct set_opts, shares)),
    {.name = "protected",
     .arg = "on|off",
     .parse = opt_switch,
     .field = offsetof(struct set_opts, protected),
     .help = "refuse to remove, kill and edit the guest"},
    {.name = "autostart",
     .arg = "on|off",
     .parse = opt_switch,
     .field = offsetof(struct set_opts, autostart),
     .help = "start it with the host (lodge start --autostart)"},
    {.name = "at-shutdown",
     .arg = "stop|save",
     .parse = opt_choice,
     .choices = "stop|save",
     .field = offsetof(struct set_opts, at_shutdown),
     .help = "what lodge stop --at-shutdown does"},
    {.name = "quiet",
     .letter = 'q',
     .parse = opt_flag,
     .field = offsetof(struct set_opts, quiet),
     .help = "do not print the names of those it is done for, nor what\nhas no effect here"},
    {NULL},
};

#undef QUIET
#undef FIELD
#define FIELD(f) .field = offsetof(struct snapshot_opts, f)
#define FORMAT(text)                                                                               \
    {                                                                                              \
        .name = "format", .arg = text "|json", .parse = opt_choice, .choices = text "|json",       \
        .def = text, FIELD(format), .help = "how to print"                                         \
    }
#define QUIET(text)                                                                                \
    {                                                                                              \
        .name = "quiet", .letter = 'q', .parse = opt_flag, FIELD(quiet), .help = text              \
    }

const struct opt_desc snapshot_opts[] = {
    {.name = "rm", .parse = opt_flag, FIELD(rm), .help = "remove that snapshot instead"},
    FORMAT("text"),
    QUIET("print nothing"),
    {NULL},
};

const struct opt_desc snapshots_opts[] = {FORMAT("table"), QUIET("print nothing but tags"), {NULL}};

const struct opt_desc restore_opts[] = {QUIET("do not print the guest's name"), {NULL}};
