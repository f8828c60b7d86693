#include "ctl/server_setting.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "common/subprocess.h"
#include "ctl/layer.h"

#define OPTS_MAX 65536

/* The value of config_file in one word of postmaster.opts, which is the option -c's or has it in front; NULL. */
static const char *
config_file_of(const char *word)
{
	static const char *const before[] = {"--", "-c"};

	for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++)
		if (strncmp(word, before[i], 2) == 0) {
			word += 2;
			break;
		}
	return (strncmp(word, "config_file=", 12) == 0 || strncmp(word, "config-file=", 12) == 0) && word[12] == '/'
	           ? word + 12
	           : NULL;
}

bool
server_has_config(const char *datadir)
{
	char path[PATH_MAX];
	struct err ignored;

	return path_format(path, &ignored, "%s/postgresql.conf", datadir) == 0 && access(path, F_OK) == 0;
}

int
server_config_find(const char *datadir, char config[static PATH_MAX], struct err *err)
{
	char path[PATH_MAX];
	struct err none;
	uint8_t *text;
	size_t len;
	int found = 0;

	if (server_has_config(datadir))
		return 0;
	/* what the server was started with last: each option in double quotes */
	if (path_format(path, err, "%s/postmaster.opts", datadir) != 0)
		return -1;
	if ((text = durable_read(path, OPTS_MAX, &len, &none)) == NULL)
		return 0;
	for (char *rest = (char *)text, *word; (word = strchr(rest, '"')) != NULL;) {
		const char *value;
		char *end = strchr(++word, '"');

		if (end == NULL)
			break;
		*end = '\0';
		rest = end + 1;
		if ((value = config_file_of(word)) != NULL && strlen(value) < PATH_MAX) {
			snprintf(config, PATH_MAX, "%s", value); /* the last one holds */
			found = 1;
		}
	}
	free(text);
	return found;
}

int
server_setting(const char *datadir, const char *config_file, const char *name, char value[static PATH_MAX],
               struct err *err)
{
	static const char *const without[] = {"LD_PRELOAD", "WALCRYPT_KEK", NULL};
	char postgres[PATH_MAX], option[PATH_MAX], found[PATH_MAX];
	const char *argv[] = {postgres, "-D", datadir, "-C", name, NULL, NULL, NULL};
	struct subprocess p = {.argv = argv, .timeout_ms = 30000, .own_group = true, .out = value, .out_size = PATH_MAX};
	char **environment;
	int result;

	if (program_find("postgres", datadir, postgres, err) != 0)
		return -1;
	if (config_file == NULL && (result = server_config_find(datadir, found, err)) != 0) {
		if (result < 0)
			return -1;
		config_file = found;
	}
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
