/* wiping: the heap for libraries that handle secrets and let their allocator be replaced. */
#ifndef COMMON_WIPING_H
#define COMMON_WIPING_H

#include <stddef.h>

/* free and realloc of malloc's memory that leave nothing of what was in it; NULL is allowed. */
void wiping_free(void *p);
void *wiping_realloc(void *p, size_t len);

#endif
