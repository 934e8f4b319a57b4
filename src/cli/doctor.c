/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge doctor: which engines this host can use, and facts for a report. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/engines.h"
#include "cli/host.h"
#include "cli/size.h"
#include "cli/verb.h"
#include "engine/engine.h"

struct doctor_opts {
    const char *format;
};

const struct opt_desc doctor_opts[] = {
    {.name = "format",
     .arg = "text|json",
     .parse = opt_choice,
     .choices = "text|json",
     .def = "text",
     .field = offsetof(struct doctor_opts, format),
     .help = "how to print the findings"},
    {NULL},
};

#define MAX_ENGINES 8

struct finding {
    const struct engine_name *engine;
    bool usable;
    struct err why;
    struct engine_stage *stages; /* to be freed; NULL: the engine has none */
    unsigned nstages;
};

static void find_stages(struct finding *f, const struct engine_ops *ops)
{
    if (!ops || !ops->probe_stages)
        return;
    f->stages = calloc(ENGINE_MAX_STAGES, sizeof(*f->stages));
    if (f->stages)
        f->nstages = ops->probe_stages(f->stages, ENGINE_MAX_STAGES);
}

static size_t find_engines(struct finding found[MAX_ENGINES])
{
    size_t n = 0;

    for (const struct engine_name *e = engine_names; e->name && n < MAX_ENGINES; e++, n++) {
        const struct engine_ops *ops;

        found[n] = (struct finding){.engine = e};
        found[n].usable = !engine_try(e->name, &ops, &found[n].why);
        find_stages(&found[n], ops);
    }
    return n;
}

static const char *yes_no(bool yes)
{
    return yes ? "yes" : "no";
}

static void print_stages(const struct finding *f)
{
    if (!f->nstages)
        return;
    printf("\n%s, step by step\n", f->engine->title);
    for (unsigned i = 0; i < f->nstages; i++) {
        const struct engine_stage *s = &f->stages[i];

        printf("    %-8s%s%s%s\n", s->passed ? "ok" : "FAILED", s->name, s->passed ? "" : ": ",
               s->why);
    }
}

static void print_text(const struct host *h, const struct finding *found, size_t n)
{
    char a[SIZE_TEXT], b[SIZE_TEXT], c[SIZE_TEXT];

    printf("%-8s%-8s%s\n", "ENGINE", "USABLE", "WHY");
    for (size_t i = 0; i < n; i++) {
        const struct finding *f = &found[i];

        printf("%-8s%-8s%s\n", f->engine->name, yes_no(f->usable),
               f->usable ? f->engine->about : f->why.what);
        if (!f->usable && f->why.next[0])
            printf("%-16s%s\n", "", f->why.next);
    }
    for (size_t i = 0; i < n; i++)
        print_stages(&found[i]);
    printf("\nlodge    %s\n", LODGE_VERSION);
    printf("kernel   %s\n", h->kernel);
    printf("CPU      %s\n", h->cpu[0] ? h->cpu : "(no name)");
    printf("         %u online, %u usable; VMX %s, SVM %s; in a virtual machine: %s\n",
           h->cpus_online, h->cpus_usable, yes_no(h->vmx), yes_no(h->svm), yes_no(h->hypervisor));
    printf("memory   %s, %s available, %s swap\n", size_format(h->memory, a),
           size_format(h->memory_available, b), size_format(h->swap, c));
    printf("/dev/kvm %s\n", h->kvm);
    if (h->landlock)
        printf("sandbox  Landlock %u, ", h->landlock);
    else
        printf("sandbox  no Landlock (guests' processes can open all files of their user), ");
    printf("%s\n", h->seccomp ? "seccomp" : "no seccomp filters");
    printf("shares   %s\n", h->shares);
}

static json_t *engine_json(const struct finding *f)
{
    json_t *stages = json_array();

    for (unsigned i = 0; i < f->nstages; i++)
        json_array_append_new(stages,
                              json_pack("{s:s, s:b, s:s}", "name", f->stages[i].name, "passed",
                                        f->stages[i].passed, "why", f->stages[i].why));
    return json_pack("{s:s, s:b, s:s, s:s, s:o}", "name", f->engine->name, "usable", f->usable,
                     "why", f->usable ? f->engine->about : f->why.what, "next", f->why.next,
                     "stages", stages);
}

static int print_json(const struct host *h, const struct finding *found, size_t n)
{
    json_t *list = json_array(), *root;
    int r = -1;

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, engine_json(&found[i]));
    root = json_pack(
        "{s:s, s:o, s:{s:s, s:s, s:I, s:I, s:b, s:b, s:b, s:I, s:I, s:I, s:s, s:i, s:b, s:s}}",
        "version", LODGE_VERSION, "engines", list, "host", "kernel", h->kernel, "cpu", h->cpu,
        "cpus_online", (json_int_t)h->cpus_online, "cpus_usable", (json_int_t)h->cpus_usable, "vmx",
        h->vmx, "svm", h->svm, "hypervisor", h->hypervisor, "memory", (json_int_t)h->memory,
        "memory_available", (json_int_t)h->memory_available, "swap", (json_int_t)h->swap, "dev_kvm",
        h->kvm, "landlock", (int)h->landlock, "seccomp", h->seccomp, "shares", h->shares);
    if (root) {
        r = json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(root);
    return r;
}

int verb_doctor(const struct verb *verb, int argc, char **argv)
{
    struct finding found[MAX_ENGINES];
    struct doctor_opts opts;
    struct host host;
    bool usable = false;
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);
    size_t n;

    if (r >= 0)
        return r;
    host_read(&host);
    n = find_engines(found);
    for (size_t i = 0; i < n; i++)
        usable |= found[i].usable;
    if (strcmp(opts.format, "json"))
        print_text(&host, found, n);
    else if (print_json(&host, found, n)) {
        fprintf(stderr, "lodge: the findings cannot be written as JSON\n");
        usable = false;
    }
    for (size_t i = 0; i < n; i++)
        free(found[i].stages);
    r = cli_flush();
    return r ? r : usable ? CLI_OK : CLI_FAILED;
}
