#include "common/datadir.h"

#include <errno.h>
#include <isa-l/crc.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/durable.h"
#include "common/path.h"

/*
 * struct ControlFileData (catalog/pg_control.h) on a 64-bit machine: offsets of what we read, the same in PostgreSQL 15
 * to 18 but for the CRC. The first two fields are where they are in every version.
 */
enum {
	AT_SYSTEM_IDENTIFIER = 0,
	AT_VERSION = 8,
	AT_STATE = 16,
	AT_CHECKPOINT = 32,
	AT_REDO = 40,
	AT_TLI = 48,
	AT_MIN_RECOVERY = 136,
	AT_MIN_RECOVERY_TLI = 144,
	AT_BLOCK_SIZE = 216,
	AT_BLOCKS_PER_SEGMENT = 220,
	AT_WAL_BLOCK_SIZE = 224,
	AT_WAL_SEGMENT_SIZE = 228,
	AT_CHECKSUM_VERSION = 252,
	CONTROL_LEN = 296,
	CONTROL_FILE_LEN = 8192
};

static const struct control_layout {
	uint32_t version;
	size_t crc_at;
} layouts[] = {{1300, 288}, {1700, 288}, {1800, 292}}; /* PostgreSQL 15 and 16; 17; 18 */

static uint32_t
u32_at(const uint8_t *data, size_t at)
{
	uint32_t v;

	memcpy(&v, data + at, sizeof(v));
	return v;
}

static uint64_t
u64_at(const uint8_t *data, size_t at)
{
	uint64_t v;

	memcpy(&v, data + at, sizeof(v));
	return v;
}

static const struct control_layout *
layout_of(uint32_t version)
{
	for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++)
		if (layouts[i].version == version)
			return &layouts[i];
	return NULL;
}

int
datadir_control_read(const char *dir, struct datadir_control *c, struct err *err)
{
	const struct control_layout *layout;
	char path[PATH_MAX];
	uint8_t *data;
	size_t len;

	memset(c, 0, sizeof(*c));
	if (path_format(path, err, "%s/global/pg_control", dir) != 0)
		return -1;
	/* a running server rewrites it in place */
	for (int try = 0;; try++) {
		if ((data = durable_read(path, CONTROL_FILE_LEN, &len, err)) == NULL)
			return -1;
		layout = len >= CONTROL_LEN ? layout_of(u32_at(data, AT_VERSION)) : NULL;
		if (len >= CONTROL_LEN && layout == NULL) {
			uint32_t version = u32_at(data, AT_VERSION);

			free(data);
			err_set(err, ERR_REFUSED, "\"%s\" has version %u, which is not known", path, version);
			return err_hint(err, "This version of walcrypt reads those of PostgreSQL 15 to 18.");
		}
		if (layout != NULL && ~crc32_iscsi(data, (int)layout->crc_at, 0xffffffff) == u32_at(data, layout->crc_at))
			break;
		free(data);
		if (try == 10)
			return err_set(err, ERR_DAMAGED, "checksum of \"%s\" is wrong", path);
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	c->system_identifier = u64_at(data, AT_SYSTEM_IDENTIFIER);
	c->version = u32_at(data, AT_VERSION);
	c->state = (enum datadir_state)u32_at(data, AT_STATE);
	c->checkpoint = u64_at(data, AT_CHECKPOINT);
	c->redo = u64_at(data, AT_REDO);
	c->tli = u32_at(data, AT_TLI);
	c->min_recovery = u64_at(data, AT_MIN_RECOVERY);
	c->min_recovery_tli = u32_at(data, AT_MIN_RECOVERY_TLI);
	c->block_size = u32_at(data, AT_BLOCK_SIZE);
	c->blocks_per_segment = u32_at(data, AT_BLOCKS_PER_SEGMENT);
	c->wal_block_size = u32_at(data, AT_WAL_BLOCK_SIZE);
	c->wal_segment_size = u32_at(data, AT_WAL_SEGMENT_SIZE);
	c->checksum_version = u32_at(data, AT_CHECKSUM_VERSION);
	free(data);
	return 0;
}

const char *
datadir_state_name(enum datadir_state state)
{
	static const char *const names[] = {"starting up",   "shut down",         "shut down in recovery",
	                                    "shutting down", "in crash recovery", "in archive recovery",
	                                    "in production"};

	return (unsigned)state < sizeof(names) / sizeof(names[0]) ? names[state] : "unrecognized status code";
}

int
datadir_major_version(const char *dir, int *major, struct err *err)
{
	char path[PATH_MAX];
	uint8_t *data;
	size_t len;

	if (path_format(path, err, "%s/PG_VERSION", dir) != 0)
		return -1;
	if ((data = durable_read(path, 64, &len, err)) == NULL) {
		if (err->os_errno == ENOENT || err->os_errno == ENOTDIR)
			err_set(err, ERR_REFUSED, "\"%s\" is not a data directory: it has no PG_VERSION", dir);
		return -1;
	}
	*major = (int)strtol((char *)data, NULL, 10);
	free(data);
	return *major > 0 ? 0 : err_set(err, ERR_DAMAGED, "\"%s\" holds no version", path);
}

int
datadir_supported(const char *dir, int *major, struct err *err)
{
	if (datadir_major_version(dir, major, err) != 0)
		return -1;
	if (*major >= DATADIR_OLDEST_MAJOR && *major <= DATADIR_NEWEST_MAJOR)
		return 0;
	err_set(err, ERR_REFUSED, "data directory \"%s\" is of PostgreSQL %d, which is not supported", dir, *major);
	return err_hint(err, "walcrypt supports PostgreSQL %d to %d.", DATADIR_OLDEST_MAJOR, DATADIR_NEWEST_MAJOR);
}

pid_t
datadir_server(const char *dir)
{
	char path[PATH_MAX];
	struct err err;
	uint8_t *data;
	size_t len;
	long pid;

	if (path_format(path, &err, "%s/postmaster.pid", dir) != 0 || (data = durable_read(path, 4096, &len, &err)) == NULL)
		return 0;
	pid = labs(atol((char *)data)); /* negative: single-user mode */
	free(data);
	return pid > 0 && (kill((pid_t)pid, 0) == 0 || errno == EPERM) ? (pid_t)pid : 0;
}

bool
datadir_in_use(const char *dir)
{
	return datadir_server(dir) != 0;
}
