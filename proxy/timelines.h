/*
 * timelines: the highest timeline of each cluster that a primary has been seen on, kept durably, so that a restarted
 * proxy can't fall back to an old primary. Thread-safe.
 */
#ifndef PROXY_TIMELINES_H
#define PROXY_TIMELINES_H

#include <stdint.h>

#include "common/err.h"

struct timelines;

/* A missing file is an empty one. ERR_DAMAGED names the line. */
struct timelines *timelines_open(const char *path, struct err *err);
void timelines_free(struct timelines *t);                                    /* NULL allowed */
uint32_t timelines_highest(struct timelines *t, uint64_t system_identifier); /* 0: none seen */
/* tli becomes the highest unless a higher one is known; durable when it returns. */
int timelines_raise(struct timelines *t, uint64_t system_identifier, uint32_t tli, struct err *err);

#endif
