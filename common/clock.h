/* clock: time that only goes forward, for deadlines. */
#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

#include <stdint.h>

/* Milliseconds of CLOCK_MONOTONIC. */
int64_t clock_now_ms(void);
/* The same in seconds. */
int64_t clock_now_s(void);

#endif
