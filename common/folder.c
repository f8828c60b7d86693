#include "common/folder.h"

#include <errno.h>
#include <string.h>

int
folder_open_if_any(struct folder *f, const char *what, const char *path, struct err *err)
{
	*f = (struct folder){.dir = opendir(path), .what = what, .path = path};
	if (f->dir != NULL)
		return 1;
	return errno == ENOENT ? 0 : err_os(err, errno, "could not open %s \"%s\"", what, path);
}

int
folder_open(struct folder *f, const char *what, const char *path, struct err *err)
{
	int found = folder_open_if_any(f, what, path, err);

	if (found == 0)
		err_os(err, ENOENT, "could not open %s \"%s\"", what, path);
	return found > 0 ? 0 : -1;
}

const char *
folder_next(struct folder *f)
{
	const struct dirent *entry;

	do {
		errno = 0;
		entry = readdir(f->dir);
	} while (entry != NULL && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
	if (entry != NULL)
		return entry->d_name;
	if (f->read_errno == 0)
		f->read_errno = errno;
	return NULL;
}

int
folder_close(struct folder *f, int result, struct err *err)
{
	closedir(f->dir);
	f->dir = NULL;
	if (result == 0 && f->read_errno != 0)
		return err_os(err, f->read_errno, "could not read %s \"%s\"", f->what, f->path);
	return result;
}
