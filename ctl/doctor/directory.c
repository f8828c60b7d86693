/* directory: a data directory on this machine. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/datadir.h"
#include "common/path.h"
#include "ctl/doctor/checks.h"
#include "ctl/guard.h"
#include "ctl/layer.h"
#include "keymgr/keydir.h"

#define LAYER "libwalcrypt-storage.so"

static void
check_mode(struct findings *f, const char *datadir)
{
	struct stat st;

	if (stat(datadir, &st) != 0)
		finding(f, FINDING_PROBLEM, NULL, "it could not be looked at: %s", strerror(errno));
	else if (st.st_uid == 0)
		finding(f, FINDING_PROBLEM, "Give it to the user that runs PostgreSQL, who is never root.",
		        "it belongs to root");
	else if ((st.st_mode & 0027) != 0)
		finding(f, FINDING_PROBLEM, "chmod 700 it (or 750, as initdb -g does).", "it has mode %04o",
		        (unsigned)st.st_mode & 07777);
}

/* Version, programs, sizes, checksums. */
static void
check_cluster(struct findings *f, const char *datadir, bool encrypted)
{
	struct datadir_control control;
	char program[PATH_MAX];
	struct err err;
	int major;

	if (datadir_supported(datadir, &major, &err) != 0) {
		finding_err(f, FINDING_PROBLEM, &err);
		return;
	}
	if (program_find("postgres", datadir, program, &err) != 0)
		finding_err(f, FINDING_PROBLEM, &err);
	else
		finding(f, FINDING_OK, NULL, "PostgreSQL %d, %s", major, program);
	if (datadir_control_read(datadir, &control, &err) != 0 || datadir_check_layout(datadir, &control, &err) != 0)
		finding_err(f, FINDING_PROBLEM, &err);
	else if (control.checksum_version == 0)
		finding(f, encrypted ? FINDING_WARNING : FINDING_NOTE,
		        encrypted ? "Stop it and run \"walcrypt-ctl exec -D DIR pg_checksums --enable\"."
		                  : "\"pg_checksums --enable\" on the stopped server switches them on.",
		        "it has no data checksums: nothing tells a damaged page from a good one");
	else
		finding(f, FINDING_OK, NULL, "data checksums are on");
}

/* Has a running server our library mapped? -1: that cannot be seen from here. */
static int
server_has_layer(pid_t pid)
{
	char path[64], line[PATH_MAX + 128];
	FILE *file;
	int has = 0;

	snprintf(path, sizeof(path), "/proc/%ld/maps", (long)pid);
	if ((file = fopen(path, "re")) == NULL)
		return -1;
	while (has == 0 && fgets(line, sizeof(line), file) != NULL)
		has = strstr(line, LAYER) != NULL;
	if (ferror(file))
		has = -1;
	fclose(file);
	return has;
}

static void
check_server(struct findings *f, const char *datadir, bool encrypted)
{
	pid_t pid = datadir_server(datadir);
	int has = pid != 0 ? server_has_layer(pid) : 0;

	if (pid == 0)
		finding(f, FINDING_OK, NULL, "no server runs in it");
	else if (has < 0)
		finding(f, FINDING_NOTE, "Run doctor as the server's user.", "the memory map of server %ld is not ours to read",
		        (long)pid);
	else if (encrypted && has == 0)
		finding(
		    f, FINDING_PROBLEM,
		    "Stop it with \"pg_ctl stop -m immediate\", look with \"walcrypt-ctl verify\", start it with the layer.",
		    "server %ld runs without the storage layer: what it writes is in clear and not readable with it",
		    (long)pid);
	else
		finding(f, FINDING_OK, NULL, "server %ld runs %s", (long)pid,
		        has > 0 ? "under the storage layer" : "without the storage layer, on clear files");
}

static void
check_guard(struct findings *f, const char *datadir)
{
	char library[PATH_MAX];
	struct err err;
	int there = guard_there(datadir, &err);

	if (there < 0)
		finding_err(f, FINDING_PROBLEM, &err);
	else if (there == 0)
		finding(f, FINDING_PROBLEM,
		        "Put it back: ALTER SYSTEM SET shared_preload_libraries, with libwalcrypt-storage last.",
		        "postgresql.auto.conf does not name the storage layer: a server without it would start");
	else
		finding(f, FINDING_OK, NULL, "a server without the storage layer would not start");
	if (layer_library(library, &err) != 0)
		finding_err(f, FINDING_PROBLEM, &err);
}

void
doctor_directory(struct findings *f, const char *config, const char *datadir)
{
	char keys[PATH_MAX];
	struct err err;
	bool encrypted;

	findings_area(f, "data directory %s", datadir);
	if (path_format(keys, &err, "%s/pg_cryptokeys", datadir) != 0) {
		finding_err(f, FINDING_PROBLEM, &err);
		return;
	}
	check_mode(f, datadir);
	if (datadir_check_settled(datadir, &err) != 0) {
		finding_err(f, FINDING_PROBLEM, &err);
		return;
	}
	encrypted = keydir_exists(keys);
	check_cluster(f, datadir, encrypted);
	check_server(f, datadir, encrypted);
	if (!encrypted) {
		finding(f, FINDING_NOTE, NULL, "it is not encrypted");
		return;
	}
	check_guard(f, datadir);
	doctor_keys(f, config, keys, datadir, NULL);
}
