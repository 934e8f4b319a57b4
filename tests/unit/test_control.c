/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/control/control.c src/control/client.c src/control/proto.c src/control/conlog.c src/base/listen.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/client.h"
#include "control/conlog.h"
#include "control/control.h"
#include "core/vm.h"

#define WAIT_MS 60000

static char dir[64];
static struct vm vm = {.cfg = {.name = "guest"}};
static struct conlog console;
static struct control *control;
static int typed[2];
static _Atomic unsigned quits;

/* ---- Commands of this test ----------------------------------------------------- */

static int do_echo(struct control_call *call, struct err *err)
{
    return json_object_update(call->result, (json_t *)call->args);
}

static int do_fail(struct control_call *call, struct err *err)
{
    err_set(err, -EBUSY, "it is \"busy\"");
    return err_next(err, "Wait.");
}

static int do_big(struct control_call *call, struct err *err)
{
    char *text = malloc(200001);

    memset(text, 'x', 200000);
    text[200000] = '\0';
    json_object_set_new(call->result, "text", json_string(text));
    free(text);
    return 0;
}

static int do_quit(struct control_call *call, struct err *err)
{
    call->cfg->quit(call->cfg->opaque);
    return 0;
}

static int do_console(struct control_call *call, struct err *err)
{
    call->console = true;
    call->replay = proto_arg_bool(call->args, "replay", true);
    call->input = proto_arg_bool(call->args, "input", true);
    return 0;
}

static _Atomic bool job_go;
static _Atomic unsigned jobs_lost;

/* Until the test lets it go on, or it is of no use any more. */
static int do_job(struct control_call *call, struct err *err)
{
    while (!atomic_load(&job_go))
        if (!atomic_load(&call->gone)) {
            usleep(1000);
        } else {
            jobs_lost++;
            return err_set(err, -ECANCELED, "nobody waits any more");
        }
    return json_object_update(call->result, (json_t *)call->args);
}

static const struct proto_arg echo_args[] = {
    {"text", PROTO_STRING, true}, {"n", PROTO_INT, false}, {NULL}};
static const struct proto_arg console_args[] = {
    {"replay", PROTO_BOOL, false}, {"input", PROTO_BOOL, false}, {NULL}};

const struct control_command control_commands[] = {
    {"echo", echo_args, do_echo},
    {"fail", NULL, do_fail},
    {"big", NULL, do_big},
    {"quit", NULL, do_quit},
    {"console", console_args, do_console},
    {"job", echo_args, .job = do_job},
    {NULL},
};

/* ---- Helpers ------------------------------------------------------------------- */

static void quit(void *opaque)
{
    ++*(_Atomic unsigned *)opaque;
}

static int setup(void **state)
{
    struct control_config cfg = {
        .dir = dir, .vm = &vm, .console = &console, .quit = quit, .opaque = &quits};

    snprintf(dir, sizeof(dir), "/tmp/lodge-test-XXXXXX");
    if (!mkdtemp(dir) || pipe2(typed, O_NONBLOCK | O_CLOEXEC) ||
        conlog_init(&console, NULL, 0, NULL))
        return -1;
    cfg.console_in = typed[1];
    return control_new(&control, &cfg, NULL);
}

static int teardown(void **state)
{
    control_free(control);
    control = NULL;
    conlog_fini(&console);
    close(typed[0]);
    close(typed[1]);
    return rmdir(dir); /* fails when something is left in it */
}

static int dial(void)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/control", dir);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

/* Up to `size` bytes, or fewer when the other side ends; stops behind `last`. */
static size_t take(int fd, char *buf, size_t size, char last)
{
    size_t n = 0;

    while (n < size) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        ssize_t got;

        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        got = read(fd, buf + n, 1);
        if (got <= 0)
            break;
        n++;
        if (buf[n - 1] == last)
            break;
    }
    return n;
}

static const char *line(int fd)
{
    static char buf[4096];

    buf[take(fd, buf, sizeof(buf) - 1, '\n')] = '\0';
    return buf;
}

static void say(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static int dial_greeted(void)
{
    int fd = dial();

    assert_non_null(strstr(line(fd), "\"protocol\":1"));
    return fd;
}

static void print(const char *text)
{
    conlog_append(&console, (const uint8_t *)text, strlen(text));
}

/* ---- Requests ------------------------------------------------------------------- */

static void socket_is_private(void **state)
{
    char path[96];
    struct stat st;

    snprintf(path, sizeof(path), "%s/control", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void answers(void **state)
{
    int fd = dial_greeted();

    say(fd, "{\"id\":1,\"command\":\"echo\",\"arguments\":{\"text\":\"hi\"}}\n");
    assert_string_equal(line(fd), "{\"id\":1,\"ok\":true,\"result\":{\"text\":\"hi\"}}\n");
    say(fd, "{\"id\":\"b\",\"command\":\"fail\"}\n");
    assert_string_equal(line(fd), "{\"id\":\"b\",\"ok\":false,\"error\":{\"code\":\"EBUSY\","
                                  "\"what\":\"it is \\\"busy\\\"\",\"next\":\"Wait.\"}}\n");
    close(fd);
}

/* Many at once are answered in turn, also when the client has said all it has to say. */
static void requests_in_a_row(void **state)
{
    int fd = dial_greeted();

    for (int i = 0; i < 50; i++)
        say(fd, "{\"command\":\"echo\",\"arguments\":{\"text\":\"x\",\"n\":1}}\n");
    say(fd, "{\"command\":\"quit\"}\n");
    shutdown(fd, SHUT_WR);
    quits = 0;
    for (int i = 0; i < 50; i++)
        assert_non_null(strstr(line(fd), "\"n\":1"));
    assert_non_null(strstr(line(fd), "\"ok\":true"));
    assert_string_equal(line(fd), "");
    assert_int_equal(quits, 1);
    close(fd);
}

static void bad_requests(void **state)
{
    static const char *const bad[] = {
        "\n",
        "null\n",
        "[]\n",
        "{}\n",
        "{\"command\":1}\n",
        "{\"command\":\"echo\"}\n",
        "{\"command\":\"echo\",\"arguments\":{\"text\":1}}\n",
        "{\"command\":\"echo\",\"arguments\":{\"text\":\"\",\"more\":1}}\n",
        "{\"command\":\"echo\",\"arguments\":{\"text\":\"\"},\"arguments\":{}}\n",
        "{\"command\":\"echo\",\"arguments\":[]}\n",
        "{\"command\":\"quit\",\"id\":{}}\n",
        "{\"command\":\"none\"}\n",
        "{\"command\":\"quit\",\"x\":1}\n",
        "{\"command\":\"quit\"}}\n",
        "\xff\xfe\n",
    };
    int fd = dial_greeted();

    quits = 0;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        say(fd, bad[i]);
        assert_non_null(strstr(line(fd), "\"ok\":false"));
    }
    assert_int_equal(quits, 0);
    close(fd);
}

static void request_too_long(void **state)
{
    char *text = malloc(PROTO_REQUEST_MAX);
    int fd = dial_greeted();

    memset(text, 'x', PROTO_REQUEST_MAX);
    assert_int_equal(send(fd, text, PROTO_REQUEST_MAX, MSG_NOSIGNAL), PROTO_REQUEST_MAX);
    assert_non_null(strstr(line(fd), "E2BIG"));
    assert_string_equal(line(fd), "");
    close(fd);
    free(text);
}

/* Neither one that never reads nor one that never ends its request holds up another. */
static void slow_clients(void **state)
{
    int deaf = dial(), slow = dial_greeted(), fd = dial_greeted();

    fcntl(deaf, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 100000; i++)
        if (write(deaf, "{\"command\":\"big\"}\n", 18) < 0)
            break;
    say(slow, "{\"command\":");
    for (int i = 0; i < 20; i++) {
        say(fd, "{\"command\":\"fail\"}\n");
        assert_non_null(strstr(line(fd), "busy"));
    }
    say(slow, "\"fail\"}\n");
    assert_non_null(strstr(line(slow), "busy"));
    close(deaf);
    close(slow);
    close(fd);
}

/* One more than there is room for ends the one that has been idle longest. */
static void too_many_clients(void **state)
{
    int fds[40];

    for (int i = 0; i < 40; i++) {
        fds[i] = dial_greeted();
        say(fds[0], "{\"command\":\"fail\"}\n"); /* this one is not idle */
        assert_non_null(strstr(line(fds[0]), "busy"));
    }
    assert_string_equal(line(fds[1]), "");
    say(fds[39], "{\"command\":\"fail\"}\n");
    assert_non_null(strstr(line(fds[39]), "busy"));
    for (int i = 0; i < 40; i++)
        close(fds[i]);
}

/* ---- Consoles ------------------------------------------------------------------- */

static void console_stream(void **state)
{
    char buf[64] = "";
    int fd;

    print("before\n");
    fd = dial_greeted();
    say(fd, "{\"command\":\"console\"}\nab");
    assert_string_equal(line(fd), "{\"ok\":true,\"result\":{}}\n");
    assert_string_equal(line(fd), "before\n");
    print("after\n");
    assert_string_equal(line(fd), "after\n");
    take(typed[0], buf, 0, 0);
    for (int i = 0; i < 2; i++) {
        struct pollfd p = {.fd = typed[0], .events = POLLIN};

        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        assert_int_equal(read(typed[0], buf + i, 1), 1);
    }
    assert_string_equal(buf, "ab");
    /* What was said last gets there although nobody serves any more. */
    control_stop(control);
    print("last words\n");
    control_free(control);
    control = NULL;
    assert_string_equal(line(fd), "last words\n");
    assert_string_equal(line(fd), "");
    close(fd);
}

static void console_watch_only(void **state)
{
    struct pollfd p = {.fd = typed[0], .events = POLLIN};
    int fd;

    print("before\n");
    fd = dial_greeted();
    say(fd, "{\"command\":\"console\",\"arguments\":{\"replay\":false,\"input\":false}}\nab");
    assert_string_equal(line(fd), "{\"ok\":true,\"result\":{}}\n");
    print("after\n");
    assert_string_equal(line(fd), "after\n");
    assert_int_equal(poll(&p, 1, 0), 0);
    close(fd);
}

/* Who does not read loses something and is told; nobody waits for him. */
static void console_behind(void **state)
{
    static char text[CONLOG_RING + 100];
    int fd = dial_greeted(), lines = 0;
    bool told = false;

    say(fd, "{\"command\":\"console\"}\n");
    line(fd);
    memset(text, 'x', sizeof(text));
    for (size_t i = 63; i < sizeof(text); i += 64)
        text[i] = '\n';
    for (int i = 0; i < 20; i++)
        conlog_append(&console, (uint8_t *)text, sizeof(text));
    print("\nend\n");
    for (;;) {
        const char *l = line(fd);

        lines++;
        told |= strstr(l, "bytes lost]") != NULL;
        if (!strcmp(l, "end\n"))
            break;
        assert_true(lines < 200000);
    }
    assert_true(told);
    close(fd);
}

/* A guest that takes no input holds up the one who types, and nobody else. */
static void console_input_stuck(void **state)
{
    int fd = dial_greeted(), other = dial_greeted();
    char buf[4096];
    size_t sent = 0, got = 0;

    say(fd, "{\"command\":\"console\"}\n");
    line(fd);
    memset(buf, 'k', sizeof(buf));
    for (int i = 0; i < 200; i++) {
        ssize_t n = send(fd, buf, sizeof(buf), MSG_DONTWAIT);

        if (n > 0)
            sent += (size_t)n;
        else
            poll(NULL, 0, 1);
    }
    say(other, "{\"command\":\"fail\"}\n");
    assert_non_null(strstr(line(other), "busy"));
    while (got < sent) {
        struct pollfd p = {.fd = typed[0], .events = POLLIN};
        ssize_t n;

        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        n = read(typed[0], buf, sizeof(buf));
        assert_true(n > 0);
        got += (size_t)n;
    }
    assert_int_equal(got, sent);
    close(fd);
    close(other);
}

static void log_file(void **state)
{
    char path[96], text[64];
    struct conlog log;
    struct stat st;
    FILE *f;

    snprintf(path, sizeof(path), "%s/log", dir);
    assert_int_equal(conlog_init(&log, path, 1000, NULL), 0);
    for (int i = 0; i < 1000; i++) {
        int n = snprintf(text, sizeof(text), "line %d\n", i);

        conlog_append(&log, (uint8_t *)text, (size_t)n);
    }
    conlog_fini(&log);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size < 1000 && (st.st_mode & 07777) == 0600);
    f = fopen(path, "r");
    while (fgets(text, sizeof(text), f))
        ;
    fclose(f);
    assert_string_equal(text, "line 999\n");
    unlink(path);
    strcat(path, ".old");
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size >= 1000 && st.st_size < 1100);
    unlink(path);
}

/* ---- The client ----------------------------------------------------------------- */

static void client(void **state)
{
    struct client_conn conn;
    struct err err = {0};
    json_t *result;
    char buf[16];

    assert_int_equal(client_init(&conn, dir, &err), 0);
    assert_int_equal(client_ask(&conn, "echo", json_pack("{s:s}", "text", "hi"), &result, &err), 0);
    assert_string_equal(json_string_value(json_object_get(result, "text")), "hi");
    json_decref(result);
    assert_int_equal(client_ask(&conn, "big", NULL, NULL, &err), 0);
    assert_int_equal(client_ask(&conn, "fail", NULL, NULL, &err), -EBUSY);
    assert_string_equal(err.what, "it is \"busy\"");
    assert_string_equal(err.next, "Wait.");
    assert_int_equal(client_ask(&conn, "echo", NULL, &result, &err), -EINVAL);
    print("text");
    assert_int_equal(client_ask(&conn, "console", NULL, NULL, &err), 0);
    for (size_t n = client_rest(&conn, buf, sizeof(buf)); n < 4; n++)
        assert_int_equal(read(conn.fd, buf + n, 1), 1);
    assert_memory_equal(buf, "text", 4);
    client_fini(&conn);
    client_fini(&conn);
}

static void client_alone(void **state)
{
    struct client_conn conn;
    struct err err = {0};

    control_stop(control);
    assert_int_equal(client_init(&conn, dir, &err), -ENOENT);
    client_fini(&conn);
}

/* A job holds up nobody but who waits for it; there is one at a time, and it ends when nobody waits for it any more. */
static void jobs(void **state)
{
    int a = dial_greeted(), b = dial_greeted();

    atomic_store(&job_go, false);
    say(a, "{\"command\":\"job\",\"arguments\":{\"text\":\"one\"},\"id\":1}\n"
           "{\"command\":\"echo\",\"arguments\":{\"text\":\"two\"},\"id\":2}\n");
    say(b, "{\"command\":\"job\",\"arguments\":{}}\n");
    assert_non_null(strstr(line(b), "EINVAL"));
    say(b, "{\"command\":\"echo\",\"arguments\":{\"text\":\"here\"}}\n");
    assert_non_null(strstr(line(b), "here"));
    do
        say(b, "{\"command\":\"job\",\"arguments\":{\"text\":\"b\"}}\n");
    while (!strstr(line(b), "busy"));
    atomic_store(&job_go, true);
    assert_non_null(strstr(line(a), "one"));
    assert_non_null(strstr(line(a), "two"));
    atomic_store(&job_go, false);
    say(a, "{\"command\":\"job\",\"arguments\":{\"text\":\"lost\"}}\n");
    close(a);
    while (!atomic_load(&jobs_lost))
        usleep(1000);
    say(b, "{\"command\":\"job\",\"arguments\":{\"text\":\"never\"}}\n");
    say(b, "{\"command\":\"echo\",\"arguments\":{\"text\":\"x\"}}\n");
    control_stop(control);
    close(b);
}

/* A run directory whose path is too long for a socket. */
static void long_path(void **state)
{
    struct control_config cfg = {.vm = &vm, .quit = quit, .console_in = -1};
    struct client_conn conn;
    struct control *second;
    char deep[256], *end = deep + snprintf(deep, sizeof(deep), "%s/", dir);

    if (access("/proc/self/fd", F_OK))
        skip();
    memset(end, 'd', 120);
    end[120] = '\0';
    assert_int_equal(mkdir(deep, 0700), 0);
    cfg.dir = deep;
    assert_int_equal(control_new(&second, &cfg, NULL), 0);
    assert_int_equal(client_init(&conn, deep, NULL), 0);
    assert_int_equal(client_ask(&conn, "fail", NULL, NULL, NULL), -EBUSY);
    client_fini(&conn);
    control_free(second);
    assert_int_equal(rmdir(deep), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(socket_is_private),
        TEST(answers),
        TEST(requests_in_a_row),
        TEST(bad_requests),
        TEST(request_too_long),
        TEST(slow_clients),
        TEST(too_many_clients),
        TEST(console_stream),
        TEST(console_watch_only),
        TEST(console_behind),
        TEST(console_input_stuck),
        TEST(log_file),
        TEST(client),
        TEST(client_alone),
        TEST(long_path),
        TEST(jobs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
