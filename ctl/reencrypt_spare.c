#include "ctl/reencrypt_spare.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/path.h"

struct reencrypt_spare {
	char *path;
	uint64_t len;
};

int
reencrypt_spares_add(struct reencrypt_spares *s, const char *path, uint64_t len, struct err *err)
{
	if (s->n == s->room) {
		size_t room = s->room == 0 ? 64 : 2 * s->room;
		struct reencrypt_spare *more = reallocarray(s->spare, room, sizeof(*more));

		if (more == NULL)
			return err_nomem(err);
		s->spare = more;
		s->room = room;
	}
	if ((s->spare[s->n].path = strdup(path)) == NULL)
		return err_nomem(err);
	s->spare[s->n++].len = len;
	return 0;
}

/* The shortest that is long enough; else the longest. */
static bool
fits_better(uint64_t a, uint64_t b, uint64_t len)
{
	return a >= len ? b < len || a < b : b < len && a > b;
}

static bool
is_ours_alone(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 1 && st.st_uid == geteuid();
}

/* What it held is not needed, but an error in writing that would be told to who fsyncs next: to us, of what we have
 * written. Nor may it be written later than ours. */
static bool
is_at_rest(int fd)
{
	return sync_file_range(fd, 0, 0,
	                       SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) == 0;
}

int
reencrypt_spares_take(struct reencrypt_spares *s, const char *tmp, uint64_t len)
{
	struct reencrypt_spare *best = NULL;
	int fd = -1;

	for (size_t i = 0; i < s->n; i++)
		if (path_by_folder(s->spare[i].path, tmp) == 0 &&
		    (best == NULL || fits_better(s->spare[i].len, best->len, len)))
			best = &s->spare[i];
	if (best == NULL || rename(best->path, tmp) != 0)
		return -1;
	free(best->path);
	*best = s->spare[--s->n];
	/* looked at by its new name: nobody else knows that one */
	if ((fd = open(tmp, O_RDWR | O_CLOEXEC | O_NOFOLLOW)) >= 0 && is_ours_alone(fd) && is_at_rest(fd))
		return fd;
	if (fd >= 0)
		close(fd);
	unlink(tmp);
	return -1;
}

int
reencrypt_spares_drop(struct reencrypt_spares *s, struct err *err)
{
	int result = 0;

	for (; s->n > 0; s->n--) {
		char *path = s->spare[s->n - 1].path;

		if (unlink(path) != 0 && errno != ENOENT && result == 0)
			result = err_os(err, errno, "could not remove file \"%s\"", path);
		free(path);
	}
	return result;
}

void
reencrypt_spares_free(struct reencrypt_spares *s)
{
	free(s->spare);
	memset(s, 0, sizeof(*s));
}
