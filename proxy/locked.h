/* locked: objects that threads share; each begins with its mutex (pthread_mutex_t). And the lists in them. */
#ifndef PROXY_LOCKED_H
#define PROXY_LOCKED_H

#include <stddef.h>

#include "common/err.h"

/* Zeroed, but for the mutex. NULL with err set. */
void *locked_new(size_t size, struct err *err);
/* The object alone; NULL allowed. */
void locked_free(void *object);
/* All entries of a list; each begins with the pointer to the next one. */
void locked_free_list(void *first, void (*entry_free)(void *entry));

#endif
