#include "ctl/epoch_use.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fileio.h"
#include "common/path.h"
#include "ctl/files.h"
#include "walcrypt/wal.h"

#define NAME_LEN 24

struct look {
	struct epoch_use *u;
	const char *dir;
};

/* WAL packed by somebody else: 24 hex digits with an ending that is not PostgreSQL's, or a tar. */
static bool
is_closed(const char *name)
{
	const char *ending = name + strspn(name, "0123456789ABCDEF");

	if (ending - name == NAME_LEN && *ending == '.')
		return strcmp(ending, ".partial") != 0 && strstr(ending, ".backup") == NULL;
	return strstr(name, ".tar") != NULL || strstr(name, ".tgz") != NULL;
}

static int
file_look(struct epoch_use *u, const char *path, uint64_t len, struct err *err)
{
	bool seen[KEYSET_MAX_EPOCHS] = {false};
	uint8_t head[WAL_LONG_HEADER_LEN];
	int fd = open(path, O_RDONLY | O_CLOEXEC), result = 0;

	/* a running server renames its files */
	if (fd < 0)
		return errno == ENOENT ? 0 : err_os(err, errno, "could not open file \"%s\"", path);
	for (uint64_t at = 0; at + WAL_PAGE_LEN <= len; at += WAL_PAGE_LEN) {
		size_t want = at == 0 ? WAL_LONG_HEADER_LEN : WAL_HEADER_LEN;
		ssize_t n = fileio_pread(fd, head, want, at);
		struct wal_header h;

		if (n < 0) /* what cannot be read may need any epoch */
			result = err_os(err, errno, "could not read file \"%s\"", path);
		if (n != (ssize_t)want)
			break;
		if (wal_page_look(head, want, &h) != WAL_PAGE_ENCRYPTED)
			continue;
		if (at == 0 && h.len == WAL_LONG_HEADER_LEN && h.system_identifier != u->system_identifier)
			break;
		seen[h.epoch7] = true;
	}
	close(fd);
	if (result != 0)
		return -1;
	u->files++;
	for (size_t i = 0; i < KEYSET_MAX_EPOCHS; i++)
		if (seen[i] && u->epoch[i].files++ == 0)
			memcpy(u->epoch[i].first, path, strlen(path) + 1);
	return 0;
}

static int
visit(void *arg, const char *path, const struct stat *st, struct err *err)
{
	struct look *l = arg;
	const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
	char full[PATH_MAX];
	struct pgfile is;

	if (!S_ISREG(st->st_mode))
		return 0;
	pgfile_parse(name, false, &is);
	if (is.kind != PGFILE_WAL && !is_closed(name))
		return 0;
	if (path_format(full, err, "%s/%s", l->dir, path) != 0)
		return -1;
	if (is.kind == PGFILE_WAL)
		return file_look(l->u, full, (uint64_t)st->st_size, err);
	if (l->u->closed++ == 0)
		memcpy(l->u->closed_first, full, strlen(full) + 1);
	return 0;
}

int
epoch_use_look(const char *dir, struct epoch_use *u, struct err *err)
{
	struct look l = {u, dir};
	char version[PATH_MAX];

	if (path_format(version, err, "%s/PG_VERSION", dir) != 0)
		return -1;
	if (access(dir, R_OK | X_OK) != 0)
		return err_os(err, errno, "could not look into \"%s\"", dir);
	return access(version, F_OK) == 0 ? data_files_walk(dir, "pg_wal", visit, &l, err)
	                                  : data_files_walk_any(dir, visit, &l, err);
}
