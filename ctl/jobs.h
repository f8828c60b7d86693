/* jobs: the same work done by several threads at once. */
#ifndef CTL_JOBS_H
#define CTL_JOBS_H

#include "common/err.h"

#define JOBS_MAX 64

/* What --jobs says; 0: as many as there are processors, at most 8. */
int jobs_default(int jobs);
/*
 * Run work(arg) in `jobs` threads, and beside(arg) (may be NULL) in this one; wait for all. work shares what there is
 * to do by an atomic counter in arg. 0, or -1 with the first error of those that failed.
 */
int jobs_run(int jobs, int (*work)(void *arg, struct err *err), int (*beside)(void *arg, struct err *err), void *arg,
             struct err *err);

#endif
