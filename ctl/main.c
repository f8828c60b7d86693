/* walcrypt-ctl: makes keys and encrypted clusters, runs stock programs on them, verifies them and shows what goes on.
 */
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/version.h"
#include "ctl/audited.h"
#include "ctl/command.h"
#include "walcrypt/secmem.h"

static const struct command *const commands[] = {
    &command_initdb,        &command_exec,       &command_build,       &command_reencrypt,  &command_verify,
    &command_wal,           &command_key_init,   &command_key_list,    &command_key_show,   &command_key_verify,
    &command_key_alter,     &command_key_move,   &command_key_import,  &command_key_export, &command_key_repair,
    &command_key_new_epoch, &command_key_backup, &command_key_restore, &command_key_sync,   &command_key_audit,
    &command_key_destroy,   &command_key_retire, &command_status,      &command_pause,      &command_resume,
    &command_reload,        &command_switchover, &command_rotate,      &command_failover,   &command_doctor,
    &command_unlock,
};
#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

void
report(const char *level, const struct err *err)
{
	fprintf(stderr, "%s:  %s\n", level, err->text);
	if (err->detail[0] != '\0')
		fprintf(stderr, "DETAIL:  %s\n", err->detail);
	if (err->hint[0] != '\0')
		fprintf(stderr, "HINT:  %s\n", err->hint);
}

static void
help_all(void)
{
	printf("walcrypt-ctl makes keys and encrypted clusters, runs stock programs on them, verifies them and shows what "
	       "goes "
	       "on.\n\nUsage: walcrypt-ctl COMMAND [OPTION]...\n       walcrypt-ctl help [COMMAND]\n       walcrypt-ctl "
	       "--version\n\nCommands:\n");
	for (size_t i = 0; i < NCOMMANDS; i++)
		if (commands[i]->summary != NULL)
			printf("  %-14s %s\n", commands[i]->name, commands[i]->summary);
	printf(
	    "\n\"walcrypt-ctl COMMAND --help\" tells more. Exit status: 0 done, 1 failed, 2 wrong usage, 3 damage found,\n"
	    "4 key provider or server unreachable, 5 wrong key, 6 refused and nothing changed, 7 stopped midway.\n");
}

static void
help_one(const struct command *c)
{
	printf("Usage: walcrypt-ctl %s %s\n\n%s\n\nOptions:\n", c->name, c->arguments,
	       c->summary != NULL ? c->summary : "for the storage layer's use");
	options_help(stdout, c->options);
	if (c->more != NULL)
		printf("\n%s\n", c->more);
}

/* The command that argv[1] (and argv[2], for "key init") names; *skip: how many words that took. */
static const struct command *
command_find(int argc, char *const *argv, int *skip)
{
	for (size_t i = 0; i < NCOMMANDS; i++) {
		const char *name = commands[i]->name, *blank = strchr(name, ' ');

		*skip = blank != NULL ? 2 : 1;
		if (blank == NULL && strcmp(argv[1], name) == 0)
			return commands[i];
		if (blank != NULL && argc > 2 && strncmp(argv[1], name, (size_t)(blank - name)) == 0 &&
		    argv[1][blank - name] == '\0' && strcmp(argv[2], blank + 1) == 0)
			return commands[i];
	}
	return NULL;
}

/* What a wrong command line is told, if it is told nothing better. */
static int
usage_hint(struct err *err, const struct command *c)
{
	return err->hint[0] != '\0' ? -1 : err_hint(err, "Try \"walcrypt-ctl %s --help\".", c->name);
}

static int
command_run(const struct command *c, int argc, char *const *argv, struct err *err)
{
	_Alignas(16) char options[COMMAND_OPTIONS_MAX] = {0};
	const struct common_options *common = (const struct common_options *)(const void *)options;
	const char *args[1024];
	size_t nargs;
	int status;

	if ((size_t)argc > sizeof(args) / sizeof(args[0]))
		return err_set(err, ERR_USAGE, "too many arguments");
	if (options_parse(c->options, c->style, argc, argv, options, args, &nargs, err) != 0)
		return usage_hint(err, c);
	if (common->help) {
		help_one(c);
		return 0;
	}
	if (nargs < c->min_args || nargs > c->max_args) {
		err_set(err, ERR_USAGE, nargs < c->min_args ? "an argument is missing" : "too many arguments: \"%s\"",
		        nargs > c->max_args ? args[c->max_args] : "");
		return err_hint(err, "Usage: walcrypt-ctl %s %s\nTry \"walcrypt-ctl %s --help\".", c->name, c->arguments,
		                c->name);
	}
	status = audited_run(c, options, argv + 1, (size_t)argc - 1, args, nargs, err);
	return status < 0 && err->class == ERR_USAGE ? usage_hint(err, c) : status;
}

/* Half a command ("key"), or one that is none. */
static int
command_unknown(const char *name)
{
	bool first = true;

	for (size_t i = 0; i < NCOMMANDS; i++) {
		size_t len = strlen(name);

		if (strncmp(commands[i]->name, name, len) != 0 || commands[i]->name[len] != ' ')
			continue;
		if (first)
			fprintf(stderr, "ERROR:  unknown command \"%s\"\nHINT:  There are ", name);
		fprintf(stderr, "%s\"%s\"", first ? "" : ", ", commands[i]->name);
		first = false;
	}
	if (first)
		fprintf(stderr, "ERROR:  unknown command \"%s\"\nHINT:  Try \"walcrypt-ctl --help\".\n", name);
	else
		fprintf(stderr, ".\n");
	return ERR_USAGE;
}

/* help [COMMAND] */
static int
help_run(int argc, char *const *argv)
{
	const struct command *c;
	int skip;

	if (argc < 2)
		help_all();
	else if ((c = command_find(argc, argv, &skip)) != NULL)
		help_one(c);
	else
		return command_unknown(argv[1]);
	return 0;
}

int
main(int argc, char **argv)
{
	const struct command *c;
	struct err err = {0};
	int skip, status;

	if (argc < 2) {
		fprintf(stderr, "ERROR:  no command is given\nHINT:  Try \"walcrypt-ctl --help\".\n");
		return ERR_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0)
		return help_run(1, argv);
	if (strcmp(argv[1], "help") == 0)
		return help_run(argc - 1, argv + 1);
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		puts("walcrypt-ctl " WALCRYPT_VERSION);
		return 0;
	}
	if ((c = command_find(argc, argv, &skip)) == NULL)
		return command_unknown(argv[1]);
	log_set_level(LOG_WARNING);
	/* before libcrypto's first allocation: key schedules must not come to lie in ordinary memory */
	if (secmem_hook_openssl(&err) != 0 || (status = command_run(c, argc - skip, argv + skip, &err)) < 0) {
		/* a server's log counts its FATAL lines: unlock speaks for the server that does not start */
		report(c == &command_unlock ? "FATAL" : "ERROR", &err);
		status = c == &command_exec ? 125 : (int)err.class;
	}
	if (fflush(stdout) != 0 && status == 0) {
		fprintf(stderr, "ERROR:  could not write the output\n");
		status = ERR_FAILED;
	}
	return status;
}
