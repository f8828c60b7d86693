/* What is read from a data directory, from made-up files; and the durable file functions that everything is written
 * with. */
#include "common/datadir.h"

#include <errno.h>
#include <isa-l/crc.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "tests/unit/tap.h"

static char dir[] = "/tmp/datadir_testXXXXXX";

static const char *
in(const char *name)
{
	static char path[PATH_MAX];
	struct err err;

	path_format(path, &err, "%s/%s", dir, name);
	return path;
}

static void
put32(uint8_t *at, uint32_t v)
{
	memcpy(at, &v, sizeof(v));
}

static void
put64(uint8_t *at, uint64_t v)
{
	memcpy(at, &v, sizeof(v));
}

static void
control(void)
{
	uint8_t file[8192] = {0};
	struct datadir_control c;
	struct err err = {0};

	put64(file, 7300000000000000001);
	put32(file + 8, 1300);
	put32(file + 16, DATADIR_IN_ARCHIVE_RECOVERY);
	put64(file + 32, 0x3000028);
	put64(file + 40, 0x3000000);
	put32(file + 48, 5);
	put64(file + 136, 0x4000060);
	put32(file + 144, 4);
	put32(file + 216, 8192);
	put32(file + 220, 131072);
	put32(file + 224, 8192);
	put32(file + 228, 16 << 20);
	put32(file + 252, 1);
	put32(file + 288, ~crc32_iscsi(file, 288, 0xffffffff));
	mkdir(in("global"), 0700);
	is_int(datadir_control_read(dir, &c, &err), -1, "no pg_control");
	is_int(err.os_errno, ENOENT, "... is ENOENT");
	is_int(durable_write(in("global/pg_control"), file, sizeof(file), 0600, &err), 0, "a pg_control");
	is_int(datadir_control_read(dir, &c, &err), 0, "... is read");
	ok(c.system_identifier == 7300000000000000001 && c.version == 1300 && c.state == DATADIR_IN_ARCHIVE_RECOVERY &&
	       c.checkpoint == 0x3000028 && c.redo == 0x3000000 && c.tli == 5 && c.min_recovery == 0x4000060 &&
	       c.min_recovery_tli == 4 && c.block_size == 8192 && c.blocks_per_segment == 131072 &&
	       c.wal_block_size == 8192 && c.wal_segment_size == 16 << 20 && c.checksum_version == 1,
	   "... every field");
	is_str(datadir_state_name(c.state), "in archive recovery", "... and named");
	file[40] ^= 1;
	durable_write(in("global/pg_control"), file, sizeof(file), 0600, &err);
	is_int(datadir_control_read(dir, &c, &err), -1, "a changed one");
	is_err(&err, ERR_DAMAGED, "checksum of", "... is damaged");
	durable_write(in("global/pg_control"), file, 200, 0600, &err);
	is_int(datadir_control_read(dir, &c, &err), -1, "a short one");
	is_err(&err, ERR_DAMAGED, "checksum of", "... is damaged");
	file[40] ^= 1;
	put32(file + 8, 1700);
	put32(file + 288, ~crc32_iscsi(file, 288, 0xffffffff));
	durable_write(in("global/pg_control"), file, sizeof(file), 0600, &err);
	ok(datadir_control_read(dir, &c, &err) == 0 && c.version == 1700 && c.checksum_version == 1, "that of 17");
	put32(file + 8, 1800);
	put32(file + 292, ~crc32_iscsi(file, 292, 0xffffffff));
	durable_write(in("global/pg_control"), file, sizeof(file), 0600, &err);
	ok(datadir_control_read(dir, &c, &err) == 0 && c.version == 1800 && c.checksum_version == 1, "that of 18");
	put32(file + 8, 1900);
	durable_write(in("global/pg_control"), file, sizeof(file), 0600, &err);
	is_int(datadir_control_read(dir, &c, &err), -1, "another version");
	is_err(&err, ERR_REFUSED, "has version 1900", "... is refused");
}

static void
others(void)
{
	struct err err = {0};
	char pid[32];
	int major = 0;

	is_int(datadir_major_version(dir, &major, &err), -1, "no PG_VERSION");
	is_err(&err, ERR_REFUSED, "is not a data directory", "... is no data directory");
	durable_write(in("PG_VERSION"), "15\n", 3, 0600, &err);
	ok(datadir_major_version(dir, &major, &err) == 0 && major == 15, "PG_VERSION");
	ok(datadir_supported(dir, &major, &err) == 0 && major == 15, "... supported");
	durable_write(in("PG_VERSION"), "14\n", 3, 0600, &err);
	is_int(datadir_supported(dir, &major, &err), -1, "an older one");
	is_err(&err, ERR_REFUSED, "is of PostgreSQL 14, which is not supported", "... is refused by name");
	durable_write(in("PG_VERSION"), "19\n", 3, 0600, &err);
	is_int(datadir_supported(dir, &major, &err), -1, "a newer one");
	is_err(&err, ERR_REFUSED, "is of PostgreSQL 19, which is not supported", "... is refused by name");
	durable_write(in("PG_VERSION"), "x\n", 2, 0600, &err);
	ok(datadir_major_version(dir, &major, &err) != 0 && err.class == ERR_DAMAGED, "a damaged one");
	ok(!datadir_in_use(dir), "no postmaster.pid: not in use");
	snprintf(pid, sizeof(pid), "%d\n/somewhere\n", (int)getpid());
	durable_write(in("postmaster.pid"), pid, strlen(pid), 0600, &err);
	ok(datadir_in_use(dir), "one of a living process: in use");
	snprintf(pid, sizeof(pid), "-%d\n", (int)getpid());
	durable_write(in("postmaster.pid"), pid, strlen(pid), 0600, &err);
	ok(datadir_in_use(dir), "single-user mode, too");
	durable_write(in("postmaster.pid"), "4194305\n", 8, 0600, &err);
	ok(!datadir_in_use(dir), "one of a process that cannot be: not in use");
}

static void
durable(void)
{
	struct err err = {0};
	mode_t mask = umask(0);
	struct stat st;
	uint8_t *data;
	size_t len;

	is_int(durable_create(in("file"), "one", 3, 0640, &err), 0, "a new file");
	umask(mask);
	ok(stat(in("file"), &st) == 0 && (st.st_mode & 07777) == 0640 && st.st_nlink == 1, "... of the mode asked for");
	is_int(durable_create(in("file"), "two", 3, 0600, &err), -1, "... is not made twice");
	is_int(err.os_errno, EEXIST, "... but EEXIST");
	data = durable_read(in("file"), 3, &len, &err);
	ok(data != NULL && len == 3 && strcmp((char *)data, "one") == 0, "... and stays as it is");
	free(data);
	ok(durable_read(in("file"), 2, &len, &err) == NULL && err.class == ERR_DAMAGED,
	   "a file larger than allowed is not read");
	is_int(durable_write(in("file"), "three", 5, 0600, &err), 0, "a replaced file");
	data = durable_read(in("file"), 100, &len, &err);
	ok(data != NULL && len == 5 && stat(in("file"), &st) == 0 && (st.st_mode & 07777) == 0600, "... with its new mode");
	free(data);
	is_int(durable_write(in("no/file"), "x", 1, 0600, &err), -1, "a folder that is not there");
	is_int(durable_mkdir(in("folder"), 0700, &err), 0, "a folder");
	is_int(durable_write(in("folder/a"), "x", 1, 0600, &err), 0, "... with a file");
	is_int(durable_rename(dir, in("folder/x"), &err), -1, "a rename that cannot be");
	is_int(durable_remove_dir(in("folder"), &err), 0, "... is removed");
	is_int(durable_remove_dir(in("folder"), &err), 0, "... and again");
	ok(access(in("folder"), F_OK) != 0, "... it is gone");
}

int
main(void)
{
	char command[64], path[PATH_MAX];
	struct err err = {0};

	if (mkdtemp(dir) == NULL)
		return 1;
	control();
	others();
	durable();
	ok(path_absolute(path, "/nonexistent/x///", &err) == 0 && strcmp(path, "/nonexistent/x") == 0, "an absolute path");
	ok(chdir(dir) == 0 && path_absolute(path, "y/z", &err) == 0 && strstr(path, "_test") != NULL &&
	       strcmp(path + strlen(path) - 4, "/y/z") == 0,
	   "a relative one");
	is_int(path_format(path, &err, "%5000d", 1), -1, "a path that is too long");
	is_int(err.os_errno, ENAMETOOLONG, "... is an error");
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) != 0 || tap_done();
}
