#include "common/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/folder.h"

/* The folder that path lies in. */
static int
parent_of(const char *path, char parent[static PATH_MAX], struct err *err)
{
	const char *slash = strrchr(path, '/');
	size_t len = slash == NULL ? 1 : slash == path ? 1 : (size_t)(slash - path);

	if (strlen(path) >= PATH_MAX - 32)
		return err_os(err, ENAMETOOLONG, "could not use path \"%s\"", path);
	memcpy(parent, slash == NULL ? "." : path, len);
	parent[len] = '\0';
	return 0;
}

int
durable_fsync_dir(const char *path, struct err *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_os(err, errno, "could not open directory \"%s\"", path);
	if (fsync(fd) != 0) {
		err_os(err, errno, "could not fsync directory \"%s\"", path);
		close(fd);
		return -1;
	}
	close(fd);
	return 0;
}

static int
fsync_parent(const char *path, struct err *err)
{
	char parent[PATH_MAX];

	return parent_of(path, parent, err) != 0 ? -1 : durable_fsync_dir(parent, err);
}

static int
write_all(int fd, const char *path, const uint8_t *data, size_t len, struct err *err)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_os(err, n < 0 ? errno : ENOSPC, "could not write file \"%s\"", path);
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static int
put(const char *path, const void *data, size_t len, mode_t mode, bool replace, struct err *err)
{
	char temporary[PATH_MAX], parent[PATH_MAX];
	int fd, result = -1;

	if (parent_of(path, parent, err) != 0)
		return -1;
	snprintf(temporary, sizeof(temporary), "%s.tmp.%d", path, (int)getpid());
	if (unlink(temporary) != 0 && errno != ENOENT)
		return err_os(err, errno, "could not remove file \"%s\"", temporary);
	if ((fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode)) < 0)
		return err_os(err, errno, "could not create file \"%s\"", temporary);
	/* the mode is meant as it is, whatever the umask */
	if (fchmod(fd, mode) != 0)
		err_os(err, errno, "could not set the mode of file \"%s\"", temporary);
	else if (write_all(fd, temporary, data, len, err) != 0)
		;
	else if (fsync(fd) != 0)
		err_os(err, errno, "could not fsync file \"%s\"", temporary);
	/* link fails where rename would replace */
	else if (replace ? rename(temporary, path) != 0 : link(temporary, path) != 0)
		err_os(err, errno, "could not create file \"%s\"", path);
	else
		result = 0;
	close(fd);
	if (result != 0 || !replace)
		unlink(temporary);
	return result != 0 ? -1 : durable_fsync_dir(parent, err);
}

int
durable_write(const char *path, const void *data, size_t len, mode_t mode, struct err *err)
{
	return put(path, data, len, mode, true, err);
}

int
durable_create(const char *path, const void *data, size_t len, mode_t mode, struct err *err)
{
	return put(path, data, len, mode, false, err);
}

int
durable_rename(const char *from, const char *to, struct err *err)
{
	char one[PATH_MAX], other[PATH_MAX];

	if (parent_of(from, one, err) != 0 || parent_of(to, other, err) != 0)
		return -1;
	if (rename(from, to) != 0)
		return err_os(err, errno, "could not rename \"%s\" to \"%s\"", from, to);
	if (durable_fsync_dir(other, err) != 0)
		return -1;
	return strcmp(one, other) == 0 ? 0 : durable_fsync_dir(one, err);
}

int
durable_mkdir(const char *path, mode_t mode, struct err *err)
{
	if (mkdir(path, mode) != 0)
		return err_os(err, errno, "could not create directory \"%s\"", path);
	return fsync_parent(path, err);
}

int
durable_remove_dir(const char *path, struct err *err)
{
	struct folder f;
	const char *name;
	int result = 0, found = folder_open_if_any(&f, "directory", path, err);

	if (found <= 0)
		return found;
	while (result == 0 && (name = folder_next(&f)) != NULL)
		if (unlinkat(dirfd(f.dir), name, 0) != 0 && errno != ENOENT)
			result = err_os(err, errno, "could not remove \"%s/%s\"", path, name);
	if (folder_close(&f, result, err) != 0)
		return -1;
	if (rmdir(path) != 0 && errno != ENOENT)
		return err_os(err, errno, "could not remove directory \"%s\"", path);
	return fsync_parent(path, err);
}

uint8_t *
durable_read(const char *path, size_t max, size_t *len, struct err *err)
{
	uint8_t *data = NULL, *grown;
	size_t room = 0;
	ssize_t n;
	int fd;

	*len = 0;
	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) {
		err_os(err, errno, "could not open file \"%s\"", path);
		return NULL;
	}
	do {
		if (*len + 1 >= room) {
			room = room == 0 ? 4096 : 2 * room;
			if ((grown = realloc(data, room)) == NULL) {
				err_nomem(err);
				goto fail;
			}
			data = grown;
		}
		n = read(fd, data + *len, room - 1 - *len);
		if (n < 0 && errno != EINTR) {
			err_os(err, errno, "could not read file \"%s\"", path);
			goto fail;
		}
		*len += n > 0 ? (size_t)n : 0;
		if (*len > max) {
			err_set(err, ERR_DAMAGED, "file \"%s\" is larger than %zu bytes", path, max);
			goto fail;
		}
	} while (n != 0);
	data[*len] = '\0';
	close(fd);
	return data;
fail:
	free(data);
	close(fd);
	return NULL;
}
