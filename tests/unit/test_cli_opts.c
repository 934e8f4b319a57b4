/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/cli/opts.c src/cli/image_opts.c src/cli/life_opts.c src/cli/size.c src/cli/suggest.c src/cli/run_opts.c src/cli/shares.c src/cli/cgroup.c src/cli/disk_opts.c src/cli/net_opts.c src/cli/limit_opts.c src/net/publish.c
 *       src/net/user_config.c src/net/switch.c src/net/switch_wire.c src/net/frame.c src/cli/store.c src/cli/registry.c
 *       src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/image.h"
#include "cli/registry.h"
#include "cli/run.h"
#include "cli/suggest.h"
#include "cli/verb.h"

struct parsed {
    struct run_opts opts;
    struct err err;
    enum opts_result result;
    int nargs;
    char *argv[64];
};

/* The words up to NULL, parsed by the table of `lodge run`. */
static struct parsed *parse(struct parsed *p, ...)
{
    int argc = 0;
    va_list ap;

    memset(p, 0, sizeof(*p));
    va_start(ap, p);
    while ((p->argv[argc] = va_arg(ap, char *))) {
        argc++;
        assert_true(argc < (int)ARRAY_SIZE(p->argv));
    }
    va_end(ap);
    p->result = opts_parse(run_opts, &p->opts, sizeof(p->opts), argc, p->argv, &p->nargs, &p->err);
    return p;
}

#define PARSE(p, ...) parse(p, __VA_ARGS__ __VA_OPT__(, ) NULL)

static void defaults(void **state)
{
    struct parsed p;

    PARSE(&p);
    assert_int_equal(p.result, OPTS_OK);
    run_opts_fill(&p.opts);
    assert_int_equal(p.opts.cpus, 1);
    assert_int_equal(p.opts.memory, MIB(512));
    assert_string_equal(p.opts.engine, "auto");
    assert_string_equal(p.opts.console, "stdio");
    assert_int_equal(p.opts.escape, 0x1d);
    assert_null(p.opts.kernel);
    assert_null(p.opts.append);
    assert_false(p.opts.no_reboot || p.opts.test_devices || p.opts.stats || p.opts.quiet);
}

static void every_form(void **state)
{
    struct parsed p;

    PARSE(&p, "--kernel", "k", "--initrd=i", "-c", "4", "-m2GiB", "-q", "--append=a=b c", "--stats",
          "--name", "n", "--no-reboot", "--test-devices", "--escape=ctrl-a", "--console", "none");
    assert_int_equal(p.result, OPTS_OK);
    assert_string_equal(p.opts.kernel, "k");
    assert_string_equal(p.opts.initrd, "i");
    assert_string_equal(p.opts.append, "a=b c");
    assert_string_equal(p.opts.name, "n");
    assert_string_equal(p.opts.console, "none");
    assert_int_equal(p.opts.cpus, 4);
    assert_int_equal(p.opts.memory, GIB(2));
    assert_int_equal(p.opts.escape, 1);
    assert_true(p.opts.no_reboot && p.opts.test_devices && p.opts.stats && p.opts.quiet);
    PARSE(&p, "-qc2", "-m=64", "--append", "");
    assert_int_equal(p.result, OPTS_OK);
    assert_true(p.opts.quiet);
    assert_int_equal(p.opts.cpus, 2);
    assert_int_equal(p.opts.memory, MIB(64));
    assert_string_equal(p.opts.append, "");
    PARSE(&p, "-c", "2", "--cpus=3");
    assert_int_equal(p.opts.cpus, 3);
}

static void arguments(void **state)
{
    struct parsed p;

    PARSE(&p, "one", "-q", "-", "--", "--stats", "-q");
    assert_int_equal(p.result, OPTS_OK);
    assert_int_equal(p.nargs, 4);
    assert_string_equal(p.argv[0], "one");
    assert_string_equal(p.argv[1], "-");
    assert_string_equal(p.argv[2], "--stats");
    assert_string_equal(p.argv[3], "-q");
    assert_false(p.opts.stats);
}

static void help_anywhere(void **state)
{
    struct parsed p;

    assert_int_equal(PARSE(&p, "--help")->result, OPTS_HELP);
    assert_int_equal(PARSE(&p, "--kernel", "x", "-h")->result, OPTS_HELP);
    assert_int_equal(PARSE(&p, "-qh")->result, OPTS_HELP);
}

static void wrong_usage(void **state)
{
    static char *const table[][2] = {
        {"--cpus=0"},
        {"--cpus=65"},
        {"--cpus=10000"},
        {"-c", "-1"},
        {"--cpus=2x"},
        {"--cpus="},
        {"-c", "+2"},
        {"-c", "99999999999999999999"},
        {"-m", "0"},
        {"-m", "1MiB"},
        {"-m", "31M"},
        {"--memory=many"},
        {"--memory", "9999999999999999T"},
        {"--engine=qemu"},
        {"--engine="},
        {"--engine=auto|soft"},
        {"--console=tty"},
        {"--escape=x"},
        {"--escape="},
        {"--escape=^"},
        {"--escape=^1"},
        {"--escape=^]x"},
        {"--kernel="},
        {"--initrd", ""},
        {"--kernel"},
        {"-c"},
        {"--stats=yes"},
        {"--nothing"},
        {"-x"},
        {"-qx"},
        {"--kern", "k"},
        {"---"},
        {"--=x"},
        {"--disk="},
        {"--disk=,ro"},
        {"--disk=a,rw"},
        {"--disk=a,"},
        {"--disk=a,serial=123456789012345678901"},
        {"--disk=a,serial"},
        {"--disk=a,cache"},
        {"--disk=a,cache=on"},
        {"--disk=a,aio=native"},
        {"--disk=a,iops=0"},
        {"--disk=a,iops=10K"},
        {"--disk=a,bps=fast"},
        {"--disk=a,bps_rd=99999999999999999999"},
        {"--disk=vhost-user="},
        {"--disk=vhost-user=s,cache=none"},
        {"--limit=disk0"},
        {"--limit=disk0,"},
        {"--limit=disk,iops=1"},
        {"--limit=disk16,iops=1"},
        {"--limit=disk00,iops=1"},
        {"--limit=disk0x,iops=1"},
        {"--limit=sda,iops=1"},
        {"--limit=disk0,iops"},
        {"--limit=disk0,iops=0"},
        {"--limit=disk0,rate=1M"},
        {"--limit=disk0,none,iops=1"},
        {"--limit=net4,rate=1M"},
        {"--limit=net0,iops=1"},
        {"--limit=net0,rate=fast"},
        {"--limit=net0,burst=1M"},
        {"--port=agent"},
        {"--port=agent="},
        {"--port==path"},
        {"--port=a/b=path"},
        {"--rng=maybe"},
    };
    struct parsed p;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        PARSE(&p, table[i][0], table[i][1]);
        if (p.result != OPTS_BAD || !p.err.what[0] || !p.err.code)
            fail_msg("'%s %s' was taken", table[i][0], table[i][1] ? table[i][1] : "");
        run_opts_fini(&p.opts);
    }
}

/* The last for a device counts, and for all that may be limited there. */
static void limits_of_devices(void **state)
{
    struct parsed p;
    struct run_opts *o = &p.opts;
    struct vm_disk *d = o->disks.disk;

    PARSE(&p, "--disk=a,iops=7,bps=1M", "--disk=b,iops=8", "--net=user,rate=1M",
          "--limit=disk1,bps_rd=2M,iops_wr=3", "--limit=disk0,iops=1", "--limit=disk0,bps=5",
          "--limit=net0,rate_in=10K,burst=1K");
    assert_int_equal(p.result, OPTS_OK);
    assert_int_equal(o->limits.count, 3);
    assert_int_equal(limits_check(&o->limits, 2, 1, &p.err), 0);
    assert_int_equal(limits_check(&o->limits, 1, 1, &p.err), -EINVAL);
    assert_non_null(strstr(p.err.what, "disk1"));
    assert_int_equal(limits_check(&o->limits, 2, 0, &p.err), -EINVAL);
    assert_non_null(strstr(p.err.what, "net0"));
    limits_apply(&o->limits, d, o->nets.net);
    assert_true(!d[0].image.limit[BLOCK_IOPS] && d[0].image.limit[BLOCK_BPS] == 5);
    assert_true(!d[1].image.limit[BLOCK_IOPS] && d[1].image.limit[BLOCK_IOPS_WR] == 3);
    assert_true(d[1].image.limit[BLOCK_BPS_RD] == MIB(2));
    assert_true(o->nets.net[0].rates.rate[NET_IN] == KIB(10) &&
                !o->nets.net[0].rates.rate[NET_OUT] && o->nets.net[0].rates.burst == KIB(1));
    run_opts_fini(o);
    PARSE(&p, "--disk=a,iops=7", "--limit=disk0,none");
    assert_int_equal(p.result, OPTS_OK);
    limits_apply(&o->limits, d, o->nets.net);
    assert_true(!d[0].image.limit[BLOCK_IOPS]);
    run_opts_fini(o);
}

static void disks_and_ports(void **state)
{
    struct parsed p;
    const struct vm_disk *d = p.opts.disks.disk;

    PARSE(&p, "--disk", "a.img", "--disk=b,,c,ro,serial=x=y,format=qcow2", "--port",
          "agent=dir/s=1", "--disk", "d,,,cache=directsync,aio=threads", "--disk",
          "vhost-user=a,,b,iops=7,bps_wr=2M,bps=123");
    assert_int_equal(p.result, OPTS_OK);
    assert_int_equal(p.opts.disks.count, 4);
    assert_string_equal(d[3].image.path, "a,b");
    assert_string_equal(d[3].image.format, BLOCK_VHOST_USER);
    assert_true(d[3].image.limit[BLOCK_IOPS] == 7 && d[3].image.limit[BLOCK_BPS] == 123);
    assert_true(d[3].image.limit[BLOCK_BPS_WR] == MIB(2) && !d[3].image.limit[BLOCK_BPS_RD]);
    assert_string_equal(d[0].image.path, "a.img");
    assert_null(d[0].serial);
    assert_null(d[0].image.format);
    assert_false(d[0].image.read_only);
    assert_int_equal(d[0].image.cache, BLOCK_WRITEBACK);
    assert_int_equal(d[0].image.aio, BLOCK_AIO_AUTO);
    assert_string_equal(d[1].image.path, "b,c");
    assert_string_equal(d[1].serial, "x=y");
    assert_string_equal(d[1].image.format, "qcow2");
    assert_true(d[1].image.read_only);
    assert_string_equal(d[2].image.path, "d,");
    assert_int_equal(d[2].image.cache, BLOCK_DIRECTSYNC);
    assert_int_equal(d[2].image.aio, BLOCK_AIO_THREADS);
    assert_int_equal(p.opts.ports.count, 1);
    assert_string_equal(p.opts.ports.port[0].name, "agent");
    assert_string_equal(p.opts.ports.port[0].path, "dir/s=1");
    run_opts_fini(&p.opts);
    run_opts_fini(&p.opts);
    PARSE(&p, "--disk=a", "--disk=a", "--disk=a", "--disk=a", "--disk=a", "--disk=a", "--disk=a",
          "--disk=a", "--disk=a", "--disk=a", "--disk=a", "--disk=a", "--disk=a", "--disk=a",
          "--disk=a", "--disk=a", "--disk=a");
    assert_int_equal(p.result, OPTS_BAD);
    assert_non_null(strstr(p.err.what, "16"));
    run_opts_fini(&p.opts);
}

static void messages(void **state)
{
    struct parsed p;

    PARSE(&p, "--kernal", "x");
    assert_string_equal(p.err.what, "unknown option --kernal");
    assert_string_equal(p.err.next, "Did you mean --kernel?");
    PARSE(&p, "--mem=1G");
    assert_string_equal(p.err.next, "Did you mean --memory?");
    PARSE(&p, "--zzzzz");
    assert_string_equal(p.err.next, "");
    PARSE(&p, "-c", "10000");
    assert_string_equal(p.err.what, "--cpus takes a number from 1 to 64, not '10000'");
    PARSE(&p, "-m", "1MiB");
    assert_string_equal(p.err.what, "--memory takes at least 32M, not '1MiB'");
    assert_non_null(strstr(p.err.next, "16 MiB"));
}

static void keys(void **state)
{
    static const struct {
        char *text;
        int key;
    } table[] = {{"^]", 0x1d},  {"^a", 1},    {"^A", 1},   {"ctrl-z", 26},
                 {"CTRL-@", 0}, {"^^", 0x1e}, {"none", -1}};
    struct parsed p;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        PARSE(&p, "--escape", table[i].text);
        assert_int_equal(p.result, OPTS_OK);
        assert_int_equal(p.opts.escape, table[i].key);
    }
}

static void checks(void **state)
{
    struct parsed p;

    PARSE(&p);
    assert_int_equal(run_opts_check(&p.opts, &p.err), -EINVAL);
    assert_non_null(strstr(p.err.what, "--kernel"));
    PARSE(&p, "--kernel", "k", "--name", "no/good");
    assert_int_equal(run_opts_check(&p.opts, &p.err), -EINVAL);
    PARSE(&p, "--kernel", "k", "--name", "");
    assert_int_equal(run_opts_check(&p.opts, &p.err), -EINVAL);
    PARSE(&p, "--kernel", "k", "-m", "33554433B");
    assert_int_equal(run_opts_check(&p.opts, &p.err), 0);
    assert_int_equal(p.opts.memory, MIB(32) + PAGE_SIZE);
    assert_int_equal(registry_check_name(p.opts.name, &p.err), 0);
    PARSE(&p, "--kernel", "k", "-m", "18446744073709551615B");
    assert_int_equal(run_opts_check(&p.opts, &p.err), -EINVAL);
}

/* Parsed, and settled for a guest of this name; what of --net the message is about is in it. */
static void net_ok(struct parsed *p)
{
    assert_int_equal(p->result, OPTS_OK);
    p->opts.kernel = "k";
    p->opts.name = "web";
    if (run_opts_check(&p->opts, &p->err))
        fail_msg("%s", p->err.what);
}

static void networks(void **state)
{
    struct parsed p, q;
    const struct vm_net *net;

    PARSE(&p);
    net_ok(&p);
    assert_int_equal(p.opts.nets.count, 0);
    PARSE(&p, "--net", "user", "--net=user,mac=52:54:00:aB:cd:ef,hostname=h.x,domain=d,ipv6=off");
    net_ok(&p);
    assert_int_equal(p.opts.nets.count, 2);
    net = p.opts.nets.net;
    assert_string_equal(net[0].user.hostname, "web");
    assert_true(net[0].user.ipv4 && net[0].user.ipv6 && !net[0].user.restricted);
    assert_memory_equal(net[1].mac, "\x52\x54\0\xab\xcd\xef", 6);
    assert_string_equal(net[1].user.hostname, "h.x");
    assert_string_equal(net[1].user.domain, "d");
    assert_false(net[1].user.ipv6);
    PARSE(&q, "--net", "user", "--net", "user,loopback=off,restrict=on");
    net_ok(&q);
    assert_memory_equal(net[0].mac, q.opts.nets.net[0].mac, 6);
    assert_memory_not_equal(net[0].mac, q.opts.nets.net[1].mac, 6);
    assert_true(q.opts.nets.net[1].user.no_loopback && q.opts.nets.net[1].user.restricted);
    PARSE(&p, "--net=user,net=192.168.4.77/25,dns=192.168.4.9");
    net_ok(&p);
    assert_int_equal(net[0].user.net.s_addr, htonl(0xc0a80400));
    assert_int_equal(net[0].user.mask.s_addr, htonl(0xffffff80));
    assert_int_equal(net[0].user.host.s_addr, htonl(0xc0a80402));
    assert_int_equal(net[0].user.dns.s_addr, htonl(0xc0a80409));
    assert_int_equal(net[0].user.dhcp.s_addr, htonl(0xc0a8040f));
    assert_int_equal(net[0].queues, 0);
    assert_int_equal(net[0].rates.rate[NET_IN], 0);
    PARSE(&p, "--net=user,rate=1M,queues=3", "--net=switch=x,rate_in=5000,rate_out=2k,burst=64K");
    net_ok(&p);
    assert_int_equal(net[0].rates.rate[NET_IN], MIB(1));
    assert_int_equal(net[0].rates.rate[NET_OUT], MIB(1));
    assert_int_equal(net[0].queues, 3);
    assert_int_equal(net[1].rates.rate[NET_IN], 5000);
    assert_int_equal(net[1].rates.rate[NET_OUT], 2048);
    assert_int_equal(net[1].rates.burst, KIB(64));
}

static void other_networks(void **state)
{
    struct parsed p;
    const struct vm_net *net;

    PARSE(&p, "--net=switch=blue", "--net=tap=tap0,mac=2:2:2:2:2:2", "--net=user");
    assert_int_equal(p.result, OPTS_BAD);
    PARSE(&p, "--net=switch=blue", "--net=tap=tap0,mac=02:02:02:02:02:02", "--net=bridge=br0",
          "--net=user", "-p1:2");
    net_ok(&p);
    net = p.opts.nets.net;
    assert_int_equal(p.opts.nets.count, 4);
    assert_int_equal(net[0].kind, VM_NET_SWITCH);
    assert_string_equal(net[0].name, "blue");
    assert_non_null(strstr(net[0].base, "lodge"));
    assert_non_null(strstr(net[0].base, "-net"));
    assert_int_equal(net[1].kind, VM_NET_TAP);
    assert_string_equal(net[1].name, "tap0");
    assert_memory_equal(net[1].mac, "\2\2\2\2\2\2", 6);
    assert_int_equal(net[2].kind, VM_NET_BRIDGE);
    assert_string_equal(net[2].name, "br0");
    assert_int_equal(net[3].kind, VM_NET_USER);
    assert_int_equal(net[3].user.publishes, 1);
    PARSE(&p, "--kernel=k", "--net=switch=blue", "-p1:2");
    assert_int_equal(run_opts_check(&p.opts, &p.err), -EINVAL);
}

static void published_ports(void **state)
{
    struct parsed p;

    PARSE(&p, "-p", "2222:22", "--publish=0:53/udp");
    net_ok(&p);
    assert_int_equal(p.opts.nets.count, 1);
    assert_int_equal(p.opts.nets.net[0].user.publishes, 2);
    assert_int_equal(p.opts.nets.net[0].user.publish[0].guest, 22);
    assert_true(p.opts.nets.net[0].user.publish[1].udp);
    PARSE(&p, "--kernel=k", "--net=none");
    net_ok(&p);
    assert_int_equal(p.opts.nets.count, 0);
    PARSE(&p, "--kernel=k", "--net=none", "-p1:2");
    assert_int_equal(run_opts_check(&p.opts, &p.err), -EINVAL);
    PARSE(&p, "--kernel=k", "--net=none", "--net=user");
    assert_int_equal(run_opts_check(&p.opts, &p.err), -EINVAL);
}

static void wrong_networks(void **state)
{
    static const char *const table[][2] = {
        {"", "''"},
        {"users", "users"},
        {"tap0", "tap0"},
        {"switch", "switch=NAME"},
        {"switch=", "names no network"},
        {"switch=-x", "names no network"},
        {"switch=a/b", "names no network"},
        {"switch=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "at most 31"},
        {"switch=a,net=10.0.0.0/24", "net"},
        {"tap=", "interface"},
        {"tap=a/b", "interface"},
        {"tap=lodge%d", "interface"},
        {"bridge=aaaaaaaaaaaaaaaa", "interface"},
        {"none,mac=2:2:2:2:2:2", "none"},
        {"user,foo=1", "foo"},
        {"user,foo", "foo"},
        {"user,mac", "mac"},
        {"user,mac=52:54:00:12:34", "mac"},
        {"user,mac=52:54:00:12:34:5g", "mac"},
        {"user,mac=53:54:00:12:34:56", "even"},
        {"user,mac=00:00:00:00:00:00", "mac"},
        {"user,mac=52:54:00:12:34:56:78", "mac"},
        {"user,net=10.0.2.0/", "net"},
        {"user,net=10.0.2.0/x", "net"},
        {"user,net=10.0.2.0/-1", "net"},
        {"user,net=10.0.2.0/28", "27"},
        {"user,net=10.0.2.0/4294967320", "net"},
        {"user,net=10.0.2", "net"},
        {"user,host=10.0.3.2", "host"},
        {"user,host=10.0.2.0", "host"},
        {"user,dns=10.0.2.255", "dns"},
        {"user,host=10.0.2.3", "same"},
        {"user,dhcp=::1", "dhcp"},
        {"user,hostname=a b", "hostname"},
        {"user,hostname=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "hostname"},
        {"user,restrict=yes", "restrict"},
        {"user,ipv4=off,ipv6=off", "IPv4"},
        {"user,queues=0", "8"},
        {"user,queues=9", "8"},
        {"user,queues=1x", "queues"},
        {"user,rate=0", "rate"},
        {"user,rate=", "rate"},
        {"switch=a,rate_in=-1", "rate_in"},
        {"user,rate=10M,burst=x", "burst"},
        {"user,burst=10K", "rate="},
    };
    struct parsed p;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (PARSE(&p, "--net", (char *)table[i][0])->result != OPTS_BAD)
            fail_msg("--net %s was taken", table[i][0]);
        if (!strstr(p.err.what, table[i][1]) && !strstr(p.err.next, table[i][1]))
            fail_msg("--net %s: no '%s' in: %s %s", table[i][0], table[i][1], p.err.what,
                     p.err.next);
    }
    assert_int_equal(
        PARSE(&p, "--net=user", "--net=user", "--net=user", "--net=user", "--net=user")->result,
        OPTS_BAD);
}

/* Of one card, and different for another host, user, guest, or card. */
static void mac_addresses(void **state)
{
    uint8_t mac[5][NET_MAC_LEN];

    net_opts_mac("host", 0, "web", 0, mac[0]);
    net_opts_mac("host2", 0, "web", 0, mac[1]);
    net_opts_mac("host", 1, "web", 0, mac[2]);
    net_opts_mac("host", 0, "web2", 0, mac[3]);
    net_opts_mac("host", 0, "web", 1, mac[4]);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(mac[i][0] & 3, 2);
        for (unsigned k = 0; k < i; k++)
            assert_memory_not_equal(mac[i], mac[k], NET_MAC_LEN);
    }
    net_opts_mac("host", 0, "web", 0, mac[1]);
    assert_memory_equal(mac[0], mac[1], NET_MAC_LEN);
}

static void suggestions(void **state)
{
    static const struct {
        const char *word, *best;
    } table[] = {{"rum", "run"},
                 {"urn", "run"},
                 {"dcotor", "doctor"},
                 {"doc", "doctor"},
                 {"versoin", "version"},
                 {"start", NULL},
                 {"x", NULL},
                 {"", NULL},
                 {"runrunrunrunrunrunrunrunrunrunrunrun", NULL}};

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct suggest s;

        suggest_init(&s, table[i].word);
        suggest_try(&s, "run");
        suggest_try(&s, "doctor");
        suggest_try(&s, "version");
        if (table[i].best ? !s.best || strcmp(s.best, table[i].best) : s.best != NULL)
            fail_msg("'%s' suggests %s", table[i].word, s.best ? s.best : "nothing");
    }
}

static const char *read_beside(const char *rel)
{
    char path[512];
    const char *slash = strrchr(__FILE__, '/');
    static char text[1 << 17];
    FILE *f;

    snprintf(path, sizeof(path), "%.*s%s", slash ? (int)(slash + 1 - __FILE__) : 0, __FILE__, rel);
    f = fopen(path, "r");
    if (!f)
        fail_msg("cannot read %s from the directory the test was compiled in", path);
    memset(text, 0, sizeof(text));
    assert_true(fread(text, 1, sizeof(text) - 1, f) > 0);
    fclose(f);
    return text;
}

static const struct opt_desc *const tables[] = {
    ls_opts,          info_opts,         power_opts,
    stop_opts,        console_opts,      snapshot_opts,
    snapshots_opts,   restore_opts,      logs_opts,
    rm_opts,          clone_opts,        prune_opts,
    define_opts,      set_opts,          start_opts,
    run_opts,         image_create_opts, image_info_opts,
    image_check_opts, image_resize_opts, image_convert_opts,
    stats_opts,       top_opts,          events_opts};

/* The table is the truth: the manual and the completions have to know every option. */
static void documents_are_complete(void **state)
{
    static const struct {
        const char *file, *form; /* how a long option is written there */
    } table[] = {{"../../docs/lodge.1.scd", "*--%s*"},
                 {"../../completions/lodge.bash", "--%s"},
                 {"../../completions/_lodge", "--%s"},
                 {"../../completions/lodge.fish", "-l %s"}};

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        const char *text = read_beside(table[i].file);

        for (size_t k = 0; k < ARRAY_SIZE(tables); k++) {
            for (const struct opt_desc *o = tables[k]; o->name; o++) {
                char word[64];

                snprintf(word, sizeof(word), table[i].form, o->name);
                if (!strstr(text, word))
                    fail_msg("%s lacks %s", table[i].file, word);
            }
        }
    }
}

static void help_text_of(const struct opt_desc *table)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    opts_print_help(table, f);
    fclose(f);
    for (const struct opt_desc *o = table; o->name; o++) {
        char word[64];

        snprintf(word, sizeof(word), "--%s%s%s\n", o->name, o->arg ? " " : "",
                 o->arg ? o->arg : "");
        word[strlen(word) - 1] = '\0';
        assert_non_null(strstr(text, word));
    }
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        if (strlen(line) > 80)
            fail_msg("wider than a terminal: %s", line);
    free(text);
}

static void help_text(void **state)
{
    for (size_t k = 0; k < ARRAY_SIZE(tables); k++)
        help_text_of(tables[k]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),       cmocka_unit_test(every_form),
        cmocka_unit_test(arguments),      cmocka_unit_test(help_anywhere),
        cmocka_unit_test(wrong_usage),    cmocka_unit_test(disks_and_ports),
        cmocka_unit_test(messages),       cmocka_unit_test(keys),
        cmocka_unit_test(checks),         cmocka_unit_test(networks),
        cmocka_unit_test(other_networks), cmocka_unit_test(published_ports),
        cmocka_unit_test(wrong_networks), cmocka_unit_test(mac_addresses),
        cmocka_unit_test(suggestions),    cmocka_unit_test(documents_are_complete),
        cmocka_unit_test(help_text),      cmocka_unit_test(limits_of_devices),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
