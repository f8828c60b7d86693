/*
 * sampler: commits and replication lag through a switchover, looked at by a thread of its own: every 20 ms the number
 * of transactions that have been given an id (those that write), and how far the target is behind. Connections of its
 * own. What it sees is kept in the keystore ("switchover.samples"), so that the picture of a switchover that was cut
 * off has what came before.
 */
#ifndef CTL_SWITCHOVER_SAMPLER_H
#define CTL_SWITCHOVER_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/settings.h"

struct sample {
	double at;          /* seconds since 1970 */
	uint64_t xid;       /* the next transaction id of the primary of that moment */
	uint64_t lag_bytes; /* of the target */
	bool on_new;        /* the target is the primary */
	bool has_lag;
};

struct samples {
	struct sample *list;
	size_t n, room;
	/* the last new transaction that was seen on the old primary, the first on the new one; 0: none was */
	double last_old, first_new;
};

/* What was kept; the caller's to samples_free. */
int samples_load(struct samples *s, const char *keystore, struct err *err);
int samples_remove(const char *keystore, struct err *err);

struct sampler;
/* anew: what was kept goes; otherwise it goes on from there. NULL with err set: no thread, no memory, or nothing can be
 * kept. A server that cannot be reached is just not looked at. */
struct sampler *sampler_start(const struct settings *settings, const struct settings_node *from,
                              const struct settings_node *to, bool anew, struct err *err);
/* Stop it; what it saw and what was kept, the caller's to samples_free. */
struct samples sampler_stop(struct sampler *s);
void samples_free(struct samples *s);

#endif
