#include "storage/fdtable.h"

#include <fcntl.h>
#include <string.h>

#include "storage/process.h"
#include "storage/rewind.h"
#include "storage/tempfile.h"
#include "storage/walsource.h"
#include "walcrypt/pgfile.h"

struct file fdtable[FDTABLE_MAX];

static char root[4096];

void
fdtable_root(const char *dir)
{
	if (strlen(dir) < sizeof(root))
		memcpy(root, dir, strlen(dir) + 1);
}

/* A server names its files relative to the data directory, its working directory; extensions may name them in full. */
static const char *
relative(const char *path)
{
	size_t len = strlen(root);

	if (len > 0 && strncmp(path, root, len) == 0 && path[len] == '/')
		path += len + 1;
	while (strncmp(path, "./", 2) == 0)
		path += 2;
	return path;
}

/* A tool names files as it likes. */
static void
parse(const char *path, struct pgfile *pf)
{
	if (process.program == PROGRAM_SERVER && path[0] != '/')
		pgfile_parse(path, false, pf);
	else
		pgfile_parse_suffix(path, pf);
}

static bool
ends(const char *path, size_t len, const char *end)
{
	return len > strlen(end) && strcmp(path + len - strlen(end), end) == 0;
}

/* Files that only this run of the server reads: decoded changes waiting for their commit, and notifications. */
static bool
is_spill(const char *path)
{
	return strncmp(path, "pg_notify/", 10) == 0 ||
	       (strncmp(path, "pg_replslot/", 12) == 0 && ends(path, strlen(path), ".spill"));
}

/* pg_stat_statements: texts of queries, while it runs and across a restart. They are written under a name with ".tmp"
 * and get theirs then: returns that name, or NULL. */
static const char *
lasting_name(const char *path)
{
	static const char *const names[] = {"pg_stat_tmp/pgss_query_texts.stat", "pg_stat/pg_stat_statements.stat"};
	size_t len = strlen(path);

	if (ends(path, len, ".tmp"))
		len -= 4;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strlen(names[i]) == len && memcmp(path, names[i], len) == 0)
			return names[i];
	return NULL;
}

/* Files of a server's own business: nobody else has their key. */
static void
classify_temporary(const char *path, bool by_name, struct file *f)
{
	const char *lasting = by_name ? NULL : lasting_name(path);

	if (process.program != PROGRAM_SERVER || (!by_name && lasting == NULL && !is_spill(path)))
		return;
	if (tempfile_tweak(lasting != NULL ? TEMPFILE_LASTING : TEMPFILE_TEMPORARY, lasting != NULL ? lasting : path,
	                   f->tweak) != 0)
		return;
	f->class = FILE_TEMP;
	f->lasting = lasting != NULL;
}

static uint8_t
wal_view(bool readonly)
{
	if (process_role() == ROLE_ARCHIVER)
		return VIEW_RAW;
	if (readonly && process_copying() != COPYING_NOTHING)
		return process_copying() == COPYING_WAL && walsource_clear() ? VIEW_CRYPT : VIEW_SENDER;
	return !readonly && process_role() == ROLE_WALRECEIVER ? VIEW_RECEIVER : VIEW_CRYPT;
}

void
fdtable_classify(const char *path, int flags, struct file *f)
{
	bool readonly = (flags & O_ACCMODE) == O_RDONLY;
	struct pgfile pf;

	memset(f, 0, sizeof(*f));
	if ((flags & (O_DIRECTORY | O_PATH)) != 0)
		return;
	process_begin();
	if (process.program == PROGRAM_SERVER)
		path = relative(path);
	parse(path, &pf);
	if (process.rewind && (pf.kind == PGFILE_RELATION || pf.kind == PGFILE_WAL || pf.kind == PGFILE_WAL_TEMP)) {
		f->source = rewind_in_source(path);
		if (f->source && !rewind_dirs.source_encrypted)
			return;
	}
	switch (pf.kind) {
	case PGFILE_RELATION:
		f->class = FILE_RELATION;
		f->view = readonly && process_copying() != COPYING_NOTHING ? VIEW_RAW : VIEW_CRYPT;
		f->at = pf.at;
		return;
	case PGFILE_WAL:
		f->class = FILE_WAL;
		f->view = wal_view(readonly);
		f->wal.tli = pf.tli;
		f->wal.log = pf.log;
		f->wal.seg = pf.seg;
		return;
	case PGFILE_WAL_TEMP:
		f->class = FILE_WAL_TEMP;
		return;
	case PGFILE_TEMP:
	case PGFILE_OTHER:
		classify_temporary(path, pf.kind == PGFILE_TEMP, f);
		return;
	default:
		return;
	}
}

bool
fdtable_same_place(const struct file *a, const struct file *b)
{
	bool relation = a->class == FILE_RELATION, temp = a->class == FILE_TEMP;

	if (relation != (b->class == FILE_RELATION) || temp != (b->class == FILE_TEMP))
		return false;
	if (relation)
		return a->at.db == b->at.db && a->at.rel == b->at.rel && a->at.block == b->at.block &&
		       a->at.fork == b->at.fork && a->at.temp == b->at.temp;
	return !temp || (a->lasting == b->lasting && memcmp(a->tweak, b->tweak, sizeof(a->tweak)) == 0);
}
