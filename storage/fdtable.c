#include "storage/fdtable.h"

#include <fcntl.h>
#include <string.h>

#include "storage/process.h"
#include "storage/tempfile.h"
#include "walcrypt/pgfile.h"

struct file fdtable[FDTABLE_MAX];

/* A server names its files relative to the data directory, its working directory; a tool names them as it likes. */
static void
parse(const char *path, struct pgfile *pf)
{
	if (process.program == PROGRAM_SERVER && path[0] != '/')
		pgfile_parse(path, false, pf);
	else
		pgfile_parse_suffix(path, pf);
}

/* Files that only this run of the server reads: decoded changes waiting for their commit, and notifications. */
static bool
is_spill(const char *path)
{
	size_t len = strlen(path);

	if (strncmp(path, "./", 2) == 0)
		path += 2, len -= 2;
	if (strncmp(path, "pg_notify/", 10) == 0)
		return true;
	return strncmp(path, "pg_replslot/", 12) == 0 && len > 6 && strcmp(path + len - 6, ".spill") == 0;
}

static uint8_t
wal_view(bool readonly)
{
	if (process_role() == ROLE_ARCHIVER)
		return VIEW_RAW;
	if (readonly && process_copies_raw())
		return VIEW_SENDER;
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
	parse(path, &pf);
	switch (pf.kind) {
	case PGFILE_RELATION:
		f->class = FILE_RELATION;
		f->view = readonly && process_copies_raw() ? VIEW_RAW : VIEW_CRYPT;
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
		break;
	case PGFILE_OTHER:
		if (process.program == PROGRAM_SERVER && is_spill(path))
			break;
		return;
	default:
		return;
	}
	/* temporary files are a server's own business: nobody else has their key */
	if (process.program == PROGRAM_SERVER && tempfile_tweak(path, f->tweak) == 0)
		f->class = FILE_TEMP;
}
