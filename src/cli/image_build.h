/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge image build: what its parts promise each other. */
#ifndef LODGE_CLI_IMAGE_BUILD_H
#define LODGE_CLI_IMAGE_BUILD_H

#include "base/err.h"
#include "base/types.h"

#define RECIPE_SOURCES 8

/* What can be built: a release of Debian. */
struct recipe {
    const char *version, *codename; /* debian/VERSION; debian/CODENAME means the same */
    const char *security;           /* the suite of its security updates */
    const char *packages; /* beside those that every release gets; begins with ',' or is empty */
};

/* By the name of an image; NULL for what there is no recipe for. */
const struct recipe *recipe_find(const char *name);

/* What there are recipes for, as a list for people. */
extern const char recipe_names[];

/* All packages to install, with `more` (NULL: none) appended; malloc'd, NULL without memory. */
char *recipe_packages(const struct recipe *recipe, const char *more);

/* sh -c: sets up the system in the folder $1, which chroot can enter. */
extern const char recipe_setup[];

/*
 * sh -c: reads the system as a tar from standard input, makes an ext4 file
 * system of it in descriptor 3, and copies kernel and initrd to 4 and 5.
 */
extern const char recipe_pack[];

/* Lines of sources.list for mmdebstrap, and what else of the host's apt configuration it needs. */
struct apt_sources {
    char line[RECIPE_SOURCES][512];
    unsigned count;
    char proxy[2][320]; /* KEY=VALUE for the environment; empty: none */
    char option[2][96]; /* of apt; empty: none */
    bool fallback;      /* this host has no mirror of Debian configured: it is Debian's own */
};

/*
 * The release's suites on the mirror that this host's apt uses, or on `mirror`
 * (NULL: not given). -ENAMETOOLONG for one that is too long, -EINVAL for no URI.
 */
int apt_sources_find(const struct recipe *recipe, const char *mirror, struct apt_sources *out,
                     struct err *err);

#endif
