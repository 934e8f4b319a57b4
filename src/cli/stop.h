/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For verbs that take long and clean up when they are asked to stop. */
#ifndef LODGE_CLI_STOP_H
#define LODGE_CLI_STOP_H

/* From here on SIGINT, SIGTERM and SIGHUP, where they are not ignored, are only noted; they interrupt system calls. */
void stop_catch(void);

/* The signal that came last; 0: none. */
int stop_asked(void);

#endif
