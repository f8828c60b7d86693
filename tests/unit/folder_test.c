/* A folder's names: all of them, none of a folder that is not there, and a read that fails is not the end. */
#include "common/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/tap.h"

static void
put(const char *folder, const char *name)
{
	char path[200];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	ok(fd >= 0, "%s is made", name);
	close(fd);
}

static void
names(const char *folder)
{
	bool one = false, hidden = false;
	struct err err = {0};
	struct folder f;
	const char *name;
	int n = 0;

	put(folder, "one");
	put(folder, ".hidden");
	is_int(folder_open(&f, "place", folder, &err), 0, "a folder is opened");
	for (; (name = folder_next(&f)) != NULL; n++) {
		one = one || strcmp(name, "one") == 0;
		hidden = hidden || strcmp(name, ".hidden") == 0;
	}
	ok(n == 2 && one && hidden, "its names, one that begins with a dot among them, but \".\" and \"..\"");
	ok(folder_next(&f) == NULL, "at the end it stays at the end");
	is_int(folder_close(&f, 0, &err), 0, "and is closed");
	ok(f.dir == NULL, "... for good");
}

static void
absent(const char *folder)
{
	struct err err = {0};
	struct folder f;
	char path[200];

	snprintf(path, sizeof(path), "%s/none", folder);
	is_int(folder_open_if_any(&f, "place", path, &err), 0, "none is no error where none need be");
	is_int(folder_open(&f, "place", path, &err), -1, "... and one elsewhere");
	ok(err.os_errno == ENOENT && strncmp(err.text, "could not open place \"", 22) == 0, "... by name: %s", err.text);
	snprintf(path, sizeof(path), "%s/one", folder);
	is_int(folder_open_if_any(&f, "place", path, &err), -1, "a file is no folder");
	is_int(err.os_errno, ENOTDIR, "... and says so");
}

/* A folder whose descriptor is taken away: readdir fails as it does when a disk does. */
static void
broken(struct folder *f, const char *folder)
{
	struct err err = {0};

	is_int(folder_open(f, "place", folder, &err), 0, "a folder is opened");
	close(dirfd(f->dir));
}

static void
unreadable(const char *folder)
{
	struct err err = {0};
	struct folder f;

	broken(&f, folder);
	ok(folder_next(&f) == NULL, "a name that can't be read");
	is_int(folder_close(&f, 0, &err), -1, "... is told on closing");
	ok(err.os_errno == EBADF && strncmp(err.text, "could not read place \"", 22) == 0, "... by name: %s", err.text);

	broken(&f, folder);
	folder_next(&f);
	err_set(&err, ERR_REFUSED, "something before");
	is_int(folder_close(&f, -1, &err), -1, "an error of the caller's own stays");
	ok(strcmp(err.text, "something before") == 0, "... with its words");
}

int
main(void)
{
	const char *tmp = getenv("TMPDIR");
	char folder[100], path[200];

	snprintf(folder, sizeof(folder), "%.80s/folder.XXXXXX", tmp != NULL ? tmp : "/tmp");
	ok(mkdtemp(folder) != NULL, "a folder is made");
	names(folder);
	absent(folder);
	unreadable(folder);
	snprintf(path, sizeof(path), "%s/one", folder);
	unlink(path);
	snprintf(path, sizeof(path), "%s/.hidden", folder);
	unlink(path);
	rmdir(folder);
	return tap_done();
}
