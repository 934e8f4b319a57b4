/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/control/proto.c src/base/err.c */
/* A line sent to the control socket: what is accepted is a request, and every answer is one line that can be read. */
#include <string.h>

#include "control/proto.h"
#include "fuzz_ops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const struct proto_arg args[] = {
    {"flag", PROTO_BOOL, false}, {"count", PROTO_INT, true}, {"text", PROTO_STRING, false}, {NULL}};

static void check_args(const json_t *given, struct err *err)
{
    const json_t *flag = json_object_get(given, "flag");

    if (proto_args_check(args, given, err))
        return;
    fuzz_check(json_is_integer(json_object_get(given, "count")));
    fuzz_check(!flag || json_is_boolean(flag));
    fuzz_check(proto_arg_bool(given, "flag", true) == !json_is_false(flag));
}

static void check_answer(json_t *id, const struct err *err)
{
    char *line = proto_answer(id, NULL, err);
    size_t len = line ? strlen(line) : 0;
    json_t *answer;

    fuzz_check(len && strchr(line, '\n') == line + len - 1);
    answer = json_loadb(line, len, 0, NULL);
    fuzz_check(json_is_true(json_object_get(answer, "ok")) == !err);
    fuzz_check(!id || json_equal(json_object_get(answer, "id"), id));
    json_decref(answer);
    free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct proto_request req;
    struct err err = {0};
    int r;

    if (len >= PROTO_REQUEST_MAX)
        return 0;
    r = proto_request_parse(&req, (const char *)data, len, &err);
    fuzz_check(r == (r ? err.code : 0));
    if (!r) {
        fuzz_check(req.command && json_is_object(req.args));
        check_args(req.args, &err);
    }
    check_answer(req.id, err.code ? &err : NULL);
    proto_request_fini(&req);
    return 0;
}
