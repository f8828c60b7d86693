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
 * struct ControlFileData of version 1300 (catalog/pg_control.h of PostgreSQL 15) on a 64-bit machine: offsets of what
 * we read. The first two fields are where they are in every version.
 */
enum {
	CONTROL_VERSION = 1300,
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
	AT_CRC = 288,
	CONTROL_LEN = 292,
	CONTROL_FILE_LEN = 8192
};

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

int
datadir_control_read(const char *dir, struct datadir_control *c, struct err *err)
{
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
		if (len >= CONTROL_LEN && u32_at(data, AT_VERSION) != CONTROL_VERSION) {
			uint32_t version = u32_at(data, AT_VERSION);

			free(data);
			err_set(err, ERR_REFUSED, "\"%s\" has version %u, which is not known", path, version);
			return err_hint(err, "This version of walcrypt reads version %d, that of PostgreSQL 15.", CONTROL_VERSION);
		}
		if (len >= CONTROL_LEN && ~crc32_iscsi(data, AT_CRC, 0xffffffff) == u32_at(data, AT_CRC))
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

bool
datadir_in_use(const char *dir)
{
	char path[PATH_MAX];
	struct err err;
	uint8_t *data;
	size_t len;
	long pid;

	if (path_format(path, &err, "%s/postmaster.pid", dir) != 0 || (data = durable_read(path, 4096, &len, &err)) == NULL)
		return false;
	pid = labs(atol((char *)data)); /* negative: single-user mode */
	free(data);
	return pid > 0 && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
}
