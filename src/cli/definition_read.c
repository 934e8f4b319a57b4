/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Definitions from YAML. Of YAML they need a mapping of texts and lists of texts; the rest is refused with its place. */
#include <errno.h>
#include <fcntl.h>
#include <libfyaml.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/definition.h"
#include "cli/registry.h"
#include "cli/run.h"
#include "cli/suggest.h"
#include "cli/verb.h"

struct reader {
    struct fy_parser *yaml;
    struct fy_diag *diag;
    struct definition *def;
    const char *where;
    struct fy_event *event; /* under consideration */
    int line, column; /* of the last one that has a place; a value that is not there has none */
    uint64_t seen[4]; /* options of run_opts met, and `name` */
    bool version;
    struct err *err;
};

static int wrong_at(struct reader *r, int line, int column, const char *what)
{
    return err_set(r->err, -EINVAL, "%s:%d:%d: %s", r->where, line, column, what);
}

/* Wrong at the event under consideration. */
static int wrong(struct reader *r, const char *what)
{
    return wrong_at(r, r->line, r->column, what);
}

/* What the library has found wrong with the text. */
static int broken(struct reader *r)
{
    struct fy_diag_error *e;
    void *prev = NULL;

    e = fy_diag_errors_iterate(r->diag, &prev);
    if (!e)
        return wrong_at(r, 1, 1, "this is not YAML");
    return wrong_at(r, e->line > 0 ? e->line : 1, e->column > 0 ? e->column : 1, e->msg);
}

/* The next event; FYET_NONE with the error set when there is none. */
static enum fy_event_type next(struct reader *r)
{
    fy_parser_event_free(r->yaml, r->event);
    r->event = fy_parser_parse(r->yaml);
    if (r->event && !fy_parser_get_stream_error(r->yaml)) {
        const struct fy_mark *mark = fy_event_start_mark(r->event);

        if (mark && r->event->type != FYET_STREAM_START) {
            r->line = mark->line + 1;
            r->column = mark->column + 1;
        }
        return r->event->type;
    }
    broken(r);
    return FYET_NONE;
}

static int next_is(struct reader *r, enum fy_event_type type, const char *what)
{
    enum fy_event_type got = next(r);

    if (got == type)
        return 0;
    return got == FYET_NONE ? -EINVAL : wrong(r, what);
}

/* The text of the scalar under consideration, to be freed; NULL with the error set. */
static char *scalar(struct reader *r)
{
    const char *text = NULL;
    size_t len = 0;

    if (r->event->type == FYET_SCALAR && r->event->scalar.value)
        text = fy_token_get_text(r->event->scalar.value, &len);
    if (!text || strnlen(text, len) != len) {
        wrong(r, r->event->type == FYET_ALIAS    ? "a definition has no aliases"
                 : r->event->type == FYET_SCALAR ? "this needs a value"
                                                 : "a text is expected here");
        return NULL;
    }
    return strndup(text, len);
}

/* ---- Options ------------------------------------------------------------------- */

/* Parsers say --name, which is not how it is written here. */
static int wrong_value(struct reader *r, const struct err *why)
{
    const char *what = why->what;

    wrong(r, what + (!strncmp(what, "--", 2) ? 2 : 0));
    if (why->next[0])
        err_next(r->err, "%s", why->next);
    return -EINVAL;
}

/* Try the value on a guest's options that are of no other use. */
static int check_value(struct reader *r, const struct opt_desc *opt, const char *val)
{
    struct run_opts scratch = {0};
    struct err why = {0};
    int rc = opt->parse(opt, val, (char *)&scratch + opt->field, &why);

    run_opts_fini(&scratch);
    return rc ? wrong_value(r, &why) : 0;
}

static int take_value(struct reader *r, const struct opt_desc *opt)
{
    int line = r->line, column = r->column;
    char *val = scalar(r);
    int rc = -EINVAL;

    if (!val)
        return rc;
    if (opt->arg) {
        rc = check_value(r, opt, val);
        if (!rc)
            rc = definition_add(r->def, opt, val, r->err);
    } else if (!strcmp(val, "true")) {
        rc = definition_add(r->def, opt, NULL, r->err);
    } else {
        rc = strcmp(val, "false") ? wrong(r, "this takes true or false") : 0;
    }
    if (!rc && r->def->count) {
        r->def->item[r->def->count - 1].line = line;
        r->def->item[r->def->count - 1].column = column;
    }
    free(val);
    return rc;
}

static int take_option(struct reader *r, const struct opt_desc *opt)
{
    enum fy_event_type type = next(r);
    int rc;

    if (type != FYET_SEQUENCE_START)
        return type == FYET_NONE ? -EINVAL : take_value(r, opt);
    if (!opt->many)
        return wrong(r, "this takes one value, not a list");
    for (;;) {
        type = next(r);
        if (type == FYET_SEQUENCE_END)
            return 0;
        rc = type == FYET_NONE ? -EINVAL : take_value(r, opt);
        if (rc)
            return rc;
    }
}

static int take_version(struct reader *r)
{
    char text[96], *val;
    bool right;

    if (next(r) == FYET_NONE)
        return -EINVAL;
    val = scalar(r);
    if (!val)
        return -EINVAL;
    right = !strcmp(val, "1");
    free(val);
    r->version = true;
    if (right)
        return 0;
    snprintf(text, sizeof(text), "this lodge reads version %d of definitions only",
             DEFINITION_VERSION);
    return wrong(r, text);
}

static int take_name(struct reader *r)
{
    struct err why = {0};

    if (next(r) == FYET_NONE)
        return -EINVAL;
    free(r->def->name);
    r->def->name = scalar(r);
    if (!r->def->name)
        return -EINVAL;
    return registry_check_name(r->def->name, &why) ? wrong_value(r, &why) : 0;
}

static int unknown_key(struct reader *r, const char *key)
{
    struct suggest s;
    char text[160];

    snprintf(text, sizeof(text), "a definition has no '%.80s'", key);
    wrong(r, text);
    suggest_init(&s, key);
    for (const struct opt_desc *o = run_opts; o->name; o++)
        if (!o->once)
            suggest_try(&s, o->name);
    suggest_try(&s, "name");
    if (s.best)
        err_next(r->err, "Did you mean %s?", s.best);
    return -EINVAL;
}

/* Met before? The bits of `seen` are in the order of run_opts. */
static bool met(struct reader *r, const struct opt_desc *opt)
{
    size_t bit = (size_t)(opt - run_opts) % (64 * ARRAY_SIZE(r->seen));
    uint64_t *word = &r->seen[bit / 64], mask = 1ull << bit % 64;
    bool was = *word & mask;

    *word |= mask;
    return was;
}

static int take_pair(struct reader *r, const char *key)
{
    const struct opt_desc *opt = opts_find(run_opts, key, strlen(key));
    bool is_name = opt && !strcmp(opt->name, "name");

    if (!strcmp(key, "lodge"))
        return r->version ? wrong(r, "the version is given twice") : take_version(r);
    if (!opt || (opt->once && !is_name))
        return unknown_key(r, key);
    if (met(r, opt))
        return wrong(r, "this option is given twice; several values are written as a list");
    return is_name ? take_name(r) : take_option(r, opt);
}

static int take_mapping(struct reader *r)
{
    for (;;) {
        enum fy_event_type type = next(r);
        char *key;
        int rc;

        if (type == FYET_MAPPING_END)
            return 0;
        key = type == FYET_NONE ? NULL : scalar(r);
        if (!key)
            return -EINVAL;
        rc = take_pair(r, key);
        free(key);
        if (rc)
            return rc;
    }
}

static int take_all(struct reader *r)
{
    int rc = next_is(r, FYET_STREAM_START, "this is not YAML");

    if (!rc)
        rc = next_is(r, FYET_DOCUMENT_START, "the definition is empty");
    if (!rc)
        rc = next_is(r, FYET_MAPPING_START, "a definition is a mapping, as in 'memory: 1G'");
    if (!rc)
        rc = take_mapping(r);
    if (!rc)
        rc = next_is(r, FYET_DOCUMENT_END, "nothing can follow a definition");
    if (!rc)
        rc = next_is(r, FYET_STREAM_END, "nothing can follow a definition");
    if (!rc && !r->version) {
        wrong_at(r, 1, 1, "the definition does not say its version");
        return err_next(r->err, "Begin it with a line 'lodge: %d'.", DEFINITION_VERSION);
    }
    return rc;
}

/* Together, the options have to make a guest. */
static int check_whole(struct reader *r)
{
    struct run_opts opts;
    struct err why = {0};
    int rc = definition_apply(r->def, &opts, sizeof(opts), &why);

    if (!rc) {
        opts.name = r->def->name;
        rc = run_opts_check(&opts, &why);
    }
    run_opts_fini(&opts);
    if (!rc)
        return 0;
    wrong_at(r, 1, 1, why.what);
    return why.next[0] ? err_next(r->err, "%s", why.next) : rc;
}

/* The length of the UTF-8 sequence at `s` (RFC 3629, section 4), 0: it is none. */
static size_t utf8_length(const uint8_t *s, size_t left)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

    if (!n || n > left || s[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

/*
 * Before the library sees it: text it is (YAML 1.2.2, section 5.1). libfyaml 0.7 reads on for ever where a directive that it
 * does not know is followed by bytes that are no UTF-8.
 */
static int check_text(struct reader *r, const char *text, size_t len)
{
    int line = 1, column = 1;
    size_t n;

    for (size_t at = 0; at < len; at += n) {
        const uint8_t *s = (const uint8_t *)text + at;

        n = utf8_length(s, len - at);
        if (!n)
            return wrong_at(r, line, column, "this is not UTF-8");
        if ((*s < ' ' && *s != '\t' && *s != '\n' && *s != '\r') || *s == 0x7f)
            return wrong_at(r, line, column, "a control character is no part of YAML");
        column = *s == '\n' ? 1 : column + 1;
        line += *s == '\n';
    }
    return 0;
}

int definition_parse(struct definition *def, const char *text, size_t len, const char *where,
                     struct err *err)
{
    struct err own = {0};
    struct reader r = {.def = def, .where = where, .line = 1, .column = 1, .err = err ? err : &own};
    struct fy_diag_cfg quiet;
    struct fy_parse_cfg cfg = {.flags = FYPCF_QUIET | FYPCF_JSON_NONE};
    int rc = -ENOMEM;

    definition_init(def);
    if (check_text(&r, text, len))
        return -EINVAL;
    fy_diag_cfg_default(&quiet);
    quiet.fp = NULL;
    quiet.level = FYET_MAX;
    cfg.diag = r.diag = fy_diag_create(&quiet);
    if (r.diag) {
        fy_diag_set_collect_errors(r.diag, true);
        r.yaml = fy_parser_create(&cfg);
    }
    if (!r.yaml || fy_parser_set_string(r.yaml, text, len))
        err_set(r.err, rc, "no memory to read %s", where);
    else
        rc = take_all(&r);
    if (!rc)
        rc = check_whole(&r);
    if (r.yaml) {
        fy_parser_event_free(r.yaml, r.event);
        fy_parser_destroy(r.yaml);
    }
    if (r.diag)
        fy_diag_destroy(r.diag);
    if (rc)
        definition_fini(def);
    return rc;
}

/* ---- Files --------------------------------------------------------------------- */

static ssize_t read_whole(int fd, char *buf, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = read(fd, buf + done, size - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (!n)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int definition_read(struct definition *def, const char *path, struct err *err)
{
    bool standard = !strcmp(path, "-");
    const char *where = standard ? "standard input" : path;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    char *text = malloc(DEFINITION_MAX + 1);
    ssize_t n = fd < 0 ? -errno : text ? read_whole(fd, text, DEFINITION_MAX + 1) : -ENOMEM;
    int r;

    definition_init(def);
    if (n < 0)
        r = err_set(err, (int)n, "cannot read %s: %s", where, strerror((int)-n));
    else if (n > (ssize_t)DEFINITION_MAX)
        r = err_set(err, -E2BIG, "%s is longer than a definition can be (%u bytes)", where,
                    DEFINITION_MAX);
    else
        r = definition_parse(def, text, (size_t)n, where, err);
    if (!standard && fd >= 0)
        close(fd);
    free(text);
    return r;
}
