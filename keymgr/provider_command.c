/*
 * provider_command: the cluster key from a command's output, with the contract of CFE's cluster_key_command: run by the
 * shell, one line of 64 hex digits on stdout, exit status 0. Beyond CFE: a deadline, more output refused, stderr shown
 * when it fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/subprocess.h"
#include "keymgr/provider_scheme.h"
#include "walcrypt/secmem.h"

#define OUTPUT_MAX 1024
#define COMMAND_MAX 8192

static const char prompt[] = "Enter authentication needed to generate the cluster key: ";

/* Where a command is being put together. */
struct builder {
	char text[COMMAND_MAX];
	size_t len;
};

static void
put(struct builder *b, const char *text, size_t len)
{
	if (b->len + len < sizeof(b->text))
		memcpy(b->text + b->len, text, len);
	b->len += len; /* too long shows at the end */
}

/* %d %p %R %%; another letter stays with its percent sign. *terminal: the descriptor that %R made necessary, else as it
 * was. */
static int
expand(const char *command, const struct kek_conf *conf, struct builder *b, int *terminal, struct err *err)
{
	char number[16];

	for (; *command != '\0'; command++) {
		if (command[0] != '%' || strchr("dpR%", command[1]) == NULL || command[1] == '\0') {
			put(b, command, 1);
			continue;
		}
		switch (*++command) {
		case 'd':
			if (conf->key_dir == NULL)
				return err_set(err, ERR_USAGE, "key command uses %%d, but there is no key directory yet");
			put(b, conf->key_dir, strlen(conf->key_dir));
			break;
		case 'p':
			put(b, prompt, sizeof(prompt) - 1);
			break;
		case 'R':
			if (*terminal < 0 && (*terminal = open("/dev/tty", O_RDWR | O_NOCTTY)) < 0) {
				err_os(err, errno, "key command uses %%R, but there is no terminal");
				return err_hint(err, "Start it from a terminal, or use a command that asks nobody.");
			}
			put(b, number, (size_t)snprintf(number, sizeof(number), "%d", *terminal));
			break;
		default:
			put(b, "%", 1);
		}
	}
	if (b->len >= sizeof(b->text))
		return err_set(err, ERR_USAGE, "key command is longer than %d bytes", COMMAND_MAX - 1);
	b->text[b->len] = '\0';
	return 0;
}

static int
command_run(const char *expanded, bool uses_terminal, int timeout_ms, struct kek *kek, struct err *err)
{
	static const char *const without[] = {"LD_PRELOAD", "WALCRYPT_KEK", "WALCRYPT_CONFIG", "PGENCRYPTIONKEY", NULL};
	const char *const argv[] = {"/bin/sh", "-c", expanded, NULL};
	struct subprocess p = {.argv = argv,
	                       .timeout_ms = timeout_ms,
	                       .own_group = !uses_terminal,
	                       .share_stderr = uses_terminal,
	                       .out_size = OUTPUT_MAX};
	char **environment = subprocess_environment(without);
	int result = -1;

	if (environment == NULL)
		return err_nomem(err);
	p.envp = environment;
	if ((p.out = secmem_alloc(OUTPUT_MAX, err)) == NULL)
		goto done;
	if (subprocess_run(&p, err) != 0) {
		err_context(err, "key command failed");
		goto done;
	}
	if (p.status != 0) {
		size_t len = strlen(p.err_text);

		while (len > 0 && (p.err_text[len - 1] == '\n' || p.err_text[len - 1] == '\r'))
			p.err_text[--len] = '\0';
		err_set(err, ERR_UNREACHABLE, "key command ended with exit status %d", p.status);
		if (len > 0 && !provider_holds_key(p.err_text))
			err_detail(err, "It said: %s", p.err_text);
		goto done;
	}
	result = provider_parse_key(p.out, p.out_len, true, "key command", kek, err);
done:
	secmem_free(p.out);
	free(environment);
	return result;
}

static int
command_fetch(const char *command, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	struct builder *b;
	int terminal = conf->terminal_fd, result = -1;

	if ((b = calloc(1, sizeof(*b))) == NULL)
		return err_nomem(err);
	if (expand(command, conf, b, &terminal, err) == 0)
		result = command_run(b->text, terminal >= 0, conf->timeout_ms, kek, err);
	if (terminal >= 0 && terminal != conf->terminal_fd)
		close(terminal);
	free(b);
	return result;
}

const struct provider_scheme provider_command = {.name = "command", .fetch = command_fetch};
