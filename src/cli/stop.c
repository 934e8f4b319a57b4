/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/stop.h"

#include <signal.h>

#include "base/types.h"

/* A handler has no argument, so this is the process's. */
static volatile sig_atomic_t stop_signal;

static void on_stop(int sig)
{
    stop_signal = sig;
}

void stop_catch(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction sa = {.sa_handler = on_stop}, old;

    for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
        if (!sigaction(signals[i], NULL, &old) && old.sa_handler != SIG_IGN)
            sigaction(signals[i], &sa, NULL);
}

int stop_asked(void)
{
    return stop_signal;
}
