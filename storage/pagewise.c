#include "storage/pagewise.h"

#include <string.h>

#include "walcrypt/page.h"

#define SCRATCH_PAGES 16

ssize_t
pagewise_read(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off, pagewise_reader *read_pages)
{
	static uint8_t scratch[SCRATCH_PAGES * PAGE_LEN] __attribute__((aligned(4096)));
	size_t done = 0;

	while (done < len) {
		off_t at = off + (off_t)done, start = at - at % PAGE_LEN;
		size_t skip = (size_t)(at - start), want = (skip + len - done + PAGE_LEN - 1) / PAGE_LEN * PAGE_LEN;
		ssize_t n = read_pages(fd, f, scratch, want < sizeof(scratch) ? want : sizeof(scratch), start);

		if (n < 0)
			return done > 0 ? (ssize_t)done : -1;
		if ((size_t)n <= skip)
			break;
		n -= (ssize_t)skip;
		if ((size_t)n > len - done)
			n = (ssize_t)(len - done);
		memcpy(buf + done, scratch + skip, (size_t)n);
		done += (size_t)n;
	}
	return (ssize_t)done;
}
