#include "common/wiping.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void
wiping_free(void *p)
{
	if (p != NULL)
		explicit_bzero(p, malloc_usable_size(p));
	free(p);
}

void *
wiping_realloc(void *p, size_t len)
{
	size_t old = p != NULL ? malloc_usable_size(p) : 0;
	void *grown;

	if (p != NULL && len <= old)
		return p;
	if ((grown = malloc(len)) == NULL)
		return NULL;
	if (p != NULL) {
		memcpy(grown, p, old);
		wiping_free(p);
	}
	return grown;
}
