/*
 * command: what a client may say to a walsender, parsed, judged and written again for the upstream.
 * source: src/backend/replication/repl_gram.y and repl_scanner.l of PostgreSQL 15 to 18.
 */
#ifndef REPLICATION_COMMAND_H
#define REPLICATION_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/digest.h"

#define COMMAND_MAX_OPTIONS 64
#define COMMAND_NAME_MAX 63 /* PostgreSQL's NAMEDATALEN - 1: longer identifiers are cut there */

enum command_kind {
	COMMAND_EMPTY, /* nothing but white space and semicolons: EmptyQueryResponse */
	COMMAND_SQL,   /* the first word is none of a walsender's */
	COMMAND_IDENTIFY_SYSTEM,
	COMMAND_SHOW,
	COMMAND_TIMELINE_HISTORY,
	COMMAND_CREATE_SLOT,
	COMMAND_DROP_SLOT,
	COMMAND_READ_SLOT,
	COMMAND_ALTER_SLOT,
	COMMAND_START_PHYSICAL,
	COMMAND_START_LOGICAL,
	COMMAND_BASE_BACKUP,
	COMMAND_UPLOAD_MANIFEST
};

enum command_value { COMMAND_VALUE_NONE, COMMAND_VALUE_WORD, COMMAND_VALUE_STRING, COMMAND_VALUE_NUMBER };

struct command_option {
	char *name; /* as the scanner has it: lower case unless it was quoted */
	enum command_value kind;
	char *value; /* NULL for COMMAND_VALUE_NONE */
};

struct command {
	enum command_kind kind;
	char *name;        /* slot; of SHOW the setting; NULL when not given */
	char *plugin;      /* CREATE_SLOT ... LOGICAL */
	bool temporary;    /* CREATE_SLOT */
	bool logical;      /* CREATE_SLOT */
	bool wait;         /* DROP_SLOT */
	uint32_t timeline; /* TIMELINE_HISTORY; START_PHYSICAL, 0 when not given */
	uint64_t lsn;      /* START_* */
	struct command_option *options;
	size_t noptions;
};

/*
 * command_parse(text, len, cmd, err): one command.
 *   owns    copies of the names; command_free
 *   errors  -1 with sqlstate 42601 as the walsender would say it; cmd is as after command_free
 */
int command_parse(const char *text, size_t len, struct command *cmd, struct err *err);
void command_free(struct command *cmd); /* takes a zeroed one */
const char *
command_name(enum command_kind kind); /* "BASE_BACKUP" ..., also the tag of its CommandComplete where it has one */

/* Does the proxy honour it? -1 with the refusal (ERR_REFUSED, sqlstate, hint) otherwise. Knows the command alone, no
 * server. */
int command_check(const struct command *cmd, struct err *err);

/*
 * command_write(cmd, out, err): the command as text for the upstream, in the form PostgreSQL 15 and later take, quoted
 * where needed. shape   *out is malloc'ed; command_parse of it gives cmd again errors  -1: out of memory; COMMAND_SQL,
 * COMMAND_EMPTY and COMMAND_START_LOGICAL cannot be written (ERR_REFUSED)
 */
int command_write(const struct command *cmd, char **out, struct err *err);

/* Append an option, whatever there is already: the same name twice is what command_check refuses. */
int command_add_option(struct command *cmd, const char *name, enum command_value kind, const char *value,
                       struct err *err);
/* Set an option (added, or its value replaced) and take one away; name in lower case. For BASE_BACKUP:
 * "verify_checksums" false ... */
int command_set_option(struct command *cmd, const char *name, enum command_value kind, const char *value,
                       struct err *err);
void command_drop_option(struct command *cmd, const char *name);
const struct command_option *command_option(const struct command *cmd, const char *name); /* NULL when absent */

/* What the proxy needs to know of a BASE_BACKUP that command_check has let pass. */
struct command_backup {
	bool wal; /* -X fetch: WAL files are in the main archive */
	bool manifest;
	bool progress;
	bool tablespace_map; /* tar format */
	bool verify_checksums;
	bool incremental;           /* upon the manifest that was uploaded last */
	enum digest_kind checksums; /* DIGEST_NONE without a manifest */
};
int command_backup(const struct command *cmd, struct command_backup *b, struct err *err);

#endif
