#include "ctl/files.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/datadir.h"
#include "common/folder.h"
#include "common/path.h"

#define DEPTH_MAX 8

const char *const data_files_folders[] = {"base", "global", "pg_tblspc", "pg_wal", NULL};

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

struct walk {
	const char *datadir;
	char version[16]; /* "PG_15_": our own folders in tablespaces begin so */
	data_files_visitor *visit;
	void *arg;
	bool whole; /* what is too deep is an error */
};

/* In pg_tblspc/<oid>/: other clusters of other versions may have put their folders there, too. */
static bool
is_foreign(const struct walk *w, const char *path)
{
	const char *p = path;

	if (strncmp(p, "pg_tblspc/", 10) != 0 || (p = strchr(p + 10, '/')) == NULL)
		return false;
	return strncmp(p + 1, "PG_", 3) == 0 && strncmp(p + 1, w->version, strlen(w->version)) != 0;
}

static int walk_folder(const struct walk *w, const char *folder, int depth, struct err *err);

static int
walk_entry(const struct walk *w, const char *path, int depth, struct err *err)
{
	char full[PATH_MAX];
	struct stat st;
	int told;

	if (path_format(full, err, "%s/%s", w->datadir, path) != 0)
		return -1;
	if (stat(full, &st) != 0)
		return errno == ENOENT ? 0 : err_os(err, errno, "could not stat \"%s\"", full);
	if (is_foreign(w, path))
		return 0;
	if ((told = w->visit(w->arg, path, &st, err)) < 0)
		return -1;
	if (told != 0 || !S_ISDIR(st.st_mode))
		return 0;
	if (depth < DEPTH_MAX)
		return walk_folder(w, path, depth + 1, err);
	if (!w->whole)
		return 0;
	err_set(err, ERR_REFUSED, "folder \"%s\" lies too deep to be looked through", full);
	return err_hint(err, "Does a symbolic link lead back? Name a folder further down, or remove the link.");
}

static int
walk_folder(const struct walk *w, const char *folder, int depth, struct err *err)
{
	bool top = strcmp(folder, ".") == 0;
	char path[PATH_MAX], below[PATH_MAX];
	struct folder f;
	const char *name;
	int found, result = 0;

	if (path_format(path, err, "%s/%s", w->datadir, folder) != 0)
		return -1;
	if ((found = folder_open_if_any(&f, "directory", path, err)) <= 0)
		return found;
	while (result == 0 && (name = folder_next(&f)) != NULL)
		if ((result = path_format(below, err, "%s%s%s", top ? "" : folder, top ? "" : "/", name)) == 0)
			result = walk_entry(w, below, depth, err);
	return folder_close(&f, result, err);
}

int
data_files_walk(const char *datadir, const char *folder, data_files_visitor *visit, void *arg, struct err *err)
{
	struct walk w = {.datadir = datadir, .visit = visit, .arg = arg};
	int major;

	if (datadir_major_version(datadir, &major, err) != 0)
		return -1;
	snprintf(w.version, sizeof(w.version), "PG_%d_", major);
	return walk_folder(&w, folder, 0, err);
}

int
data_files_walk_any(const char *folder, data_files_visitor *visit, void *arg, struct err *err)
{
	struct walk w = {.datadir = folder, .version = "PG_", .visit = visit, .arg = arg, .whole = true};

	return walk_folder(&w, ".", 0, err);
}

static int
list_visit(void *arg, const char *path, const struct stat *st, struct err *err)
{
	struct pgfile is;

	if (!S_ISREG(st->st_mode))
		return 0;
	pgfile_parse(path, false, &is);
	if (is.kind != PGFILE_RELATION && is.kind != PGFILE_WAL)
		return 0;
	return file_add(arg, path, &is, (uint64_t)st->st_size, err);
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
	memset(files, 0, sizeof(*files));
	for (size_t i = 0; data_files_folders[i] != NULL; i++)
		if (data_files_walk(datadir, data_files_folders[i], list_visit, files, err) != 0) {
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
