/* svg: a switchover as one picture that needs nothing else: commits per 100 ms, replication lag, the steps. */
#ifndef CTL_SWITCHOVER_SVG_H
#define CTL_SWITCHOVER_SVG_H

#include <stdio.h>

#include "ctl/switchover/logbook.h"
#include "ctl/switchover/sampler.h"

/* Commits of each tenth of a second from `begin` on, *n of them, malloc'ed; NULL: none, or out of memory. */
uint64_t *samples_bins(const struct samples *s, double *begin, size_t *n);
/* Did nobody look between sample i and the one before, because the switchover had been cut off? */
bool samples_gap(const struct samples *s, size_t i);
void svg_write(FILE *to, const struct logbook *l, const struct samples *s);

#endif
