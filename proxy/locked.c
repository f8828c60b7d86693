#include "proxy/locked.h"

#include <pthread.h>
#include <stdlib.h>

void *
locked_new(size_t size, struct err *err)
{
	void *object = calloc(1, size);

	if (object == NULL)
		err_nomem(err);
	else
		pthread_mutex_init(object, NULL);
	return object;
}

void
locked_free(void *object)
{
	if (object == NULL)
		return;
	pthread_mutex_destroy(object);
	free(object);
}

void
locked_free_list(void *first, void (*entry_free)(void *entry))
{
	for (void *next; first != NULL; first = next) {
		next = *(void **)first;
		entry_free(first);
	}
}
