#include "replication/pagecut.h"

#include <string.h>

int
pagecut_push(struct pagecut *c, uint8_t *data, size_t len, pagecut_take take, void *arg, struct err *err)
{
	int rc, paused = 0;
	size_t n;

	for (; len > 0; data += n, len -= n, paused |= rc) {
		rc = 0;
		if (c->n == 0 && len >= PAGE_LEN) {
			n = len - len % PAGE_LEN;
			rc = take(arg, data, n / PAGE_LEN, err);
		} else {
			n = PAGE_LEN - c->n < len ? PAGE_LEN - c->n : len;
			memcpy(c->page + c->n, data, n);
			if ((c->n += n) == PAGE_LEN) {
				c->n = 0;
				rc = take(arg, c->page, 1, err);
			}
		}
		if (rc < 0)
			return -1;
	}
	return paused;
}
