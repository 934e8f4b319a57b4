/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/suggest.h"

#include <limits.h>
#include <string.h>

#define MAX_WORD 32

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    unsigned m = a < b ? a : b;

    return m < c ? m : c;
}

/* Edits (insert, delete, replace, swap neighbours) that turn a into b; UINT_MAX when a word is too long. */
static unsigned edit_distance(const char *a, const char *b)
{
    unsigned d[MAX_WORD + 1][MAX_WORD + 1];
    size_t la = strlen(a), lb = strlen(b);

    if (la > MAX_WORD || lb > MAX_WORD)
        return UINT_MAX;
    for (unsigned i = 0; i <= la; i++)
        d[i][0] = i;
    for (unsigned j = 0; j <= lb; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= la; i++) {
        for (size_t j = 1; j <= lb; j++) {
            d[i][j] =
                min3(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < d[i][j])
                d[i][j] = d[i - 2][j - 2] + 1;
        }
    }
    return d[la][lb];
}

void suggest_init(struct suggest *s, const char *word)
{
    s->word = word;
    s->best = NULL;
    s->distance = strlen(word) <= 4 ? 1 : 2;
}

void suggest_try(struct suggest *s, const char *candidate)
{
    size_t len = strlen(s->word);
    unsigned d = edit_distance(s->word, candidate);

    /* The beginning of a longer word is what people type who are used to abbreviating. */
    if (len >= 2 && !strncmp(s->word, candidate, len))
        d = 1;
    if (d < s->distance || (d == s->distance && !s->best)) {
        s->distance = d;
        s->best = candidate;
    }
}
