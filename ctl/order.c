/* order: pause, resume and reload, what an operator tells the proxy by its console. */
#include <stdio.h>
#include <string.h>

#include "ctl/command.h"
#include "ctl/console.h"
#include "ctl/source.h"

struct order_options {
	struct common_options common;
	struct console_where where;
	const char *except; /* pause's */
	bool wait;
};

static const struct option_def pause_defs[] = {
    {"except", 0, OPTION_TEXT, offsetof(struct order_options, except), "NAMES",
     "hold those of all but these nodes and profiles, comma-separated", 0, 0},
    {"wait", 0, OPTION_FLAG, offsetof(struct order_options, wait), NULL,
     "wait until the sessions that are there have ended by themselves", 0, 0},
    CONSOLE_OPTIONS(struct order_options, "admin_users"),
    COMMON_OPTIONS,
    OPTIONS_END};
static const struct option_def order_defs[] = {CONSOLE_OPTIONS(struct order_options, "admin_users"), COMMON_OPTIONS,
                                               OPTIONS_END};

/* Send these, one after the other; an empty one is left out. */
static int
order_run(struct order_options *o, const char *first, const char *second, struct err *err)
{
	const char *const queries[] = {first, second};
	struct settings *settings = NULL;
	PGconn *conn = NULL;
	int result = -1;

	o->where.admin = true;
	if ((o->where.host == NULL || o->where.port == NULL || o->common.config != NULL) &&
	    settings_find(o->common.config, false, &settings, err) != 0)
		return -1;
	if ((conn = console_open(&o->where, settings, err)) == NULL)
		goto done;
	for (size_t i = 0; i < 2; i++) {
		PGresult *r;

		if (queries[i][0] == '\0')
			continue;
		if ((r = console_ask(conn, queries[i], err)) == NULL)
			goto done;
		PQclear(r);
	}
	result = 0;
done:
	PQfinish(conn);
	settings_free(settings);
	return result;
}

/* "PAUSE", "PAUSE blue", "PAUSE EXCEPT blue, green" */
static int
query_write(char *out, size_t len, const char *verb, const char *name, const char *except, struct err *err)
{
	int n = snprintf(out, len, "%s%s%s%s%s", verb, except != NULL ? " EXCEPT " : "", except != NULL ? except : "",
	                 name != NULL ? " " : "", name != NULL ? name : "");

	if (name != NULL && except != NULL)
		return err_set(err, ERR_USAGE, "a name and --except exclude each other");
	return n < 0 || (size_t)n >= len ? err_set(err, ERR_USAGE, "the names are too long") : 0;
}

static int
pause_run(void *options, const char **args, size_t nargs, struct err *err)
{
	struct order_options *o = options;
	char pause[900], wait[900] = "";

	(void)nargs;
	if (query_write(pause, sizeof(pause), "PAUSE", args[0], o->except, err) != 0 ||
	    (o->wait && query_write(wait, sizeof(wait), "WAIT_CLOSE", args[0], o->except, err) != 0))
		return -1;
	return order_run(o, pause, wait, err);
}

static int
resume_run(void *options, const char **args, size_t nargs, struct err *err)
{
	char resume[900];

	(void)nargs;
	if (query_write(resume, sizeof(resume), "RESUME", args[0], NULL, err) != 0)
		return -1;
	return order_run(options, resume, "", err);
}

static int
reload_run(void *options, const char **args, size_t nargs, struct err *err)
{
	(void)args;
	(void)nargs;
	return order_run(options, "RELOAD", "", err);
}

const struct command command_pause = {
    .name = "pause",
    .arguments = "[NAME | --except=NAMES] [--wait]",
    .summary = "have the proxy hold new sessions, of all nodes and profiles or of one",
    .more =
        "Sessions that are there go on. New ones are let in and wait until walcrypt-ctl resume, for pause_timeout at "
        "most.",
    .options = pause_defs,
    .style = OPTIONS_ALL,
    .max_args = 1,
    .run = pause_run,
};
const struct command command_resume = {
    .name = "resume",
    .arguments = "[NAME]",
    .summary = "let the sessions go on that the proxy holds, all or those of one node or profile",
    .options = order_defs,
    .style = OPTIONS_ALL,
    .max_args = 1,
    .run = resume_run,
};
const struct command command_reload = {
    .name = "reload",
    .arguments = "",
    .summary = "have the proxy read its configuration, keysets and certificates again",
    .options = order_defs,
    .style = OPTIONS_ALL,
    .run = reload_run,
};
_Static_assert(sizeof(struct order_options) <= COMMAND_OPTIONS_MAX, "options fit");
