#include "ctl/switchover/shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/subprocess.h"

#define COMMAND_MAX 8192
#define VARIABLES_MAX 16

/* The environment with these variables; strings are not copied but for those of `text`. NULL: out of memory. */
static char **
environment_make(const char *const *variables, char **text)
{
	static const char *const none[] = {NULL};
	const char *without[VARIABLES_MAX + 2] = {"LC_ALL"};
	char **have, **env;
	size_t n = 0, nset = 0, len = sizeof("LC_ALL=C"), at;

	for (const char *const *v = variables != NULL ? variables : none; *v != NULL; v += 2) {
		without[1 + nset++] = v[0];
		len += strlen(v[0]) + strlen(v[1]) + 2;
	}
	have = subprocess_environment(without);
	*text = malloc(len);
	while (have != NULL && have[n] != NULL)
		n++;
	env = calloc(n + nset + 2, sizeof(*env));
	if (have == NULL || *text == NULL || env == NULL) {
		free(have);
		free(*text);
		free(env);
		return NULL;
	}
	memcpy(env, have, n * sizeof(*env));
	free(have);
	memcpy(*text, "LC_ALL=C", sizeof("LC_ALL=C"));
	env[n++] = *text;
	at = sizeof("LC_ALL=C");
	for (size_t i = 0; i < nset; i++) {
		env[n++] = *text + at;
		at += (size_t)snprintf(*text + at, len - at, "%s=%s", variables[2 * i], variables[2 * i + 1]) + 1;
	}
	return env;
}

int
shell_run(const char *command, const char *const *variables, int timeout_ms, char *out, size_t out_size,
          struct err *err)
{
	/* what is not wanted is thrown away by the shell: there may be any amount of it */
	const char *const wanted[] = {"/bin/sh", "-c", command, NULL};
	const char *const unwanted[] = {"/bin/sh", "-c", "exec >/dev/null; eval \"$1\"", "/bin/sh", command, NULL};
	char none[2], *text;
	struct subprocess run = {.argv = out != NULL ? wanted : unwanted,
	                         .timeout_ms = timeout_ms,
	                         .own_group = true,
	                         .out = out != NULL ? out : none,
	                         .out_size = out != NULL ? out_size : sizeof(none)};
	char **environment = environment_make(variables, &text);
	int result;

	if (environment == NULL)
		return err_nomem(err);
	run.envp = environment;
	result = subprocess_run(&run, err);
	free(environment);
	free(text);
	if (result == 0 && run.status != 0) {
		result = err_set(err, ERR_FAILED, "command ended with exit status %d: %.150s", run.status, command);
		if (run.err_text[0] != '\0')
			err_detail(err, "It said: %.400s", run.err_text);
	}
	return result;
}

int
shell_action(const char *command, const char *action, const char *const *variables, int timeout_ms, struct err *err)
{
	char line[COMMAND_MAX];
	size_t used = 0, len = strlen(action);
	int placed = 0;

	for (const char *p = command; *p != '\0' && used + len + 2 < sizeof(line); p++)
		if (p[0] == '%' && p[1] == 'a') {
			memcpy(line + used, action, len);
			used += len;
			placed = 1;
			p++;
		} else {
			p += p[0] == '%' && p[1] == '%';
			line[used++] = *p;
		}
	snprintf(line + used, sizeof(line) - used, "%s%s", placed ? "" : " ", placed ? "" : action);
	if (used + len + 2 >= sizeof(line))
		return err_set(err, ERR_USAGE, "the command is too long");
	return shell_run(line, variables, timeout_ms, NULL, 0, err);
}
