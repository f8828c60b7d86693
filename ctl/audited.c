#include "ctl/audited.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "ctl/source.h"
#include "keymgr/audit.h"

_Static_assert(PATH_MAX == 4096, "audited.h says it");

static bool
folder_there(const char *keystore, bool make)
{
	struct err ignored;

	return access(keystore, F_OK) == 0 || (make && durable_mkdir(keystore, 0700, &ignored) == 0);
}

void
audited_path(const char *config, const char *keystore, bool make, char path[static 4096])
{
	const char *given = getenv("WALCRYPT_AUDIT_LOG");
	struct settings *settings = NULL;
	struct err ignored;

	path[0] = '\0';
	if (given != NULL && *given != '\0')
		snprintf(path, PATH_MAX, "%s", given);
	else if (keystore != NULL) {
		if (folder_there(keystore, make) && path_format(path, &ignored, "%s/audit.log", keystore) != 0)
			path[0] = '\0';
	} else if (settings_find(config, false, &settings, &ignored) == 0 && settings != NULL &&
	           settings->audit_log != NULL && settings->keystore != NULL && folder_there(settings->keystore, make))
		/* a configuration that cannot be read is the command's to tell of */
		snprintf(path, PATH_MAX, "%s", settings->audit_log);
	settings_free(settings);
}

/* The record of the beginning; path becomes "" where there is none. */
static int
begin(const struct command *c, struct audit *a, char path[static 4096], char *const *words, size_t nwords,
      struct err *err)
{
	if (path[0] == '\0' || audit_begin(a, path, c->name, (const char *const *)words, nwords, err) == 0)
		return 0;
	path[0] = '\0';
	if (c->audit == AUDIT_OR_REFUSE)
		return -1;
	/* a server's user may have no way into the folder of the proxy's */
	if (err->os_errno != EACCES) {
		err_hint(err, "\"%s\" goes on without a record.", c->name);
		report("WARNING", err);
	}
	*err = (struct err){0};
	return 0;
}

int
audited_run(const struct command *c, void *options, char *const *words, size_t nwords, const char **args, size_t nargs,
            struct err *err)
{
	const struct common_options *common = options;
	const char *keystore = c->keystore != 0 ? *(const char **)(void *)((char *)options + c->keystore) : NULL;
	struct err unrecorded;
	char path[PATH_MAX] = "";
	struct audit a;
	int status;

	if (c->audit != AUDIT_NOTHING)
		audited_path(common->config, keystore, c->makes_keysets, path);
	if (begin(c, &a, path, words, nwords, err) != 0)
		return -1;
	status = c->run(options, args, nargs, err);
	if (path[0] == '\0' || audit_end(&a, status < 0 ? err : NULL, &unrecorded) == 0)
		return status;
	if (status < 0 || c->audit == AUDIT_IF_WRITABLE) {
		report("WARNING", &unrecorded);
		return status;
	}
	*err = unrecorded;
	return -1;
}
