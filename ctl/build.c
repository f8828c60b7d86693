/* build: an encrypted standby, by stock pg_basebackup through the proxy. */
#include <limits.h>
#include <postgresql/libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/datadir.h"
#include "common/path.h"
#include "ctl/command.h"
#include "ctl/guard.h"
#include "ctl/layer.h"
#include "ctl/proxy_address.h"
#include "ctl/start_line.h"
#include "keymgr/keygen.h"

struct build_options {
	struct common_options common;
	const char *datadir, *kek;
	bool allow_no_checksums;
};

static const struct option_def build_defs[] = {{"pgdata", 'D', OPTION_TEXT, offsetof(struct build_options, datadir),
                                                "DIR", "data directory to make (default: PGDATA)", 0, 0},
                                               KEK_OPTION(struct build_options, "the configuration's for NAME"),
                                               {"allow-no-checksums", 0, OPTION_FLAG,
                                                offsetof(struct build_options, allow_no_checksums), NULL,
                                                "do not insist on data checksums", 0, 0},
                                               COMMON_OPTIONS,
                                               OPTIONS_END};

/* Does the user's own list of options hold this one: "-X", "-Xfetch", "--wal-method=..."? */
static bool
has_option(const char **args, char letter, const char *name)
{
	for (; *args != NULL; args++)
		if (((*args)[0] == '-' && (*args)[1] == letter) ||
		    (strncmp(*args, "--", 2) == 0 && strncmp(*args + 2, name, strlen(name)) == 0))
			return true;
	return false;
}

static bool
wants_tar(const char **args)
{
	for (; *args != NULL; args++)
		if (strncmp(*args, "-Ft", 3) == 0 || strcmp(*args, "--format=tar") == 0 || strcmp(*args, "--format=t") == 0 ||
		    ((strcmp(*args, "-F") == 0 || strcmp(*args, "--format") == 0) && args[1] != NULL && args[1][0] == 't'))
			return true;
	return false;
}

/* A value of a connection string, quoted. */
static void
quote(char *out, size_t room, const char *value)
{
	size_t at = 0;

	out[at++] = '\'';
	for (; *value != '\0' && at + 4 < room; value++) {
		if (*value == '\'' || *value == '\\')
			out[at++] = '\\';
		out[at++] = *value;
	}
	out[at++] = '\'';
	out[at] = '\0';
}

static int
basebackup_run(const struct settings *settings, const char *name, const char *datadir, const char **args,
               struct err *err)
{
	struct proxy_address p = {0};
	char program[PATH_MAX], host[512], conninfo[1024];
	const char *argv[PROGRAM_ARGS_MAX] = {program, "-D", datadir, "-R"};
	size_t n = 4;

	if (program_find("pg_basebackup", NULL, program, err) != 0)
		return -1;
	/* the standby calls itself by its node's name in pg_stat_replication and synchronous_standby_names */
	if (has_option(args, 'h', "host") || has_option(args, 'd', "dbname")) {
		argv[n++] = "-U";
		argv[n++] = name;
	} else {
		if (proxy_address_find(settings, &p, err) != 0)
			return -1;
		quote(host, sizeof(host), p.host);
		snprintf(conninfo, sizeof(conninfo), "host=%s port=%s user=%s application_name=%s", host, p.port, name, name);
		argv[n++] = "-d";
		argv[n++] = conninfo;
	}
	if (!has_option(args, 'c', "checkpoint"))
		fprintf(stderr, "The backup begins with a checkpoint of the primary, which may take minutes; "
		                "--checkpoint=fast makes it come at once.\n");
	if (isatty(STDERR_FILENO) == 1 && !has_option(args, 'P', "progress"))
		argv[n++] = "-P";
	return program_run(argv, n, args, "pg_basebackup", err);
}

/* Without the guard a start without the layer would read ciphertext, and worse. */
static int
check_guard(const char *datadir, struct err *err)
{
	int there = guard_there(datadir, err);

	return there != 0
	           ? there
	           : err_set(err, ERR_FAILED, "\"%s/postgresql.auto.conf\" does not name the storage layer", datadir);
}

/* The port that the node's own conninfo gives it; 0: none does. */
static int
node_port(const struct settings *settings, const char *name)
{
	const struct settings_node *node = settings != NULL ? settings_node(settings, name) : NULL;
	PQconninfoOption *options;
	int port = 0;

	if (node == NULL || node->conninfo == NULL || (options = PQconninfoParse(node->conninfo, NULL)) == NULL)
		return 0;
	for (const PQconninfoOption *o = options; o->keyword != NULL; o++)
		if (strcmp(o->keyword, "port") == 0 && o->val != NULL)
			port = (int)strtol(o->val, NULL, 10);
	PQconninfoFree(options);
	return port;
}

static int
check_result(struct source *source, const struct build_options *o, const char *datadir, const char *name,
             struct err *err)
{
	struct datadir_control control;
	char keydir[PATH_MAX], keys[256];
	struct keyset *ks = NULL;
	int result = -1;

	if (datadir_keydir(datadir, keydir, err) != 0) {
		err_hint(err, "Was it really the proxy that pg_basebackup talked to? Remove \"%.150s\" and look.", datadir);
		return -1;
	}
	if ((ks = source_open(source, keydir, err)) == NULL || keyset_check_datadir(ks, datadir, err) != 0 ||
	    datadir_control_read(datadir, &control, err) != 0 || check_guard(datadir, err) < 0)
		goto done;
	if (control.checksum_version == 0 && !o->allow_no_checksums) {
		err_set(err, ERR_REFUSED,
		        "the cluster has no data checksums: pg_checksums --enable without the layer would destroy it");
		err_hint(err, "Switch them on (pg_checksums, server stopped), or give --allow-no-checksums.");
		goto done;
	}
	keyset_describe(ks, keys);
	printf("\nStandby \"%s\" is built, encrypted, %s.\n", name, keys);
	start_line_print(source, datadir, start_port_choose(datadir, node_port(source->settings, name)));
	result = 0;
done:
	keyset_free(ks);
	return result;
}

/* Names those that could be meant. Returns -1. */
static int
node_unknown(const struct settings *settings, const char *name, struct err *err)
{
	char names[200] = "";
	size_t at = 0;

	for (size_t i = 0; i < settings->nnodes && at < sizeof(names); i++)
		if (!settings->nodes[i].profile && settings->nodes[i].keyset != NULL)
			at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", at > 0 ? ", " : "", settings->nodes[i].name);
	err_set(err, ERR_USAGE, "\"%s\" has no [node %s]", settings->file, name);
	return at > 0 ? err_hint(err, "Nodes with a keyset there: %s.", names)
	              : err_hint(err, "It has no node with a keyset: add a [node %s] section.", name);
}

/* The keyset of node NAME; empty when no configuration says. */
static int
node_keyset(const struct build_options *o, const char *name, char keyset[static SETTINGS_NAME_MAX + 1], struct err *err)
{
	const struct settings_node *node;
	struct settings *settings;
	int result = 0;

	keyset[0] = '\0';
	if (settings_find(o->common.config, false, &settings, err) != 0)
		return -1;
	if (settings != NULL && settings->nnodes > 0) {
		if ((node = settings_node(settings, name)) == NULL)
			result = node_unknown(settings, name, err);
		else if (node->profile) {
			err_set(err, ERR_REFUSED, "\"%s\" is a profile, which never becomes a server", name);
			result = err_hint(err, "Give it a [node %s] section instead; pg_basebackup makes an archive's base backup.",
			                  name);
		} else if (node->keyset == NULL)
			result = err_set(err, ERR_REFUSED, "node \"%s\" has no keyset: its standby would be clear", name);
		else
			snprintf(keyset, SETTINGS_NAME_MAX + 1, "%s", node->keyset);
	}
	settings_free(settings);
	return result;
}

static int
build_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct build_options *o = options;
	char datadir[PATH_MAX], keyset[SETTINGS_NAME_MAX + 1];
	const char *name = args[0];
	struct source source = {0};
	int result = -1;

	(void)nargs;
	if (name[0] == '-') {
		err_set(err, ERR_USAGE, "the node's name must come first");
		return err_hint(err, "Usage: walcrypt-ctl build %s", command_build.arguments);
	}
	/* what would make the check at the end fail is better known now */
	if (datadir_option(o->datadir, datadir, err) != 0 || node_keyset(o, name, keyset, err) != 0 ||
	    source_find(&source, o->common.config, o->kek, datadir, keyset[0] != '\0' ? keyset : NULL, err) != 0)
		return -1;
	/* pg_basebackup gets what it brings as it is, and no key: the proxy encrypts */
	if (keys_protect(KEYS_ROOM, err) != 0 || kek_take(&source.conf, err) != 0 ||
	    basebackup_run(source.settings, name, datadir, args + 1, err) != 0)
		goto done;
	if (wants_tar(args))
		printf("The backup is built as tar files; they are not looked into.\n");
	else if (check_result(&source, o, datadir, name, err) != 0)
		goto done;
	result = 0;
done:
	source_free(&source);
	return result;
}

const struct command command_build = {
    .name = "build",
    .arguments = "NAME -D DIR [PG_BASEBACKUP-OPTION]...",
    .summary = "build encrypted standby NAME with stock pg_basebackup through the proxy",
    .more = "What is no option of this command goes to pg_basebackup, for example -X fetch, -S SLOT -C, "
            "--checkpoint=fast or -T.\n"
            "Where the proxy listens comes from the configuration, or from pg_basebackup's own -h, -p or -d.",
    .options = build_defs,
    .style = OPTIONS_PASS,
    .min_args = 1,
    .max_args = 1000,
    .run = build_run,
    .audit = AUDIT_IF_WRITABLE,
};
_Static_assert(sizeof(struct build_options) <= COMMAND_OPTIONS_MAX, "options fit");
