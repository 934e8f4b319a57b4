/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge version, also `lodge --version`. */
#include <stdio.h>

#include "cli/verb.h"

int verb_version(const struct verb *verb, int argc, char **argv)
{
    int nargs, r = verb_parse(verb, NULL, 0, argc, argv, &nargs);

    if (r >= 0)
        return r;
    printf("lodge %s\n", LODGE_VERSION);
    return cli_flush();
}
