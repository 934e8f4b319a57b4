/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An error a person must understand: what happened, why, and what to do next.
 * Functions that can fail that way take `struct err *` last and return a
 * negative errno; the error is printed once, by whoever consumes it.
 */
#ifndef LODGE_BASE_ERR_H
#define LODGE_BASE_ERR_H

struct err {
    int code;       /* negative errno, 0 while unset */
    char what[512]; /* what happened and the cause */
    char next[256]; /* what the user can do; empty when there is nothing to say */
};

/*
 * Fill `e` (which may be NULL) and return `code`, so that `return err_set(...)`
 * reads well. A later call replaces an earlier one.
 */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Add the next step to an error that is already set; returns e->code. */
int err_next(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Print "lodge: WHAT" and, when there is one, "  NEXT" to standard error. */
void err_report(const struct err *e);

#endif
