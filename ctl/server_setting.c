#include "ctl/server_setting.h"

#include <stdlib.h>
#include <string.h>

#include "common/path.h"
#include "common/subprocess.h"
#include "ctl/layer.h"

int
server_setting(const char *datadir, const char *config_file, const char *name, char value[static PATH_MAX],
               struct err *err)
{
	static const char *const without[] = {"LD_PRELOAD", "WALCRYPT_KEK", NULL};
	char postgres[PATH_MAX], option[PATH_MAX];
	const char *argv[] = {postgres, "-D", datadir, "-C", name, NULL, NULL, NULL};
	struct subprocess p = {.argv = argv, .timeout_ms = 30000, .own_group = true, .out = value, .out_size = PATH_MAX};
	char **environment;
	int result;

	if (program_find("postgres", datadir, postgres, err) != 0)
		return -1;
	if (config_file != NULL) {
		if (path_format(option, err, "config_file=%s", config_file) != 0)
			return -1;
		argv[5] = "-c";
		argv[6] = option;
	}
	if ((environment = subprocess_environment(without)) == NULL)
		return err_nomem(err);
	p.envp = environment;
	result = subprocess_run(&p, err);
	free(environment);
	if (result != 0)
		return -1;
	if (p.status != 0) {
		err_set(err, ERR_FAILED, "\"%s\" ended with exit status %d", postgres, p.status);
		return err_detail(err, "It said: %s", p.err_text);
	}
	value[strcspn(value, "\r\n")] = '\0';
	return 0;
}
