#include "ctl/switchover/self.h"

#include <stdio.h>

#include "common/path.h"
#include "common/subprocess.h"

#define ARGS_MAX 64

int
self_run(const struct settings *settings, const char *const *args, int *status, struct err *err)
{
	char self[PATH_MAX];
	const char *argv[ARGS_MAX] = {self};
	struct subprocess run = {.argv = argv, .share_stderr = true};
	size_t n = 1;

	if (path_absolute(self, "/proc/self/exe", err) != 0)
		return -1;
	for (; *args != NULL && n + 3 < ARGS_MAX; args++)
		argv[n++] = *args;
	argv[n++] = "--config";
	argv[n++] = settings->file;
	argv[n] = NULL;
	fflush(stdout);
	if (subprocess_run(&run, err) != 0)
		return -1;
	if (status != NULL)
		*status = run.status;
	return run.status == 0 ? 0
	                       : err_set(err, ERR_FAILED, "walcrypt-ctl %s ended with exit status %d", argv[1], run.status);
}
