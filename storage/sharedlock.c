#include "storage/sharedlock.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "common/log.h"
#include "storage/process.h"
#include "storage/report.h"
#include "storage/unlock.h"

#define SETTING "walcrypt.lock_shared_memory"

static bool
wanted(void)
{
	const char *(*get)(const char *, bool, bool) =
	    (const char *(*)(const char *, bool, bool))process_symbol("GetConfigOption");
	bool (*parse)(const char *, bool *) = (bool (*)(const char *, bool *))process_symbol("parse_bool");
	const char *value = get != NULL ? get(SETTING, true, false) : NULL;
	bool on = false;
	struct err err;

	if (value == NULL || parse == NULL)
		return false;
	if (!parse(value, &on)) {
		err_set(&err, ERR_USAGE, "invalid value for parameter \"" SETTING "\": \"%s\"", value);
		err_hint(&err, "It is on or off.");
		report(REPORT_FATAL, &err);
	}
	return on;
}

int
sharedlock_mapped(void *addr, size_t len)
{
	struct rlimit limit = {0};
	struct err err;
	int save;

	if (process.program != PROGRAM_SERVER || keys.set == NULL || !wanted() || mlock(addr, len) == 0)
		return 0;
	save = errno;
	getrlimit(RLIMIT_MEMLOCK, &limit);
	err_os(&err, save, "could not lock %zu bytes of shared memory in RAM", len);
	if (limit.rlim_cur != RLIM_INFINITY)
		err_hint(
		    &err,
		    "Raise the limit of locked memory, now %llu kB, to at least %llu kB (LimitMEMLOCK in the systemd unit, "
		    "\"ulimit -l\"), or set " SETTING " to off.",
		    (unsigned long long)limit.rlim_cur / 1024, (unsigned long long)len / 1024 + 1024);
	if (process_is_postmaster())
		report(REPORT_FATAL, &err);
	log_err(LOG_ERROR, &err, NULL);
	errno = ENOMEM;
	return -1;
}
