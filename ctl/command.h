/*
 * command: one command of walcrypt-ctl. The table of them in main.c drives dispatch and --help; each has a file of its
 * own.
 *
 * A command's struct of options begins with struct common_options and is zeroed before its options are parsed into it.
 */
#ifndef CTL_COMMAND_H
#define CTL_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "common/options.h"

#define COMMAND_OPTIONS_MAX 256 /* bytes of the largest struct of options */

struct common_options {
	bool help;
	const char *config; /* --config */
};

/* What the audit log tells of a command. */
enum command_audit {
	AUDIT_NOTHING,    /* it only looks */
	AUDIT_OR_REFUSE,  /* it changes keys: without a record it is not run */
	AUDIT_IF_WRITABLE /* a full disk must not keep a server from starting, or a standby from taking over */
};

struct command {
	const char *name;      /* "exec", "key init" */
	const char *arguments; /* after the name in the usage line */
	const char *summary;   /* one line in walcrypt-ctl --help; NULL: not shown there */
	const char *more;      /* what its own --help says beyond; may be NULL */
	const struct option_def *options;
	enum options_style style;
	size_t min_args, max_args;
	/* Returns the exit status, or -1 with err set (its class becomes the exit status). args is NULL-terminated. */
	int (*run)(void *options, const char **args, size_t nargs, struct err *err);
	enum command_audit audit;
	bool makes_keysets; /* into a keystore that need not be there yet */
	size_t keystore;    /* where its options have --keystore; 0: it has none */
};

extern const struct command command_build, command_doctor, command_exec, command_initdb, command_key_alter,
    command_key_audit, command_key_backup, command_key_destroy, command_key_export, command_key_import,
    command_key_init, command_key_list, command_key_move, command_key_new_epoch, command_key_repair,
    command_key_restore, command_key_retire, command_key_show, command_key_sync, command_key_verify, command_pause,
    command_reencrypt, command_reload, command_resume, command_status, command_switchover, command_rotate,
    command_failover, command_unlock, command_verify, command_wal;

/* --kek, of a command whose struct of options is type; by_default: where the key comes from without it. */
#define KEK_OPTION(type, by_default)                                                                                   \
	{                                                                                                                  \
		"kek", 0, OPTION_TEXT, offsetof(type, kek), "SOURCE",                                                          \
		    "cluster key: file:PATH, command:COMMAND or a [kek] section's name (default: " by_default ")", 0, 0        \
	}

/* --provider-random, of a command that makes keys. */
#define PROVIDER_RANDOM_OPTION(type)                                                                                   \
	{                                                                                                                  \
		"provider-random", 0, OPTION_FLAG, offsetof(type, provider_random), NULL,                                      \
		    "mix random bytes of the cluster key's provider into the keys that are made", 0, 0                         \
	}

/* The options that every command has. */
#define COMMON_OPTIONS                                                                                                 \
	{"config",    0,                                                                                                   \
	 OPTION_TEXT, offsetof(struct common_options, config),                                                             \
	 "FILE",      "configuration file (default: WALCRYPT_CONFIG, else /etc/walcrypt/walcrypt.ini if it is there)",     \
	 0,           0},                                                                                                  \
	{                                                                                                                  \
		"help", '?', OPTION_HELP, offsetof(struct common_options, help), NULL, "show this help", 0, 0                  \
	}
#define OPTIONS_END                                                                                                    \
	{                                                                                                                  \
		NULL, 0, OPTION_FLAG, 0, NULL, NULL, 0, 0                                                                      \
	}

/* Print text, detail and hint as PostgreSQL's programs do: "ERROR:  ..." (prefix as given). */
void report(const char *level, const struct err *err);

#endif
