/* epoch: the next WAL key epoch, staged in keysets so that a promotion takes it into use. */
#ifndef CTL_EPOCH_H
#define CTL_EPOCH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

struct epoch_stage {
	const char *config, *kek; /* as the options say them, or NULL */
	const char *const *names; /* keysets of the keystore */
	size_t nnames;
	const char *datadir; /* without names: an absolute data directory */
	uint32_t timeline;   /* the present one; 0: asked for */
	bool provider_random;
};

/*
 * The named keysets, and the data directories on this machine that the configuration gives to their nodes, get the next
 * epoch, for timelines after the present one: one that another keyset of the cluster has staged already, else a fresh
 * one. What has it already stays as it is, so after a failure the same call does the rest (ERR_MIDWAY). Prints what it
 * does. Servers and proxies take it up when they read their keys again.
 */
int epoch_stage(const struct epoch_stage *s, struct err *err);

#endif
