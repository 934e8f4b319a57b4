/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What killed processes leave in a guest's folders, and who takes it away: whoever next has the guest's name. */
#ifndef LODGE_CLI_TIDY_H
#define LODGE_CLI_TIDY_H

#include "cli/layers.h"

/* Delete it for a guest whose name the caller holds. `layers` are those of its disks, loaded. Failures leave it for the next. */
void tidy_held(const char *name, const struct layers *layers);

/* The same for each guest that is kept and does not run. */
void tidy_all(void);

#endif
