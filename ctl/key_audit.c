/* key audit: is the audit log whole, and what does it say? */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ctl/audited.h"
#include "ctl/command.h"
#include "keymgr/audit.h"

struct key_audit_options {
	struct common_options common;
	const char *keystore, *file, *expect;
	bool show;
};

static const struct option_def key_audit_defs[] = {
    {"file", 0, OPTION_TEXT, offsetof(struct key_audit_options, file), "FILE", "the log (default: the configuration's)",
     0, 0},
    {"keystore", 0, OPTION_TEXT, offsetof(struct key_audit_options, keystore), "FOLDER", "the log of that keystore", 0,
     0},
    {"show", 0, OPTION_FLAG, offsetof(struct key_audit_options, show), NULL, "print the records, a JSON object a line",
     0, 0},
    {"expect", 0, OPTION_TEXT, offsetof(struct key_audit_options, expect), "HASH",
     "a hash from an earlier look, which must be in the chain", 0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

static void
record_print(void *arg, const char *line, size_t len)
{
	(void)arg;
	fwrite(line, 1, len, stdout);
	putchar('\n');
}

static int
key_audit_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_audit_options *o = options;
	struct audit_facts facts;
	char path[4096];

	(void)args;
	(void)nargs;
	if (o->file != NULL)
		snprintf(path, sizeof(path), "%s", o->file);
	else
		audited_path(o->common.config, o->keystore, false, path);
	if (path[0] == '\0') {
		err_set(err, ERR_USAGE, "no audit log is known");
		return err_hint(err, "Give --file FILE, --keystore FOLDER or --config FILE.");
	}
	if (audit_verify(path, o->expect, o->show ? record_print : NULL, NULL, &facts, err) != 0)
		return -1;
	/* apart from the records, which are for programs */
	fprintf(o->show ? stderr : stdout, "%s: %" PRIu64 " records, each follows the one before; the last has hash %s.\n",
	        path, facts.records, facts.last);
	if (facts.open > 0)
		fprintf(o->show ? stderr : stdout, "Of %" PRIu64 " no end is told: they were cut off, or are under way.\n",
		        facts.open);
	if (o->expect != NULL && facts.expected < facts.records)
		fprintf(o->show ? stderr : stdout,
		        "%" PRIu64 " of them came after the one with the hash that was remembered.\n",
		        facts.records - facts.expected);
	return 0;
}

const struct command command_key_audit = {
    .name = "key audit",
    .arguments = "[--file FILE | --keystore FOLDER] [--show] [--expect HASH]",
    .summary = "verify the log of who did what with keys, and show it",
    .options = key_audit_defs,
    .style = OPTIONS_ALL,
    .run = key_audit_run,
};
_Static_assert(sizeof(struct key_audit_options) <= COMMAND_OPTIONS_MAX, "options fit");
