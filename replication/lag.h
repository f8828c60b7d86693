/*
 * lag: how old what a standby has not taken yet is. The end of the upstream's WAL is noted as it moves; the age of a
 * position is the time since WAL behind it was first heard of. As the server's own pg_stat_replication.replay_lag, but
 * it goes on while the standby says nothing. Bounded: LAG_SAMPLES marks, which become coarser the further it is behind.
 *
 * source: the idea is that of LagTrackerWrite in src/backend/replication/walsender.c
 */
#ifndef REPLICATION_LAG_H
#define REPLICATION_LAG_H

#include <stddef.h>
#include <stdint.h>

#define LAG_SAMPLES 256
#define LAG_FINEST_S 0.05 /* ends that move within this time are one mark, with the time of the first of them */

/* Times are seconds of any clock that does not go back. All zero is a fresh one. */
struct lag {
	struct lag_sample {
		uint64_t lsn;
		double at;
	} samples[LAG_SAMPLES];
	size_t n;
	double finest; /* 0: LAG_FINEST_S */
};

/* The upstream's WAL ends at end now. */
void lag_note(struct lag *l, uint64_t end, double now);
/* Nothing before lsn will be asked about any more. */
void lag_forget(struct lag *l, uint64_t lsn);
/* Seconds since WAL behind lsn was first noted; 0 when there is none. */
double lag_age(const struct lag *l, uint64_t lsn, double now);

#endif
