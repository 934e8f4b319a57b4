/* SPDX-License-Identifier: GPL-2.0-or-later */
/* "Did you mean ...?": the known word nearest to a mistyped one. */
#ifndef LODGE_CLI_SUGGEST_H
#define LODGE_CLI_SUGGEST_H

struct suggest {
    const char *word;
    const char *best; /* NULL while nothing is near enough */
    unsigned distance;
};

/* `word` and the candidates are not copied. */
void suggest_init(struct suggest *s, const char *word);
void suggest_try(struct suggest *s, const char *candidate);

#endif
