#include <string.h>
#include <strings.h>

#include "replication/command.h"

static int
refuse(struct err *err, const char *text, const char *hint)
{
	err_set(err, ERR_REFUSED, "%s", text);
	err_hint(err, "%s", hint);
	return err_sqlstate(err, "0A000");
}

static int
bad_option(struct err *err, const char *what, const char *name)
{
	err_set(err, ERR_REFUSED, "%s: \"%s\"", what, name);
	return err_sqlstate(err, "42601");
}

/* As the server's defGetBoolean: no value is true; numbers 0 and 1; true, false, on, off, and where parse_bool is used
 * yes and no. */
static int
option_bool(const struct command_option *option, bool *value)
{
	const char *text = option->value;

	if (option->kind == COMMAND_VALUE_NONE || strcmp(text, "1") == 0 || strcasecmp(text, "true") == 0 ||
	    strcasecmp(text, "on") == 0 || strcasecmp(text, "yes") == 0)
		*value = true;
	else if (strcmp(text, "0") == 0 || strcasecmp(text, "false") == 0 || strcasecmp(text, "off") == 0 ||
	         strcasecmp(text, "no") == 0)
		*value = false;
	else
		return -1;
	return 0;
}

/* An absent option leaves *value as it is. */
static int
backup_bool(const struct command *cmd, const char *name, bool *value, struct err *err)
{
	const struct command_option *option = command_option(cmd, name);

	if (option == NULL || option_bool(option, value) == 0)
		return 0;
	err_set(err, ERR_REFUSED, "%s requires a Boolean value", name);
	return err_sqlstate(err, "42601");
}

static int
backup_manifest(const struct command *cmd, struct command_backup *b, struct err *err)
{
	const struct command_option *option = command_option(cmd, "manifest");
	const struct command_option *checksums = command_option(cmd, "manifest_checksums");

	if (option != NULL && option_bool(option, &b->manifest) != 0) {
		if (strcasecmp(option->value, "force-encode") != 0)
			return bad_option(err, "unrecognized manifest option", option->value);
		b->manifest = true;
	}
	b->checksums = b->manifest ? DIGEST_CRC32C : DIGEST_NONE;
	if (checksums == NULL)
		return 0;
	if (!b->manifest) {
		err_set(err, ERR_REFUSED, "manifest checksums require a backup manifest");
		return err_sqlstate(err, "42601");
	}
	if (checksums->value == NULL || digest_parse(checksums->value, &b->checksums) != 0)
		return bad_option(err, "unrecognized checksum algorithm", checksums->value != NULL ? checksums->value : "");
	return 0;
}

int
command_backup(const struct command *cmd, struct command_backup *b, struct err *err)
{
	memset(b, 0, sizeof(*b));
	b->checksums = DIGEST_NONE;
	b->verify_checksums = true;
	if (backup_bool(cmd, "verify_checksums", &b->verify_checksums, err) != 0 ||
	    backup_bool(cmd, "incremental", &b->incremental, err) != 0 || backup_bool(cmd, "wal", &b->wal, err) != 0 ||
	    backup_bool(cmd, "progress", &b->progress, err) != 0 ||
	    backup_bool(cmd, "tablespace_map", &b->tablespace_map, err) != 0)
		return -1;
	return backup_manifest(cmd, b, err);
}

/* An option that we do not know may change what the stream looks like, and then clear bytes could pass unseen: refused.
 */
static int
check_known(const struct command *cmd, struct err *err)
{
	static const char *const known[] = {
	    "label",         "progress",       "checkpoint",         "wait",        "wal",
	    "max_rate",      "tablespace_map", "verify_checksums",   "manifest",    "target",
	    "target_detail", "compression",    "compression_detail", "incremental", "manifest_checksums"};

	for (size_t i = 0; i < cmd->noptions; i++) {
		const char *name = cmd->options[i].name;
		size_t k = 0;

		while (k < sizeof(known) / sizeof(known[0]) && strcmp(known[k], name) != 0)
			k++;
		if (k == sizeof(known) / sizeof(known[0]))
			return bad_option(err, "unrecognized base backup option", name);
		if (command_option(cmd, name) != &cmd->options[i])
			return bad_option(err, "duplicate option", name);
	}
	return 0;
}

static int
check_backup(const struct command *cmd, struct err *err)
{
	const struct command_option *target = command_option(cmd, "target");
	const struct command_option *compression = command_option(cmd, "compression");
	struct command_backup backup;

	if (check_known(cmd, err) != 0)
		return -1;
	if ((target != NULL && (target->value == NULL || strcmp(target->value, "client") != 0)) ||
	    command_option(cmd, "target_detail") != NULL)
		return refuse(err, "walcrypt-proxy cannot leave a base backup on the server",
		              "Take the backup to the client: use pg_basebackup without --target.");
	if (compression != NULL && (compression->value == NULL || strcasecmp(compression->value, "none") != 0))
		return refuse(err, "walcrypt-proxy cannot encrypt a base backup that the server compresses",
		              "Let the client compress (pg_basebackup --compress=client-...), or leave compression out: "
		              "encrypted pages do not shrink.");
	if (compression != NULL && command_option(cmd, "compression_detail") != NULL)
		return refuse(err, "walcrypt-proxy cannot encrypt a base backup that the server compresses",
		              "Leave the option compression_detail out.");
	return command_backup(cmd, &backup, err);
}

int
command_check(const struct command *cmd, struct err *err)
{
	switch (cmd->kind) {
	case COMMAND_SQL:
		return refuse(err, "walcrypt-proxy takes replication commands only, not SQL",
		              "Connect to the server itself for SQL.");
	case COMMAND_START_LOGICAL:
		return refuse(err, "walcrypt-proxy does not take logical replication",
		              "Connect the subscriber to the server itself.");
	case COMMAND_CREATE_SLOT:
		if (cmd->logical)
			return refuse(err, "walcrypt-proxy does not make logical replication slots",
			              "Connect to the server itself for logical replication.");
		return 0;
	case COMMAND_BASE_BACKUP:
		return check_backup(cmd, err);
	case COMMAND_EMPTY:
	case COMMAND_IDENTIFY_SYSTEM:
	case COMMAND_SHOW:
	case COMMAND_TIMELINE_HISTORY:
	case COMMAND_DROP_SLOT:
	case COMMAND_READ_SLOT:
	case COMMAND_UPLOAD_MANIFEST:
	case COMMAND_ALTER_SLOT:
	case COMMAND_START_PHYSICAL:
		return 0;
	}
	return refuse(err, "unknown replication command",
	              "This proxy speaks the replication protocol of PostgreSQL 15 to 18.");
}
