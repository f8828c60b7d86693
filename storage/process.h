/*
 * process: which program this is, what it is doing now, and so how it sees files (docs/storage.md has the table).
 *
 * The server says what it is doing in three variables that it exports: MyBackendType, am_walsender, debug_query_string.
 */
#ifndef STORAGE_PROCESS_H
#define STORAGE_PROCESS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

enum program {
	PROGRAM_PASSIVE, /* everything else: all calls pass */
	PROGRAM_SERVER,
	PROGRAM_TOOL /* pg_checksums, pg_rewind, pg_waldump, pg_resetwal */
};

enum role { ROLE_NORMAL, ROLE_STARTUP, ROLE_WALRECEIVER, ROLE_ARCHIVER };

/* What a walsender copies to its client: nothing of the kind, files (BASE_BACKUP and what we do not know), or the WAL
 * that physical START_REPLICATION streams (R8). */
enum copying { COPYING_NOTHING, COPYING_FILES, COPYING_WAL };

struct process {
	enum program program;
	bool rewind;    /* the tool is pg_rewind */
	bool preloaded; /* this copy's functions come before libc's */
	bool fresh;     /* just forked: process_begin has not run yet */
};
extern struct process process;

/* Look up what the server exports and check that it is one that we know. Once, in the process that unlocks. */
int process_learn(struct err *err);
/* A child's first file: locks the keys in memory again and, in a startup process, begins a run. Cheap when not fresh.
 */
void process_begin(void);

enum role process_role(void);
/* What this process, if it is a walsender, is copying now. */
enum copying process_copying(void);
/* A number that changes with each command that a walsender executes. */
uint64_t process_command(void);
/* Does the command's text contain this, in any case of letters? */
bool process_command_has(const char *text);
/* Postmaster and its children, as opposed to single-user and bootstrap mode. */
bool process_under_postmaster(void);
/* The postmaster itself, or a single-user server: what fails in it ends the start. */
bool process_is_postmaster(void);
/* The server's fsync setting; true in tools. */
bool process_fsync(void);
/* The end of WAL as the server knows it, when recovery is over; 0 when that cannot be told. */
uint64_t process_insert_lsn(uint32_t *tli);
/* A server function's or variable's address, or NULL. */
void *process_symbol(const char *name);
/* The value of a server's setting as text, or NULL; valid until the next call. */
const char *process_setting(const char *name);
/* The server's major version as process_setting tells it; 0 when it does not. */
int process_major(void);

/* The name that a descriptor's file has now; empty if that cannot be told. */
void process_path(int fd, char path[static PATH_MAX]);
/* Print err with the file's name; sets errno to EIO and returns -1. */
int process_fail(const struct err *err, int fd);
/* Print err and end the program with status 1. */
void process_die(const struct err *err) __attribute__((noreturn));

#endif
