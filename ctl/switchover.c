/* switchover: from the primary to an encrypted standby, with a proof that it lost nothing. The work is
 * ctl/switchover/'s. */
#include <string.h>

#include "ctl/command.h"
#include "ctl/source.h"
#include "ctl/switchover/switchover.h"

#define DEFAULT_TIMEOUT_S 60
#define DEFAULT_LAG_MB 64

struct options {
	struct common_options common;
	const char *to, *old, *report;
	int timeout_s, max_lag_mb;
	bool dry_run, resume, abort, yes, drop_logical_slots, allow_no_checksums;
};

#define TO_OPTION                                                                                                      \
	{                                                                                                                  \
		"to", 0, OPTION_TEXT, offsetof(struct options, to), "NAME", "the node that shall be the primary", 0, 0         \
	}
#define DRY_RUN_OPTION                                                                                                 \
	{                                                                                                                  \
		"dry-run", 'n', OPTION_FLAG, offsetof(struct options, dry_run), NULL,                                          \
		    "look at everything that must hold, show the plan, change nothing", 0, 0                                   \
	}
#define OLD_OPTION                                                                                                     \
	{                                                                                                                  \
		"old", 0, OPTION_TEXT, offsetof(struct options, old), "FATE",                                                  \
		    "what becomes of the old primary: stop (default), clear or reencrypt", 0, 0                                \
	}
#define SHARED_OPTIONS                                                                                                 \
	{"report",    0,                                                                                                   \
	 OPTION_TEXT, offsetof(struct options, report),                                                                    \
	 "PREFIX",    "write the report to PREFIX.txt, PREFIX.json and PREFIX.svg",                                        \
	 0,           0},                                                                                                  \
	    {"resume", 0, OPTION_FLAG, offsetof(struct options, resume), NULL, "go on with one that was stopped midway",   \
	     0,        0},                                                                                                 \
	    {"abort",     0,                                                                                               \
	     OPTION_FLAG, offsetof(struct options, abort),                                                                 \
	     NULL,        "put everything back as it was, if nothing is promoted yet",                                     \
	     0,           0},                                                                                              \
	    {"yes",       0,                                                                                               \
	     OPTION_FLAG, offsetof(struct options, yes),                                                                   \
	     NULL,        "do it although no other standby streams, or more is lost",                                      \
	     0,           0},                                                                                              \
	{                                                                                                                  \
		"timeout", 't', OPTION_NUMBER, offsetof(struct options, timeout_s), "SECONDS",                                 \
		    "longest time for a stop, a start, a promotion (default: 60)", 1, 86400                                    \
	}
#define CHECK_OPTIONS                                                                                                  \
	{"max-lag",                                                                                                        \
	 0,                                                                                                                \
	 OPTION_NUMBER,                                                                                                    \
	 offsetof(struct options, max_lag_mb),                                                                             \
	 "MB",                                                                                                             \
	 "how far the standby may be behind when it begins (default: 64)",                                                 \
	 1,                                                                                                                \
	 1000000},                                                                                                         \
	    {"drop-logical-slots",                                                                                         \
	     0,                                                                                                            \
	     OPTION_FLAG,                                                                                                  \
	     offsetof(struct options, drop_logical_slots),                                                                 \
	     NULL,                                                                                                         \
	     "give up logical slots that the target does not have",                                                        \
	     0,                                                                                                            \
	     0},                                                                                                           \
	{                                                                                                                  \
		"allow-no-checksums", 0, OPTION_FLAG, offsetof(struct options, allow_no_checksums), NULL,                      \
		    "do not insist on data checksums", 0, 0                                                                    \
	}

static const struct option_def switchover_defs[] = {TO_OPTION,     DRY_RUN_OPTION, OLD_OPTION, SHARED_OPTIONS,
                                                    CHECK_OPTIONS, COMMON_OPTIONS, OPTIONS_END};
static const struct option_def failover_defs[] = {TO_OPTION, DRY_RUN_OPTION, SHARED_OPTIONS, COMMON_OPTIONS,
                                                  OPTIONS_END};

static int
options_check(const struct options *o, enum switch_kind kind, struct switchover_options *out, struct err *err)
{
	bool begins = !o->resume && !o->abort;

	if (o->resume && o->abort)
		return err_set(err, ERR_USAGE, "--resume and --abort exclude each other");
	if (begins && o->to == NULL)
		return err_set(err, ERR_USAGE, "--to is missing");
	if (!begins && (o->to != NULL || o->old != NULL || o->dry_run))
		return err_set(err, ERR_USAGE, "--to, --old and --dry-run belong to one that begins");
	*out = (struct switchover_options){.to = o->to,
	                                   .report = o->report,
	                                   .kind = kind,
	                                   .timeout_s = o->timeout_s > 0 ? o->timeout_s : DEFAULT_TIMEOUT_S,
	                                   .max_lag_mb = o->max_lag_mb > 0 ? o->max_lag_mb : DEFAULT_LAG_MB,
	                                   .drop_logical_slots = o->drop_logical_slots,
	                                   .allow_no_checksums = o->allow_no_checksums,
	                                   .yes = o->yes};
	if (o->old != NULL && switch_old_parse(o->old, &out->old_fate) != 0)
		return err_set(err, ERR_USAGE, "--old must be stop, clear or reencrypt, not \"%s\"", o->old);
	return 0;
}

static int
run(const struct options *o, enum switch_kind kind, struct err *err)
{
	struct switchover_options what;
	struct switchover s = {.options = &what, .log = {.lock = -1}};
	struct settings *settings = NULL;
	int result = -1;

	if (options_check(o, kind, &what, err) != 0 || settings_find(o->common.config, true, &settings, err) != 0)
		return -1;
	if (settings->keystore == NULL) {
		err_set(err, ERR_USAGE, "\"%s\" has no [walcrypt] section", settings->file);
		err_hint(err, "Name the proxy's configuration.");
		goto done;
	}
	s.settings = settings;
	if (o->resume)
		result = switchover_resume(&s, err);
	else
		result = o->abort ? switchover_abort(&s, err) : switchover_run(&s, o->dry_run, err);
done:
	holder_stop(s.holder);
	if (s.sampler != NULL)
		s.samples = sampler_stop(s.sampler);
	samples_free(&s.samples);
	node_close(&s.from);
	node_close(&s.to);
	PQfinish(s.console);
	logbook_close(&s.log);
	settings_free(settings);
	return result;
}

static int
run_switchover(void *options, const char **args, size_t nargs, struct err *err)
{
	(void)args;
	(void)nargs;
	return run(options, SWITCH_SWITCHOVER, err);
}

static int
run_rotate(void *options, const char **args, size_t nargs, struct err *err)
{
	(void)args;
	(void)nargs;
	return run(options, SWITCH_ROTATE, err);
}

static int
run_failover(void *options, const char **args, size_t nargs, struct err *err)
{
	(void)args;
	(void)nargs;
	return run(options, SWITCH_FAILOVER, err);
}

const struct command command_switchover = {
    .name = "switchover",
    .arguments = "--to NAME [--dry-run] | --resume | --abort",
    .summary = "make a standby the primary, with a proof that nothing is lost",
    .more =
        "Run it where the proxy's keystore is, as the user that the proxy runs as. docs/switchover.md tells what it "
        "does.",
    .options = switchover_defs,
    .style = OPTIONS_ALL,
    .run = run_switchover,
    .audit = AUDIT_OR_REFUSE, /* --old reencrypt */
};
const struct command command_rotate = {
    .name = "rotate",
    .arguments = "--to NAME [--old stop|clear|reencrypt] [--dry-run] | --resume | --abort",
    .summary = "new keys for the primary: stage the next WAL epoch, build or restart standby NAME, switch over to it",
    .more =
        "Run it where the proxy's keystore is, as the user that the proxy runs as. docs/switchover.md tells what it "
        "does.",
    .options = switchover_defs,
    .style = OPTIONS_ALL,
    .run = run_rotate,
    .audit = AUDIT_OR_REFUSE,
};
const struct command command_failover = {
    .name = "failover",
    .arguments = "--to NAME [--yes] [--dry-run] | --resume | --abort",
    .summary = "the primary is gone: keep it down and promote the standby that has most",
    .more = "Nothing can be proven then: what was acknowledged is there if a synchronous standby had it. "
            "docs/switchover.md tells what it does.",
    .options = failover_defs,
    .style = OPTIONS_ALL,
    .run = run_failover,
    .audit = AUDIT_IF_WRITABLE,
};
_Static_assert(sizeof(struct options) <= COMMAND_OPTIONS_MAX, "options fit");
