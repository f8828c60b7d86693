/* doctor: is this host fit for walcrypt? It looks, and says what to do; it changes nothing. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/path.h"
#include "common/version.h"
#include "ctl/command.h"
#include "ctl/console.h"
#include "ctl/doctor/checks.h"
#include "ctl/json_out.h"
#include "ctl/source.h"

struct doctor_options {
	struct common_options common;
	bool json;
};

static const struct option_def doctor_defs[] = {
    {"json", 0, OPTION_FLAG, offsetof(struct doctor_options, json), NULL, "print a JSON array", 0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

/* Does the proxy that the configuration is for answer? */
static void
check_proxy(struct findings *f, const struct settings *settings)
{
	struct console_where where = {0};
	struct err err;
	PGconn *conn;
	PGresult *r;

	findings_area(f, "proxy");
	if ((conn = console_open(&where, settings, &err)) == NULL || (r = console_ask(conn, "SHOW VERSION", &err)) == NULL)
		finding_err(f, FINDING_WARNING, &err);
	else {
		finding(f, strcmp(PQgetvalue(r, 0, 0), "walcrypt-proxy " WALCRYPT_VERSION) == 0 ? FINDING_OK : FINDING_WARNING,
		        NULL, "it answers: %s; this is walcrypt-ctl " WALCRYPT_VERSION, PQgetvalue(r, 0, 0));
		PQclear(r);
	}
	PQfinish(conn);
}

static void
check_configured(struct findings *f, const struct doctor_options *o, const struct settings *settings)
{
	doctor_files(f, settings);
	if (settings->keystore == NULL)
		return;
	doctor_keystore(f, o->common.config, settings);
	check_proxy(f, settings);
	for (size_t i = 0; i < settings->nnodes; i++)
		if (settings->nodes[i].conninfo != NULL)
			doctor_node(f, settings, &settings->nodes[i]);
}

/* The configuration's data directories that are on this machine, and those of the command line. */
static void
check_directories(struct findings *f, const struct doctor_options *o, const struct settings *settings,
                  const char **args, size_t nargs)
{
	char path[PATH_MAX];
	struct err err;
	struct stat st;

	for (size_t i = 0; settings != NULL && i < settings->nnodes; i++)
		if (settings->nodes[i].datadir != NULL && stat(settings->nodes[i].datadir, &st) == 0)
			doctor_directory(f, o->common.config, settings->nodes[i].datadir);
	for (size_t i = 0; i < nargs; i++)
		if (path_absolute(path, args[i], &err) == 0)
			doctor_directory(f, o->common.config, path);
		else
			finding_err(f, FINDING_PROBLEM, &err);
}

static int
doctor_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct doctor_options *o = options;
	struct findings f = {.list = o->json ? json_array() : NULL};
	struct settings *settings = NULL;
	struct err wrong;
	int result = -1;

	doctor_host(&f);
	if (settings_find(o->common.config, false, &settings, &wrong) != 0) {
		findings_area(&f, "configuration");
		finding_err(&f, FINDING_PROBLEM, &wrong);
	} else if (settings != NULL)
		check_configured(&f, o, settings);
	check_directories(&f, o, settings, args, nargs);
	settings_free(settings);
	if (o->json && json_out(f.list, err) != 0)
		goto done;
	if (!o->json)
		printf("\n%u in order, %u notes, %u warnings, %u problems\n", f.count[FINDING_OK], f.count[FINDING_NOTE],
		       f.count[FINDING_WARNING], f.count[FINDING_PROBLEM]);
	fflush(stdout);
	result = 0;
	if (f.count[FINDING_PROBLEM] > 0) {
		result = err_set(err, ERR_FAILED, "there %s", f.count[FINDING_PROBLEM] == 1 ? "is a problem" : "are problems");
		err_detail(err, "The first: %s", f.first);
	}
done:
	json_decref(f.list);
	return result;
}

const struct command command_doctor = {
    .name = "doctor",
    .arguments = "[--json] [DIR]...",
    .summary = "check this host: limits, modes, keys and their provider, proxy, servers, data directories",
    .more = "Looks at the machine, at all that the configuration names, and at data directories DIR, as the present "
            "user may,\n"
            "changes nothing, and says what to do about each finding. Exit status 1 when there is a problem.",
    .options = doctor_defs,
    .style = OPTIONS_ALL,
    .max_args = 64,
    .run = doctor_run,
};
_Static_assert(sizeof(struct doctor_options) <= COMMAND_OPTIONS_MAX, "options fit");
