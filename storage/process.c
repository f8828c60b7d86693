#include "storage/process.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/datadir.h"
#include "common/log.h"
#include "storage/imports.h"
#include "storage/rewind.h"
#include "storage/run.h"
#include "storage/walchange.h"
#include "walcrypt/secmem.h"

struct process process;

#define MAX_BACKEND_TYPES 32

/* What the server exports; NULL in tools. MyBackendType's numbers differ between versions, its texts do not. */
static struct {
	const int *backend_type;
	const bool *am_walsender, *postmaster_environment, *enable_fsync;
	const char *const *query;
	int64_t (*statement_start)(void);
	uint64_t (*insert_lsn)(void);
	uint32_t (*insert_tli)(void);
	bool (*in_recovery)(void);
	uint8_t role[MAX_BACKEND_TYPES];
} server;

void *
process_symbol(const char *name)
{
	return dlsym(RTLD_DEFAULT, name);
}

const char *
process_setting(const char *name)
{
	const char *(*get)(const char *, bool, bool) =
	    (const char *(*)(const char *, bool, bool))process_symbol("GetConfigOption");

	return get != NULL ? get(name, true, false) : NULL;
}

int
process_major(void)
{
	const char *version = process_setting("server_version_num");

	return version != NULL ? (int)(strtol(version, NULL, 10) / 10000) : 0;
}

static int
check_version(struct err *err)
{
	const char *version = process_setting("server_version");
	int major = process_major();

	if (major >= DATADIR_OLDEST_MAJOR && major <= DATADIR_NEWEST_MAJOR)
		return 0;
	err_set(err, ERR_REFUSED, "PostgreSQL %s is not supported by the storage layer",
	        version != NULL ? version : "of an unknown version");
	return err_hint(err, "Use PostgreSQL %d to %d.", DATADIR_OLDEST_MAJOR, DATADIR_NEWEST_MAJOR);
}

static int
check_constant(const char *name, const char *want, struct err *err)
{
	const char *have = process_setting(name);

	if (have != NULL && strcmp(have, want) == 0)
		return 0;
	return err_set(err, ERR_REFUSED, "a server built with %s = %s is not supported", name,
	               have != NULL ? have : "(unknown)");
}

/* PostgreSQL 18: the kernel would read and write files behind our back. */
static int
check_io_method(struct err *err)
{
	const char *method = process_setting("io_method");

	if (method == NULL || strcmp(method, "io_uring") != 0)
		return 0;
	err_set(err, ERR_REFUSED, "io_method = io_uring cannot be used with the storage layer");
	err_detail(err, "The kernel would read and write files without a call that the layer could see.");
	return err_hint(err, "Set io_method to \"worker\" or \"sync\".");
}

int
process_learn(struct err *err)
{
	const char *(*describe)(int) = (const char *(*)(int))process_symbol("GetBackendTypeDesc");

	if (check_version(err) != 0 || check_constant("block_size", "8192", err) != 0 ||
	    check_constant("wal_block_size", "8192", err) != 0 || check_constant("segment_size", "131072", err) != 0 ||
	    check_io_method(err) != 0)
		return -1;
	server.backend_type = process_symbol("MyBackendType");
	server.am_walsender = process_symbol("am_walsender");
	server.postmaster_environment = process_symbol("IsPostmasterEnvironment");
	server.enable_fsync = process_symbol("enableFsync");
	server.query = process_symbol("debug_query_string");
	server.statement_start = (int64_t(*)(void))process_symbol("GetCurrentStatementStartTimestamp");
	server.insert_lsn = (uint64_t(*)(void))process_symbol("GetXLogInsertRecPtr");
	server.insert_tli = (uint32_t(*)(void))process_symbol("GetWALInsertionTimeLine");
	server.in_recovery = (bool (*)(void))process_symbol("RecoveryInProgress");
	if (describe == NULL || server.backend_type == NULL || server.am_walsender == NULL ||
	    server.postmaster_environment == NULL || server.enable_fsync == NULL || server.query == NULL ||
	    server.insert_lsn == NULL || server.insert_tli == NULL || server.in_recovery == NULL) {
		err_set(err, ERR_REFUSED, "the storage layer does not know this build of the server");
		err_detail(err, "It does not export what tells its processes apart.");
		return err_hint(err, "Use a build with the usual exported symbols, as distributions ship it.");
	}
	for (int i = 0; i < MAX_BACKEND_TYPES; i++) {
		const char *name = describe(i);

		server.role[i] = strcmp(name, "startup") == 0       ? ROLE_STARTUP
		                 : strcmp(name, "walreceiver") == 0 ? ROLE_WALRECEIVER
		                 : strcmp(name, "archiver") == 0    ? ROLE_ARCHIVER
		                                                    : ROLE_NORMAL;
	}
	/* a server with the setting has the library's calls, and they stand still: it was looked at above */
	return imports_check(process_setting("io_method") != NULL, err);
}

enum role
process_role(void)
{
	int type = server.backend_type != NULL ? *server.backend_type : 0;

	return type >= 0 && type < MAX_BACKEND_TYPES ? (enum role)server.role[type] : ROLE_NORMAL;
}

/* The next word of a replication command; returns its length. */
static size_t
next_word(const char **s)
{
	size_t len;

	*s += strspn(*s, " \t\n\r\f\v");
	if (**s == '"') { /* a quoted slot name */
		const char *end = strchr(*s + 1, '"');

		return end != NULL ? (size_t)(end - *s) + 1 : strlen(*s);
	}
	len = strcspn(*s, " \t\n\r\f\v;(),\"'");
	return len;
}

static bool
word_is(const char *s, size_t len, const char *word)
{
	return len == strlen(word) && strncasecmp(s, word, len) == 0;
}

enum copying
process_copying(void)
{
	/* read WAL to decode it, or no file that is encrypted */
	static const char *const reading[] = {"IDENTIFY_SYSTEM",       "READ_REPLICATION_SLOT",  "CREATE_REPLICATION_SLOT",
	                                      "DROP_REPLICATION_SLOT", "ALTER_REPLICATION_SLOT", "TIMELINE_HISTORY"};
	const char *s;
	size_t len;

	if (server.am_walsender == NULL || !*server.am_walsender)
		return COPYING_NOTHING;
	s = *server.query;
	if (s == NULL)
		return COPYING_FILES;
	len = next_word(&s);
	if (word_is(s, len, "START_REPLICATION")) {
		s += len;
		len = next_word(&s);
		if (word_is(s, len, "SLOT")) {
			s += len;
			s += next_word(&s);
			len = next_word(&s);
		}
		return word_is(s, len, "LOGICAL") ? COPYING_NOTHING : COPYING_WAL;
	}
	for (size_t i = 0; i < sizeof(reading) / sizeof(reading[0]); i++)
		if (word_is(s, len, reading[i]))
			return COPYING_NOTHING;
	/* No SQL statement begins with a word that has an underscore, and every replication command that copies files does;
	 * their scanner knows no comments in front of it (repl_scanner.l). */
	for (size_t i = 0; i < len; i++)
		if (s[i] != '_' && ((s[i] | 0x20) < 'a' || (s[i] | 0x20) > 'z'))
			return COPYING_NOTHING;
	return memchr(s, '_', len) != NULL ? COPYING_FILES : COPYING_NOTHING;
}

uint64_t
process_command(void)
{
	int64_t (*start)(void) = server.statement_start;
	const char *s = server.query != NULL ? *server.query : NULL;
	uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

	if (start != NULL)
		hash ^= (uint64_t)start();
	for (; s != NULL && *s != '\0'; s++)
		hash = (hash ^ (uint8_t)*s) * UINT64_C(1099511628211);
	return hash;
}

bool
process_command_has(const char *text)
{
	return server.query != NULL && *server.query != NULL && strcasestr(*server.query, text) != NULL;
}

bool
process_under_postmaster(void)
{
	return server.postmaster_environment != NULL && *server.postmaster_environment;
}

bool
process_is_postmaster(void)
{
	const bool *child = process_symbol("IsUnderPostmaster");

	return child == NULL || !*child;
}

bool
process_fsync(void)
{
	return server.enable_fsync == NULL || *server.enable_fsync;
}

uint64_t
process_insert_lsn(uint32_t *tli)
{
	if (server.in_recovery == NULL || server.in_recovery())
		return 0;
	*tli = server.insert_tli();
	return server.insert_lsn();
}

/*
 * Recovery is over when a startup process ends with status 0. Where this fails the journal may be left with the page
 * in place already: nobody would look at it again in this run, and its replay after a crash would undo newer WAL (W4).
 * So the start fails instead.
 */
static void
on_startup_exit(int status, void *arg)
{
	struct err err;

	(void)arg;
	if (status != 0 || process_role() != ROLE_STARTUP || walchange_move_tail(&err) == 0)
		return;
	err_context(&err, "could not move the last WAL page to the new generation");
	process_die(&err);
}

void
process_begin(void)
{
	struct err err;

	if (!process.fresh || server.backend_type == NULL)
		return;
	if (process_role() == ROLE_STARTUP) {
		if (run_begin(&err) != 0)
			process_die(&err);
		on_exit(on_startup_exit, NULL);
	} else if (*server.backend_type == 0)
		return; /* it does not know itself yet */
	process.fresh = false;
	if (secmem_relock(&err) != 0)
		log_err(LOG_WARNING, &err, NULL);
}

static void
after_fork(void)
{
	process.fresh = true;
}

void
process_path(int fd, char path[static PATH_MAX])
{
	char link[32];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, PATH_MAX - 1);
	path[n > 0 ? n : 0] = '\0';
}

int
process_fail(const struct err *err, int fd)
{
	char path[PATH_MAX];

	process_path(fd, path);
	log_err(LOG_ERROR, err, path[0] != '\0' ? path : NULL);
	errno = EIO;
	return -1;
}

void
process_die(const struct err *err)
{
	log_err(LOG_FATAL, err, NULL);
	_exit(1);
}

/* The layer works in these programs and nowhere else. */
static enum program
program_by_name(const char *name)
{
	static const char *const tools[] = {"pg_checksums", "pg_rewind", "pg_waldump", "pg_resetwal"};

	if (strcmp(name, "postgres") == 0 || strcmp(name, "postmaster") == 0)
		return PROGRAM_SERVER;
	for (size_t i = 0; i < sizeof(tools) / sizeof(tools[0]); i++)
		if (strcmp(name, tools[i]) == 0)
			return PROGRAM_TOOL;
	return PROGRAM_PASSIVE;
}

/*
 * Loaded by LD_PRELOAD, our functions stand before libc's; loaded as a module (the guard), they do not. A function that
 * nobody else interposes tells, even with a sanitizer in front. glibc passes main's arguments to constructors.
 */
__attribute__((constructor)) static void
process_start(int argc, char **argv)
{
	static void *own;
	char path[4096];
	const char *name;
	ssize_t n;
	Dl_info own_info, first_info;

	own = (void *)process_start;
	first_info.dli_fbase = NULL;
	if (dladdr(own, &own_info) != 0 && dladdr(process_symbol("copy_file_range"), &first_info) != 0)
		process.preloaded = own_info.dli_fbase == first_info.dli_fbase;
	n = readlink("/proc/self/exe", path, sizeof(path) - 1);
	if (!process.preloaded || n <= 0)
		return;
	path[n] = '\0';
	name = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
	process.program = program_by_name(name);
	process.rewind = strcmp(name, "pg_rewind") == 0;
	if (process.rewind)
		rewind_arguments(argc, argv);
	if (process.program == PROGRAM_SERVER)
		pthread_atfork(NULL, NULL, after_fork);
}
