#include "ctl/files.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/path.h"

#define DEPTH_MAX 8

static int
file_add(struct data_files *files, const char *path, const struct pgfile *is, uint64_t len, struct err *err)
{
	struct data_file *f;

	if (files->n == files->room) {
		size_t room = files->room == 0 ? 1024 : 2 * files->room;

		if ((f = reallocarray(files->file, room, sizeof(*f))) == NULL)
			return err_nomem(err);
		files->file = f;
		files->room = room;
	}
	f = &files->file[files->n];
	if ((f->path = strdup(path)) == NULL)
		return err_nomem(err);
	f->is = *is;
	f->len = len;
	files->n++;
	files->nrelations += is->kind == PGFILE_RELATION;
	files->bytes += len;
	return 0;
}

static int walk(const char *datadir, const char *folder, int depth, struct data_files *files, struct err *err);

static int
visit(const char *datadir, const char *path, int depth, struct data_files *files, struct err *err)
{
	char full[PATH_MAX];
	struct pgfile is;
	struct stat st;

	if (path_format(full, err, "%s/%s", datadir, path) != 0)
		return -1;
	if (stat(full, &st) != 0)
		return errno == ENOENT ? 0 : err_os(err, errno, "could not stat \"%s\"", full);
	pgfile_parse(path, false, &is);
	if (S_ISDIR(st.st_mode))
		return is.kind == PGFILE_TEMP || depth == DEPTH_MAX ? 0 : walk(datadir, path, depth + 1, files, err);
	if (!S_ISREG(st.st_mode) || (is.kind != PGFILE_RELATION && is.kind != PGFILE_WAL))
		return 0;
	return file_add(files, path, &is, (uint64_t)st.st_size, err);
}

static int
walk(const char *datadir, const char *folder, int depth, struct data_files *files, struct err *err)
{
	char path[PATH_MAX];
	struct dirent *entry;
	int result = 0;
	DIR *dir;

	if (path_format(path, err, "%s/%s", datadir, folder) != 0)
		return -1;
	if ((dir = opendir(path)) == NULL)
		return errno == ENOENT ? 0 : err_os(err, errno, "could not open directory \"%s\"", path);
	while (result == 0 && (entry = readdir(dir)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if ((result = path_format(path, err, "%s/%s", folder, entry->d_name)) == 0)
			result = visit(datadir, path, depth, files, err);
	}
	closedir(dir);
	return result;
}

static int
by_kind_and_name(const void *a, const void *b)
{
	const struct data_file *x = a, *y = b;

	if (x->is.kind != y->is.kind)
		return x->is.kind == PGFILE_RELATION ? -1 : 1;
	return strcmp(x->path, y->path);
}

int
data_files_list(const char *datadir, struct data_files *files, struct err *err)
{
	static const char *const folders[] = {"base", "global", "pg_tblspc", "pg_wal"};

	memset(files, 0, sizeof(*files));
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		if (walk(datadir, folders[i], 0, files, err) != 0) {
			data_files_free(files);
			return -1;
		}
	if (files->n > 0)
		qsort(files->file, files->n, sizeof(*files->file), by_kind_and_name);
	return 0;
}

void
data_files_free(struct data_files *files)
{
	for (size_t i = 0; i < files->n; i++)
		free(files->file[i].path);
	free(files->file);
	memset(files, 0, sizeof(*files));
}
