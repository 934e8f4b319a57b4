/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;

    if (!e)
        return code;
    e->code = code;
    e->next[0] = '\0';
    va_start(ap, fmt);
    vsnprintf(e->what, sizeof(e->what), fmt, ap);
    va_end(ap);
    return code;
}

int err_next(struct err *e, const char *fmt, ...)
{
    va_list ap;

    if (!e)
        return 0;
    va_start(ap, fmt);
    vsnprintf(e->next, sizeof(e->next), fmt, ap);
    va_end(ap);
    return e->code;
}

void err_report(const struct err *e)
{
    fprintf(stderr, "lodge: %s\n", e->what);
    if (e->next[0])
        fprintf(stderr, "  %s\n", e->next);
}
