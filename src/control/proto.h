/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The lines of the control socket, docs/control.md: requests taken apart, answers put together. */
#ifndef LODGE_CONTROL_PROTO_H
#define LODGE_CONTROL_PROTO_H

#include <jansson.h>

#include "base/err.h"
#include "base/types.h"

#define PROTO_VERSION     1
#define PROTO_REQUEST_MAX 65536u /* bytes of a request with its line feed */

struct proto_request {
    json_t *root, *id; /* id belongs to root; NULL: none was given */
    const char *command;
    json_t *args; /* an object of its own reference */
};

/*
 * Take apart a line of `len` bytes, without its line feed. 0; else -EINVAL, and *err says what is wrong with it. In either
 * case proto_request_fini drops what `req` holds, and req->id is set when one could be read.
 */
int proto_request_parse(struct proto_request *req, const char *line, size_t len, struct err *err);
void proto_request_fini(struct proto_request *req); /* idempotent */

/*
 * The answer to a request as a line, to be freed; NULL when there is no memory for it. `id` may be NULL. err: of a request
 * that failed; NULL: it did not, and `result` (an object, or NULL for an empty one) tells more.
 */
char *proto_answer(json_t *id, json_t *result, const struct err *err);

/* What the guest says first. */
char *proto_greeting(const char *guest);

/* The same as a line, of any object. */
char *proto_line(const json_t *object);

enum proto_type { PROTO_BOOL, PROTO_INT, PROTO_STRING };

/* An argument of a command. A table of them ends with name NULL. */
struct proto_arg {
    const char *name;
    enum proto_type type;
    bool required;
};

/* Are these the arguments that the table knows? -EINVAL with the reason when not. args NULL: none are known. */
int proto_args_check(const struct proto_arg *args, const json_t *given, struct err *err);

/* A boolean argument that proto_args_check has seen, or its default. */
bool proto_arg_bool(const json_t *given, const char *name, bool def);

#endif
