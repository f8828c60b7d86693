/*
 * holder: keeps the proxy's new sessions held, but the target's. A proxy that is started again has forgotten whom it
 * held; so a thread watches a console connection of its own, and says PAUSE again when it was lost, whatever the
 * switchover is doing or waiting for meanwhile.
 */
#ifndef CTL_SWITCHOVER_HOLDER_H
#define CTL_SWITCHOVER_HOLDER_H

#include "common/settings.h"

struct holder;
/* When it returns they are held. The two must live as long as the holder. NULL with err set: the proxy cannot be
 * reached or refuses, no thread, no memory. */
struct holder *holder_start(const struct settings *settings, const char *target, struct err *err);
/* It says PAUSE no more; what is held stays so. NULL allowed. */
void holder_stop(struct holder *h);

#endif
