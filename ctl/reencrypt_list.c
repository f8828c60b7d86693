#include "ctl/reencrypt_list.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "common/progress.h"
#include "ctl/files.h"

#define ROOM_SPARE (UINT64_C(16) << 20)

struct listing {
	const char *datadir;
	bool wal;
	struct reencrypt_list *list;
};

static bool
ends_with(const char *path, const char *suffix)
{
	size_t len = strlen(path), n = strlen(suffix);

	return len > n && strcmp(path + len - n, suffix) == 0;
}

static int
entry_add(struct reencrypt_list *list, const char *path, const struct pgfile *is, bool is_new, const struct stat *st,
          struct err *err)
{
	struct reencrypt_entry *e;

	if (list->n == list->room) {
		size_t room = list->room == 0 ? 1024 : 2 * list->room;

		if ((e = reallocarray(list->entry, room, sizeof(*e))) == NULL)
			return err_nomem(err);
		list->entry = e;
		list->room = room;
	}
	e = &list->entry[list->n];
	memset(e, 0, sizeof(*e));
	if ((e->path = strdup(path)) == NULL)
		return err_nomem(err);
	e->is = *is;
	e->has_old = !is_new;
	e->has_new = is_new;
	e->len = is_new ? 0 : (uint64_t)st->st_size;
	e->device = st->st_dev;
	list->n++;
	return 0;
}

/* Nobody else may have the file: it is about to be replaced, and another cluster would keep it under the old key. */
static int
check_alone(const struct listing *l, const char *path, const struct stat *st, struct err *err)
{
	char full[PATH_MAX];
	struct stat link;

	if (st->st_nlink > 1) {
		err_set(err, ERR_REFUSED, "\"%s/%s\" has %ju hard links", l->datadir, path, (uintmax_t)st->st_nlink);
		return err_hint(
		    err, "Another directory has the same file (pg_upgrade --link, cp -l): remove that one first, or copy "
		         "this one.");
	}
	if (path_format(full, err, "%s/%s", l->datadir, path) != 0)
		return -1;
	if (lstat(full, &link) != 0)
		return err_os(err, errno, "could not stat \"%s\"", full);
	return S_ISREG(link.st_mode) ? 0 : err_set(err, ERR_REFUSED, "\"%s\" is a symbolic link", full);
}

static int
list_visit(void *arg, const char *path, const struct stat *st, struct err *err)
{
	const struct listing *l = arg;
	bool is_new = ends_with(path, REENCRYPT_NEW);
	char name[PATH_MAX];
	struct pgfile is;

	if (S_ISDIR(st->st_mode))
		return 0;
	if (path_format(name, err, "%.*s", (int)(strlen(path) - (is_new ? strlen(REENCRYPT_NEW) : 0)), path) != 0)
		return -1;
	pgfile_parse(name, false, &is);
	if (is.kind != PGFILE_RELATION && (is.kind != PGFILE_WAL || !l->wal))
		return 0;
	if (!S_ISREG(st->st_mode))
		return err_set(err, ERR_REFUSED, "\"%s/%s\" is no regular file", l->datadir, path);
	if (st->st_size == 0 && !is_new)
		return 0;
	return check_alone(l, path, st, err) != 0 ? -1 : entry_add(l->list, name, &is, is_new, st, err);
}

static int
by_path(const void *a, const void *b)
{
	return strcmp(((const struct reencrypt_entry *)a)->path, ((const struct reencrypt_entry *)b)->path);
}

/* Large files by size, then small ones folder by folder: the old files of one group can become the next group's. */
static int
by_turn(const void *a, const void *b)
{
	const struct reencrypt_entry *x = a, *y = b;
	int order =
	    x->len > REENCRYPT_TOGETHER_BYTES || y->len > REENCRYPT_TOGETHER_BYTES ? 0 : path_by_folder(x->path, y->path);

	return order != 0 ? order : x->len != y->len ? (x->len < y->len ? 1 : -1) : by_path(a, b);
}

/* X and X.walcrypt-new were added each for itself: make one of them. */
static void
merge(struct reencrypt_list *list)
{
	size_t n = 0;

	if (list->n == 0)
		return;
	qsort(list->entry, list->n, sizeof(*list->entry), by_path);
	for (size_t i = 1; i < list->n; i++) {
		struct reencrypt_entry *last = &list->entry[n], *e = &list->entry[i];

		if (strcmp(last->path, e->path) != 0) {
			list->entry[++n] = *e;
			continue;
		}
		last->has_old = true;
		last->has_new = true;
		last->len += e->len; /* one of them is 0 */
		free(e->path);
	}
	list->n = n + 1;
	qsort(list->entry, list->n, sizeof(*list->entry), by_turn);
	for (size_t i = 0; i < list->n; i++)
		list->bytes += list->entry[i].has_new ? 0 : list->entry[i].len;
}

int
reencrypt_list_make(const char *datadir, bool wal, struct reencrypt_list *list, struct err *err)
{
	struct listing l = {.datadir = datadir, .wal = wal, .list = list};

	memset(list, 0, sizeof(*list));
	for (size_t i = 0; data_files_folders[i] != NULL; i++)
		if (data_files_walk(datadir, data_files_folders[i], list_visit, &l, err) != 0) {
			reencrypt_list_free(list);
			return -1;
		}
	merge(list);
	return 0;
}

void
reencrypt_list_free(struct reencrypt_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->entry[i].path);
	free(list->entry);
	memset(list, 0, sizeof(*list));
}

/* Large files come first, by size, so the first `jobs` of a device are those that may be written at once at worst, and
 * beside them a group of small ones by each other thread. Spares add nothing: their room was taken by what they made
 * way for.
 */
static uint64_t
largest(const struct reencrypt_list *list, dev_t device, int jobs, int threads)
{
	uint64_t need = (uint64_t)(threads - jobs) * REENCRYPT_TOGETHER_BYTES, all = 0;

	for (size_t i = 0; i < list->n; i++) {
		uint64_t len = list->entry[i].len;

		if (list->entry[i].device != device || list->entry[i].has_new)
			continue;
		all += len;
		if (jobs-- > 0)
			need += len > REENCRYPT_TOGETHER_BYTES ? len : REENCRYPT_TOGETHER_BYTES;
	}
	return (need < all ? need : all) + ROOM_SPARE;
}

/* Is there room on the device that an entry lies on? */
static int
device_room(const struct reencrypt_list *list, const struct reencrypt_entry *e, const char *datadir, int jobs,
            int threads, struct err *err)
{
	char path[PATH_MAX], want[32], have[32];
	uint64_t need, room;
	struct statvfs fs;

	if (path_format(path, err, "%s/%s", datadir, e->path) != 0)
		return -1;
	*strrchr(path, '/') = '\0';
	if (statvfs(path, &fs) != 0)
		return err_os(err, errno, "could not ask for free space at \"%s\"", path);
	room = (uint64_t)fs.f_bavail * fs.f_frsize;
	if ((need = largest(list, e->device, jobs, threads)) <= room)
		return 0;
	bytes_format(want, (double)need);
	bytes_format(have, (double)room);
	err_set(err, ERR_REFUSED, "too little free space on the file system of \"%s\"", path);
	err_detail(err, "%d files may be written at once, which takes %s; %s is free.", jobs, want, have);
	return jobs > 1 ? err_hint(err, "Make room, or give --jobs a smaller number.") : err_hint(err, "Make room.");
}

int
reencrypt_list_room(const struct reencrypt_list *list, const char *datadir, int jobs, int threads, struct err *err)
{
	dev_t *devices = calloc(list->n + 1, sizeof(*devices)); /* a few, in truth */
	size_t n = 0;
	int result = 0;

	if (devices == NULL)
		return err_nomem(err);
	for (size_t i = 0; result == 0 && i < list->n; i++) {
		size_t j = 0;

		while (j < n && devices[j] != list->entry[i].device)
			j++;
		if (j < n)
			continue;
		devices[n++] = list->entry[i].device;
		result = device_room(list, &list->entry[i], datadir, jobs, threads, err);
	}
	free(devices);
	return result;
}

int
reencrypt_list_sync(const struct reencrypt_list *list, const char *datadir, struct err *err)
{
	char **folders = calloc(list->n + 1, sizeof(*folders));
	size_t n = 0;
	int result = 0;

	if (folders == NULL)
		return err_nomem(err);
	for (size_t i = 0; result == 0 && i < list->n; i++) {
		const char *path = list->entry[i].path;
		size_t len = (size_t)(strrchr(path, '/') - path), j;

		for (j = 0; j < n; j++)
			if (strncmp(folders[j], path, len) == 0 && folders[j][len] == '\0')
				break;
		if (j == n && (folders[n++] = strndup(path, len)) == NULL)
			result = err_nomem(err);
	}
	for (size_t j = 0; result == 0 && j < n; j++) {
		char path[PATH_MAX];

		result = path_format(path, err, "%s/%s", datadir, folders[j]) != 0 ? -1 : durable_fsync_dir(path, err);
	}
	for (size_t j = 0; j < n; j++)
		free(folders[j]);
	free(folders);
	return result;
}

/* Texts of queries, under a key of the old keyset or in clear: it is statistics, begun anew by the next start. */
static bool
is_statement_texts(const char *path)
{
	return strcmp(path, "pg_stat/pg_stat_statements.stat") == 0 ||
	       strcmp(path, "pg_stat_tmp/pgss_query_texts.stat") == 0;
}

static int
clean_visit(void *arg, const char *path, const struct stat *st, struct err *err)
{
	const char *datadir = arg, *name = strrchr(path, '/') + 1;
	char full[PATH_MAX];
	struct pgfile is;

	if (!S_ISREG(st->st_mode))
		return 0;
	pgfile_parse(path, false, &is);
	if (is.kind != PGFILE_TEMP && is.kind != PGFILE_WAL_TEMP && is.kind != PGFILE_WAL_RECOVERY &&
	    strncmp(name, "pgsql_tmp", 9) != 0 && strcmp(name, "pg_internal.init") != 0 && !ends_with(path, ".spill") &&
	    !is_statement_texts(path) && strncmp(path, "pg_notify/", 10) != 0 && !ends_with(path, REENCRYPT_TMP))
		return 0;
	if (path_format(full, err, "%s/%s", datadir, path) != 0)
		return -1;
	return unlink(full) == 0 || errno == ENOENT ? 0 : err_os(err, errno, "could not remove file \"%s\"", full);
}

int
reencrypt_clean(const char *datadir, struct err *err)
{
	static const char *const folders[] = {"base",        "global",  "pg_tblspc",   "pg_wal",
	                                      "pg_replslot", "pg_stat", "pg_stat_tmp", "pg_notify"};
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		if (path_format(path, err, "%s", datadir) != 0 ||
		    data_files_walk(datadir, folders[i], clean_visit, path, err) != 0)
			return -1;
	return 0;
}
