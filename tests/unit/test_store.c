/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/cli/store.c src/cli/store_manifest.c src/base/sha256.c src/base/err.c src/base/log.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/store.h"

static struct store store;

static int make_top(void **state)
{
    static char top[] = "/tmp/lodge-test-XXXXXX";

    if (!mkdtemp(top) || setenv("LODGE_DATA", top, 1))
        return -1;
    log_set_level(LOG_ERROR);
    *state = top;
    return store_open(&store, NULL);
}

static int remove_top(void **state)
{
    store_remove_tree(*state);
    return access(*state, F_OK) ? 0 : -1;
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_int_equal(fputs(text, f) < 0, 0);
    assert_int_equal(fclose(f), 0);
}

static bool exists(const char *path)
{
    struct stat st;

    return !lstat(path, &st);
}

/* Begins with an image; *hold keeps it. */
static void begin_image(const char *name, char dir[STORE_PATH], int *hold)
{
    struct store_image im = {.size = GIB(1), .format = "raw", .seed = STORE_SEED_LODGE};
    char disk[STORE_PATH + 8];

    *hold = store_begin(&store, store.images, dir, NULL);
    assert_true(*hold >= 0);
    snprintf(im.name, sizeof(im.name), "%s", name);
    strcpy(im.disk.name, "disk.raw");
    strcpy(im.append, "root=/dev/vda");
    strcpy(im.user, "debian");
    strcpy(im.kernel.name, "vmlinuz");
    store_new_id(im.id);
    store_now(im.created);
    snprintf(disk, sizeof(disk), "%s/disk.raw", dir);
    write_file(disk, "x");
    assert_int_equal(store_sum(disk, im.disk.sha256, NULL), 0);
    assert_int_equal(store_write_manifest(dir, &im, NULL), 0);
}

static int commit(const char *name, const char *dir, bool replace)
{
    char path[STORE_PATH];
    int lock = store_lock(&store, NULL), r;

    assert_true(lock >= 0);
    store_image_path(&store, name, "", path);
    r = store_commit_locked(&store, store.images, dir, path, replace, NULL);
    close(lock);
    return r;
}

static void make_image(const char *name)
{
    char dir[STORE_PATH];
    int hold;

    begin_image(name, dir, &hold);
    assert_int_equal(commit(name, dir, false), 0);
    close(hold);
}

static void drop(const char *name)
{
    char path[STORE_PATH];
    int lock = store_lock(&store, NULL);

    store_image_path(&store, name, "", path);
    assert_int_equal(store_drop_locked(store.images, path, NULL), 0);
    close(lock);
    assert_false(exists(path));
}

static void names(void **state)
{
    static const char *const good[][2] = {{"debian/12", "debian/12"},
                                          {"debian:12", "debian/12"},
                                          {"a", "a"},
                                          {"me/web_1/v1.2-3", "me/web_1/v1.2-3"},
                                          {"me/web:v1", "me/web/v1"}};
    static const char *const bad[] = {"",     "/",    "a/",  "/a",      "a//b",     "a/.b",
                                      "..",   "../a", "A/b", "a b",     "a@b",      "-a",
                                      "a/-b", "a:",   "a\n", "a/b/c/d", "\xc3\xa4", "_a"};
    char name[STORE_NAME_MAX + 1], longest[STORE_NAME_MAX + 2];

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_int_equal(store_name(good[i][0], name, NULL), 0);
        assert_string_equal(name, good[i][1]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(store_name(bad[i], name, NULL), -EINVAL);
    memset(longest, 'a', sizeof(longest) - 1);
    longest[STORE_NAME_MAX + 1] = '\0';
    assert_int_equal(store_name(longest, name, NULL), -EINVAL);
    longest[STORE_NAME_MAX] = '\0';
    assert_int_equal(store_name(longest, name, NULL), 0);
}

static void found_as_written(void **state)
{
    struct store_image im;
    struct err err = {0};

    make_image("debian/12");
    assert_int_equal(store_find(&store, "debian/12", &im, &err), 0);
    assert_string_equal(im.name, "debian/12");
    assert_int_equal(strlen(im.id), STORE_ID - 1);
    assert_int_equal(im.size, GIB(1));
    assert_string_equal(im.disk.name, "disk.raw");
    assert_string_equal(im.disk.sha256,
                        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881");
    assert_string_equal(im.kernel.name, "vmlinuz");
    assert_string_equal(im.initrd.name, "");
    assert_string_equal(im.append, "root=/dev/vda");
    assert_int_equal(im.seed, STORE_SEED_LODGE);
    /* By its group, as long as it is the only one. */
    assert_int_equal(store_find(&store, "debian", &im, &err), 0);
    assert_string_equal(im.name, "debian/12");
    assert_int_equal(store_find(&store, "deb", &im, &err), -ENOENT);
    assert_non_null(strstr(err.next, "debian/12"));
    make_image("debian/13");
    assert_int_equal(store_find(&store, "debian", &im, &err), -ENOENT);
    assert_non_null(strstr(err.what, "several"));
    drop("debian/12");
    assert_int_equal(store_find(&store, "debian", &im, &err), 0);
    assert_string_equal(im.name, "debian/13");
    drop("debian/13");
    assert_int_equal(store_find(&store, "debian", &im, &err), -ENOENT);
    assert_non_null(strstr(err.next, "lodge image build"));
}

static void names_are_taken(void **state)
{
    struct store_image im;
    char dir[STORE_PATH], old[STORE_ID];
    int hold;

    make_image("a");
    assert_int_equal(store_find(&store, "a", &im, NULL), 0);
    strcpy(old, im.id);
    begin_image("a", dir, &hold);
    assert_int_equal(commit("a", dir, false), -EEXIST);
    assert_int_equal(store_find(&store, "a", &im, NULL), 0);
    assert_string_equal(im.id, old);
    assert_int_equal(commit("a", dir, true), 0);
    close(hold);
    assert_int_equal(store_find(&store, "a", &im, NULL), 0);
    assert_string_not_equal(im.id, old);
    drop("a");
}

/* What a killed build has left goes with the next change; what one is still at stays. */
static void sweeping(void **state)
{
    char held[STORE_PATH], left[STORE_PATH];
    struct store_image *list;
    int hold, gone;
    size_t n;

    begin_image("b", held, &hold);
    begin_image("c", left, &gone);
    assert_int_equal(store_list(&store, &list, &n, NULL), 0);
    assert_int_equal(n, 0);
    free(list);
    close(gone);
    assert_true(exists(left));
    close(store_lock(&store, NULL));
    assert_false(exists(left));
    assert_true(exists(held));
    assert_int_equal(commit("b", held, false), 0);
    close(hold);
    close(store_lock(&store, NULL));
    assert_int_equal(store_list(&store, &list, &n, NULL), 0);
    assert_int_equal(n, 1);
    free(list);
    drop("b");
}

static void damaged_manifests(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{",
        "{}",
        "{\"name\":\"other\",\"size\":1,\"seed\":\"none\",\"disk\":{\"file\":\"d\",\"format\":"
        "\"raw\"}}",
        "{\"name\":\"d\",\"size\":0,\"seed\":\"none\",\"disk\":{\"file\":\"d\",\"format\":\"raw\"}"
        "}",
        "{\"name\":\"d\",\"size\":1,\"seed\":\"what\",\"disk\":{\"file\":\"d\",\"format\":\"raw\"}"
        "}",
        "{\"name\":\"d\",\"size\":1,\"seed\":\"none\",\"disk\":{\"file\":\"../"
        "d\",\"format\":\"raw\"}}",
        "{\"name\":\"d\",\"size\":1,\"seed\":\"none\",\"disk\":{\"file\":\".d\",\"format\":\"raw\"}"
        "}",
        "{\"name\":\"d\",\"size\":1,\"seed\":\"none\",\"disk\":{\"file\":\"d\",\"format\":\"vdi\"}"
        "}",
        "{\"name\":\"d\",\"size\":1,\"seed\":\"none\",\"disk\":{\"format\":\"raw\"}}",
        "{\"name\":\"d\",\"size\":1,\"seed\":\"none\",\"disk\":{\"file\":1,\"format\":\"raw\"}}",
        "{\"name\":\"d\",\"size\":1,\"seed\":\"none\",\"append\":\"a\\u0000b\","
        "\"disk\":{\"file\":\"d\",\"format\":\"raw\"}}",
    };
    static const char good[] = "{\"name\":\"d\",\"size\":1,\"seed\":\"none\",\"disk\":{\"file\":"
                               "\"d\",\"format\":\"raw\"}}";
    char path[STORE_PATH];
    struct store_image im, *list;
    struct err err;
    size_t n;

    make_image("d");
    store_image_path(&store, "d", "manifest.json", path);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        write_file(path, bad[i]);
        err = (struct err){0};
        assert_int_equal(store_find(&store, "d", &im, &err), -EINVAL);
        assert_true(err.what[0] != '\0');
        assert_int_equal(store_list(&store, &list, &n, NULL), 0);
        assert_int_equal(n, 0);
        free(list);
    }
    write_file(path, good);
    assert_int_equal(store_find(&store, "d", &im, NULL), 0);
    drop("d");
}

static void users(void **state)
{
    char path[STORE_PATH], text[64], tiny[8];

    assert_int_equal(store_users(&store, "e/1", text, sizeof(text)), 0);
    assert_string_equal(text, "");
    snprintf(path, sizeof(path), "%s/web", store.guests);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(store_users(&store, "e/1", text, sizeof(text)), 0);
    snprintf(path, sizeof(path), "%s/web/guest.json", store.guests);
    write_file(path, "{\"image\": \"e/1\"}");
    assert_int_equal(store_users(&store, "e/1", text, sizeof(text)), 1);
    assert_string_equal(text, "web");
    assert_int_equal(store_users(&store, "e/2", text, sizeof(text)), 0);
    snprintf(path, sizeof(path), "%s/a-long-name", store.guests);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/a-long-name/guest.json", store.guests);
    write_file(path, "{\"image\": \"e/1\"}");
    assert_int_equal(store_users(&store, "e/1", tiny, sizeof(tiny)), 2);
    assert_true(strlen(tiny) < sizeof(tiny));
}

/* A link in a folder is removed, not what it points to. */
static void trees(void **state)
{
    char top[] = "/tmp/lodge-test-XXXXXX", path[64], keep[] = "/tmp/lodge-test-XXXXXX";
    int fd = mkstemp(keep);

    assert_true(fd >= 0);
    close(fd);
    assert_non_null(mkdtemp(top));
    snprintf(path, sizeof(path), "%s/link", top);
    assert_int_equal(symlink(keep, path), 0);
    snprintf(path, sizeof(path), "%s/to-root", top);
    assert_int_equal(symlink("/", path), 0);
    snprintf(path, sizeof(path), "%s/folder", top);
    assert_int_equal(mkdir(path, 0700), 0);
    store_remove_tree(top);
    assert_false(exists(top));
    assert_true(exists(keep));
    unlink(keep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(found_as_written),
        cmocka_unit_test(names_are_taken),
        cmocka_unit_test(sweeping),
        cmocka_unit_test(damaged_manifests),
        cmocka_unit_test(users),
        cmocka_unit_test(trees),
    };

    return cmocka_run_group_tests(tests, make_top, remove_top);
}
