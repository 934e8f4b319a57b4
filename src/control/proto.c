/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/proto.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int member_check(struct proto_request *req, const char *key, json_t *value, struct err *err)
{
    if (!strcmp(key, "command")) {
        if (!json_is_string(value))
            return err_set(err, -EINVAL, "'command' is not a string");
        req->command = json_string_value(value);
        return 0;
    }
    if (!strcmp(key, "arguments")) {
        if (!json_is_object(value))
            return err_set(err, -EINVAL, "'arguments' is not an object");
        req->args = json_incref(value);
        return 0;
    }
    if (!strcmp(key, "id")) {
        if (req->id)
            return 0;
        return err_set(err, -EINVAL, "'id' is neither a string nor an integer");
    }
    return err_set(err, -EINVAL, "a request has no '%.80s'", key);
}

int proto_request_parse(struct proto_request *req, const char *line, size_t len, struct err *err)
{
    json_error_t why;
    const char *key;
    json_t *value;
    int r = 0;

    memset(req, 0, sizeof(*req));
    req->root = json_loadb(line, len, JSON_REJECT_DUPLICATES, &why);
    if (!req->root)
        return err_set(err, -EINVAL, "the request is not JSON: %s at byte %d", why.text,
                       why.position);
    if (!json_is_object(req->root))
        return err_set(err, -EINVAL, "the request is not a JSON object");
    value = json_object_get(req->root, "id");
    if (json_is_string(value) || json_is_integer(value))
        req->id = value;
    json_object_foreach(req->root, key, value)
    {
        r = member_check(req, key, value, err);
        if (r)
            return r;
    }
    if (!req->command)
        return err_set(err, -EINVAL, "the request has no 'command'");
    if (!req->args)
        req->args = json_object();
    return req->args ? 0 : err_set(err, -ENOMEM, "no memory for the request");
}

void proto_request_fini(struct proto_request *req)
{
    json_decref(req->args);
    json_decref(req->root);
    memset(req, 0, sizeof(*req));
}

char *proto_line(const json_t *object)
{
    size_t len = json_dumpb(object, NULL, 0, JSON_COMPACT);
    char *line = len ? malloc(len + 2) : NULL;

    if (!line)
        return NULL;
    json_dumpb(object, line, len, JSON_COMPACT);
    line[len] = '\n';
    line[len + 1] = '\0';
    return line;
}

static json_t *error_object(const struct err *err)
{
    const char *code = strerrorname_np(-err->code);
    json_t *o = json_pack("{s:s, s:s}", "code", code ? code : "EIO", "what", err->what);

    if (o && err->next[0])
        json_object_set_new(o, "next", json_string(err->next));
    return o;
}

/* Error texts quote what the other side sent, and a cut may fall into the middle of a character. */
static json_t *error_or_less(const struct err *err)
{
    json_t *o = error_object(err);

    if (o)
        return o;
    return json_pack("{s:s, s:s}", "code", "EINVAL", "what",
                     "what is wrong cannot be written as UTF-8");
}

char *proto_answer(json_t *id, json_t *result, const struct err *err)
{
    json_t *o = json_object();
    char *line = NULL;

    if (!o)
        return NULL;
    if (id)
        json_object_set(o, "id", id);
    json_object_set_new(o, "ok", json_boolean(!err));
    if (err)
        json_object_set_new(o, "error", error_or_less(err));
    else if (result)
        json_object_set(o, "result", result);
    else
        json_object_set_new(o, "result", json_object());
    if (json_object_get(o, err ? "error" : "result"))
        line = proto_line(o);
    json_decref(o);
    return line;
}

char *proto_greeting(const char *guest)
{
    json_t *o = json_pack("{s:s, s:i, s:s}", "lodge", LODGE_VERSION, "protocol", PROTO_VERSION,
                          "guest", guest);
    char *line = o ? proto_line(o) : NULL;

    json_decref(o);
    return line;
}

static bool has_type(const json_t *value, enum proto_type type)
{
    switch (type) {
    case PROTO_BOOL:
        return json_is_boolean(value);
    case PROTO_INT:
        return json_is_integer(value);
    case PROTO_STRING:
        return json_is_string(value);
    }
    return false;
}

static const struct proto_arg *arg_named(const struct proto_arg *args, const char *name)
{
    for (; args && args->name; args++)
        if (!strcmp(args->name, name))
            return args;
    return NULL;
}

int proto_args_check(const struct proto_arg *args, const json_t *given, struct err *err)
{
    static const char *const types[] = {
        [PROTO_BOOL] = "boolean", [PROTO_INT] = "integer", [PROTO_STRING] = "string"};
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)given, key, value)
    {
        const struct proto_arg *arg = arg_named(args, key);

        if (!arg)
            return err_set(err, -EINVAL, "the command has no argument '%.80s'", key);
        if (!has_type(value, arg->type))
            return err_set(err, -EINVAL, "the argument '%s' is a %s", key, types[arg->type]);
    }
    for (; args && args->name; args++)
        if (args->required && !json_object_get(given, args->name))
            return err_set(err, -EINVAL, "the command needs the argument '%s'", args->name);
    return 0;
}

bool proto_arg_bool(const json_t *given, const char *name, bool def)
{
    const json_t *value = json_object_get(given, name);

    return value ? json_is_true(value) : def;
}
