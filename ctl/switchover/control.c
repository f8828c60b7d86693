#include "ctl/switchover/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "common/subprocess.h"
#include "ctl/layer.h"
#include "ctl/server_setting.h"
#include "ctl/switchover/controldata.h"
#include "ctl/switchover/node.h"
#include "ctl/switchover/shell.h"

#define OUTPUT_MAX 16384
#define READ_TIMEOUT_MS 30000
#define SIGNAL_FILE "standby.signal"

int
control_check(const struct control *c, struct err *err)
{
	const struct settings_node *n = c->node;

	if (n->control == NULL && n->datadir == NULL)
		err_set(err, ERR_REFUSED, "nothing says how to stop and start node \"%s\"", n->name);
	else if (n->control_data == NULL && n->datadir == NULL)
		err_set(err, ERR_REFUSED, "nothing says how to read pg_control of node \"%s\"", n->name);
	else
		return 0;
	return err_hint(
	    err, "Give its section datadir, when its data directory is on this machine, or control and control_data: "
	         "commands that stop and start it and run pg_controldata.");
}

int
control_read(const struct control *c, struct datadir_control *data, struct err *err)
{
	char *out;
	int result;

	if (c->node->control_data == NULL)
		return datadir_control_read(c->node->datadir, data, err);
	if ((out = malloc(OUTPUT_MAX)) == NULL)
		return err_nomem(err);
	result = shell_run(c->node->control_data, NULL, READ_TIMEOUT_MS, out, OUTPUT_MAX, err);
	if (result == 0)
		result = controldata_parse(out, data, err);
	if (result != 0)
		err_context(err, "control_data of node \"%s\"", c->node->name);
	free(out);
	return result;
}

int
control_running(const struct control *c)
{
	return c->node->datadir == NULL ? -1 : datadir_in_use(c->node->datadir);
}

bool
control_still_standby(const struct control *c, uint32_t tli)
{
	struct datadir_control data;
	char path[PATH_MAX];
	struct err ignored;

	/* a promotion removes the signal file first, and writes pg_control last */
	return control_running(c) == 0 && path_format(path, &ignored, "%s/" SIGNAL_FILE, c->node->datadir) == 0 &&
	       access(path, F_OK) == 0 && datadir_control_read(c->node->datadir, &data, &ignored) == 0 && data.tli == tli &&
	       data.state != DATADIR_IN_PRODUCTION && data.state != DATADIR_SHUTDOWNED;
}

/* control's own command: ACTION takes the place of %a, or follows. */
static int
by_command(const struct control *c, const char *action, struct err *err)
{
	if (shell_action(c->node->control, action, NULL, 1000 * (c->timeout_s + 10), err) != 0)
		return err_context(err, "control of node \"%s\"", c->node->name);
	return 0;
}

/* What a server needs to be told that has a copy of its primary's configuration and never ran: where its conninfo says
 * that it listens. */
static bool
first_options(const struct settings_node *node, char out[static 512])
{
	char host[256], port[16];

	node_address(node, host, port);
	if (strspn(port, "0123456789") != strlen(port) || strpbrk(host, "' \\\"") != NULL)
		return false;
	snprintf(out, 512, "%s%s%s%s", port[0] != '\0' ? "-p " : "", port, host[0] == '/' ? " -k " : "",
	         host[0] == '/' ? host : "");
	return out[0] != '\0';
}

/* Nothing tells pg_ctl where the configuration is of a server that never ran and whose directory has none. */
static int
check_configuration(const struct settings_node *node, struct err *err)
{
	if (server_has_config(node->datadir))
		return 0;
	err_set(err, ERR_REFUSED, "could not start node \"%s\": there is no postgresql.conf in its data directory",
	        node->name);
	return err_hint(err,
	                "Where pg_createcluster has made one in /etc/postgresql, the section needs control = pg_ctlcluster "
	                "VERSION NAME.");
}

static void
words_add(const char **argv, size_t *n, const char *const *words)
{
	while (*words != NULL)
		argv[(*n)++] = *words++;
	argv[*n] = NULL;
}
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* pg_ctl on a directory of this machine; under the storage layer when it is encrypted and a server is to start. */
static int
by_pg_ctl(const struct control *c, bool layer, const char *mode, struct err *err)
{
	static const char *const without[] = {"LD_PRELOAD", "WALCRYPT_KEK", "WALCRYPT_DATADIR", NULL};
	char self[PATH_MAX], pg_ctl[PATH_MAX], log[PATH_MAX], options[PATH_MAX], first[512], wait[16];
	const char *argv[32];
	struct subprocess run = {.argv = argv, .own_group = true, .timeout_ms = 1000 * (c->timeout_s + 10)};
	char quiet[4096], **environment;
	size_t n = 0;
	int result;

	if (program_find("pg_ctl", c->node->datadir, pg_ctl, err) != 0 ||
	    path_format(log, err, "%s.log", c->node->datadir) != 0 ||
	    path_format(options, err, "%s/postmaster.opts", c->node->datadir) != 0 ||
	    path_absolute(self, "/proc/self/exe", err) != 0)
		return -1;
	snprintf(wait, sizeof(wait), "%d", c->timeout_s);
	if (layer) {
		words_add(argv, &n, WORDS(self, "exec", "-D", c->node->datadir, "--config", c->settings->file));
		if (c->node->kek != NULL)
			words_add(argv, &n, WORDS("--kek", c->node->kek));
		words_add(argv, &n, WORDS("--"));
	}
	words_add(argv, &n, WORDS(pg_ctl, "-D", c->node->datadir, "-w", "-t", wait));
	if (mode != NULL)
		words_add(argv, &n, WORDS("-m", mode, "stop"));
	else {
		/* "restart" starts a stopped server too, with the options that it ran with last */
		bool ran = access(options, F_OK) == 0;

		if (!ran && check_configuration(c->node, err) != 0)
			return -1;
		words_add(argv, &n, WORDS("-l", log));
		if (!ran && first_options(c->node, first))
			words_add(argv, &n, WORDS("-o", first));
		words_add(argv, &n, WORDS(ran ? "restart" : "start"));
	}
	if ((environment = subprocess_environment(without)) == NULL)
		return err_nomem(err);
	run.envp = environment;
	run.out = quiet;
	run.out_size = sizeof(quiet);
	result = subprocess_run(&run, err);
	free(environment);
	if (result == 0 && run.status != 0) {
		result = err_set(err, ERR_FAILED, "could not %s node \"%s\": pg_ctl ended with exit status %d",
		                 mode != NULL ? "stop" : "start", c->node->name, run.status);
		err_detail(err, "It said: %.400s", run.err_text[0] != '\0' ? run.err_text : quiet);
		if (mode == NULL)
			err_hint(err, "Its log may say more: %.200s", log);
	}
	return result;
}

/* Nothing runs there: that is known of a directory on this machine, and of one whose server has said so at its end. */
static bool
is_down(const struct control *c)
{
	struct datadir_control data;
	struct err ignored;
	int running = control_running(c);

	return running >= 0 ? running == 0
	                    : control_read(c, &data, &ignored) == 0 &&
	                          (data.state == DATADIR_SHUTDOWNED || data.state == DATADIR_SHUTDOWNED_IN_RECOVERY);
}

int
control_stop(const struct control *c, bool immediate, struct err *err)
{
	if (is_down(c))
		return 0;
	if (c->node->datadir != NULL && (immediate || c->node->control == NULL))
		return by_pg_ctl(c, false, immediate ? "immediate" : "fast", err);
	return by_command(c, "stop", err);
}

int
control_start(const struct control *c, struct err *err)
{
	char keys[PATH_MAX];

	if (control_running(c) == 1)
		return 0;
	if (c->node->control != NULL)
		return by_command(c, "start", err);
	if (path_format(keys, err, "%s/pg_cryptokeys", c->node->datadir) != 0)
		return -1;
	return by_pg_ctl(c, access(keys, F_OK) == 0, NULL, err);
}

bool
control_fences(const struct control *c)
{
	return c->node->fence != NULL || c->node->datadir != NULL;
}

int
control_fence(const struct control *c, bool on, struct err *err)
{
	char path[PATH_MAX];

	if (c->node->fence != NULL) {
		if (shell_action(c->node->fence, on ? "on" : "off", NULL, READ_TIMEOUT_MS, err) != 0)
			return err_context(err, "fence of node \"%s\"", c->node->name);
		return 0;
	}
	if (c->node->datadir == NULL)
		return 0;
	if (path_format(path, err, "%s/" SIGNAL_FILE, c->node->datadir) != 0)
		return -1;
	if (on)
		return durable_write(path, "", 0, 0600, err);
	if (unlink(path) != 0 && errno != ENOENT)
		return err_os(err, errno, "could not remove \"%s\"", path);
	return durable_fsync_dir(c->node->datadir, err);
}

int
control_keys(const struct control *c, const char *action, const char *keyset, struct err *err)
{
	const char *const variables[] = {"WALCRYPT_KEYSET", keyset, "WALCRYPT_NODE", c->node->name, NULL};

	/* a large directory takes as long as it takes */
	if (shell_action(c->node->keys, action, variables, 0, err) != 0)
		return err_context(err, "keys of node \"%s\"", c->node->name);
	return 0;
}
