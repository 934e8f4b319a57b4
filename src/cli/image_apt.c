/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge image build: packages come from where this host's own come from. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/image_build.h"

/* Where Debian itself says that packages are, for hosts that are something else. */
#define DEBIAN          "http://deb.debian.org/debian"
#define DEBIAN_SECURITY "http://deb.debian.org/debian-security"

/* Standard output of a command, a line at a time. */
static void each_line(const char *command, void (*line)(void *opaque, char *text), void *opaque)
{
    FILE *f = popen(command, "re");
    char text[1024];

    while (f && fgets(text, sizeof(text), f)) {
        text[strcspn(text, "\n")] = '\0';
        line(opaque, text);
    }
    if (f)
        pclose(f);
}

static bool is_uri(const char *text)
{
    const char *colon = strstr(text, ":/");

    return colon && colon > text && !strpbrk(text, " \t\n[]\"'");
}

static int add(struct apt_sources *out, const char *uri, const char *suite, struct err *err)
{
    char line[sizeof(out->line[0])];

    if (snprintf(line, sizeof(line), "deb %s %s main", uri, suite) >= (int)sizeof(line))
        return err_set(err, -ENAMETOOLONG, "the address of the mirror is too long: %.100s", uri);
    for (unsigned i = 0; i < out->count; i++)
        if (!strcmp(out->line[i], line))
            return 0;
    if (out->count < RECIPE_SOURCES)
        strcpy(out->line[out->count++], line);
    return 0;
}

/* The suite that the release has in the place of one of the host's. */
struct sources_scan {
    const struct recipe *recipe;
    struct apt_sources *out;
    bool archive; /* a source of the release itself was found */
};

/* "URI SUITE COMPONENT": one of the host's sources. */
static void scan_line(void *opaque, char *text)
{
    static const char *const known[] = {"bullseye", "bookworm", "trixie"};
    struct sources_scan *scan = opaque;
    char *uri = strtok(text, " "), *suite = strtok(NULL, " "), *component = strtok(NULL, " ");
    char mapped[64];

    if (!uri || !suite || !component || strcmp(component, "main") != 0 || !is_uri(uri))
        return;
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        size_t n = strlen(known[i]);

        if (strncmp(suite, known[i], n) != 0)
            continue;
        if (!suite[n]) {
            scan->archive = true;
            add(scan->out, uri, scan->recipe->codename, NULL);
        } else if (!strcmp(suite + n, "-security")) {
            add(scan->out, uri, scan->recipe->security, NULL);
        } else if (!strcmp(suite + n, "-updates")) {
            snprintf(mapped, sizeof(mapped), "%s-updates", scan->recipe->codename);
            add(scan->out, uri, mapped, NULL);
        }
    }
}

/* KEY='VALUE' as apt-config prints it, of what decides whether packages can be had at all. */
static void scan_config(void *opaque, char *text)
{
    static const struct {
        const char *key, *env, *option;
    } table[] = {
        {"HTTP='", "http_proxy=", NULL},
        {"HTTPS='", "https_proxy=", NULL},
        {"VALID='", NULL, "Acquire::Check-Valid-Until \"false\""},
        {"DATE='", NULL, "Acquire::Check-Date \"false\""},
    };
    struct apt_sources *out = opaque;
    size_t end = strlen(text);

    if (end && text[end - 1] == '\'')
        text[end - 1] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        const char *value = text + strlen(table[i].key);

        if (strncmp(text, table[i].key, strlen(table[i].key)) != 0)
            continue;
        if (table[i].env && *value && strcmp(value, "DIRECT") != 0)
            snprintf(out->proxy[i], sizeof(out->proxy[i]), "%s%s", table[i].env, value);
        if (table[i].option && !strcmp(value, "false"))
            strcpy(out->option[i - 2], table[i].option);
    }
}

int apt_sources_find(const struct recipe *recipe, const char *mirror, struct apt_sources *out,
                     struct err *err)
{
    struct sources_scan scan = {.recipe = recipe, .out = out};

    memset(out, 0, sizeof(*out));
    each_line("apt-config shell HTTP Acquire::http::Proxy HTTPS Acquire::https::Proxy "
              "VALID Acquire::Check-Valid-Until DATE Acquire::Check-Date 2>/dev/null",
              scan_config, out);
    if (mirror && !is_uri(mirror)) {
        err_set(err, -EINVAL, "'%.200s' is not the address of a mirror", mirror);
        return err_next(err, "It is like http://deb.debian.org/debian.");
    }
    if (mirror)
        return add(out, mirror, recipe->codename, err);
    each_line("apt-get indextargets --no-release-info --format "
              "'$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null",
              scan_line, &scan);
    if (scan.archive)
        return 0;
    out->count = 0;
    out->fallback = true;
    add(out, DEBIAN, recipe->codename, err);
    return add(out, DEBIAN_SECURITY, recipe->security, err);
}
