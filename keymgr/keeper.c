#include "keymgr/keeper.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/coprocess.h"
#include "keymgr/provider_scheme.h"
#include "walcrypt/secmem.h"

#define GRACE_MS 1000 /* for a process to end when its stdin was closed */

struct keeper {
	struct keeper *next;
	char *command, *buf;
	struct coprocess process;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct keeper *keepers;

static void
keeper_stop(struct keeper *k, int grace_ms)
{
	coprocess_stop(&k->process, grace_ms);
	secmem_free(k->buf);
	k->buf = NULL;
}

void
keeper_stop_all(void)
{
	struct keeper *next;

	pthread_mutex_lock(&lock);
	for (; keepers != NULL; keepers = next) {
		next = keepers->next;
		keeper_stop(keepers, GRACE_MS);
		free(keepers->command);
		free(keepers);
	}
	pthread_mutex_unlock(&lock);
}

static struct keeper *
keeper_find(const char *command, struct err *err)
{
	static bool at_exit;
	struct keeper *k = keepers;

	while (k != NULL && strcmp(k->command, command) != 0)
		k = k->next;
	if (k != NULL)
		return k;
	if ((k = calloc(1, sizeof(*k))) == NULL || (k->command = strdup(command)) == NULL) {
		free(k);
		err_nomem(err);
		return NULL;
	}
	k->next = keepers;
	keepers = k;
	if (!at_exit)
		at_exit = atexit(keeper_stop_all) == 0;
	return k;
}

/* "error CODE TEXT" as an error of ours. */
static void
answer_error(char *line, struct err *err)
{
	static const struct {
		const char *code;
		enum err_class class;
		int os_errno;
		const char *text;
	} codes[] = {{"absent", ERR_FAILED, ENOENT, "has no such key"},
	             {"exists", ERR_FAILED, EEXIST, "has such a key already"},
	             {"denied", ERR_UNREACHABLE, 0, "denies the key"},
	             {"unavailable", ERR_UNREACHABLE, 0, "cannot reach its keys"},
	             {"unsupported", ERR_FAILED, ENOSYS, "does not know the question"}};
	char *code = line, *text = strchr(line, ' ');
	size_t known = 0;

	if (text != NULL)
		*text++ = '\0';
	while (known < sizeof(codes) / sizeof(codes[0]) && strcmp(codes[known].code, code) != 0)
		known++;
	if (known < sizeof(codes) / sizeof(codes[0])) {
		err_set(err, codes[known].class, "the key keeper %s", codes[known].text);
		err->os_errno = codes[known].os_errno;
	} else
		err_set(err, ERR_FAILED, "the key keeper failed");
	if (text != NULL && !provider_holds_key(text))
		err_detail(err, "It said: %s", text);
}

static int
no_answer(struct err *err)
{
	err_set(err, ERR_FAILED, "the key keeper's answer is none");
	return err_hint(err, "docs/formats/external.md says what it may answer.");
}

/* One question and its answer. 1: the answer is an error, which is in err; -1: there is none (os_errno EPIPE: the
 * process died), and the process cannot be asked again. */
static int
exchange(struct keeper *k, const char *question, char *answer, void (*each)(void *arg, char *line), void *arg,
         int64_t deadline_ms, struct err *err)
{
	char *line, *end;
	unsigned long n;

	if (coprocess_send(&k->process, question, strlen(question), deadline_ms, err) != 0 ||
	    coprocess_send(&k->process, "\n", 1, deadline_ms, err) != 0 ||
	    coprocess_line(&k->process, &line, deadline_ms, err) != 0)
		return -1;
	if (strncmp(line, "error ", 6) == 0) {
		answer_error(line + 6, err);
		return 1;
	}
	if (strncmp(line, "ok", 2) != 0 || (line[2] != '\0' && line[2] != ' '))
		return no_answer(err);
	snprintf(answer, KEEPER_LINE_MAX, "%s", line[2] == ' ' ? line + 3 : "");
	if (each == NULL)
		return 0;
	errno = 0;
	n = strtoul(answer, &end, 10);
	if (end == answer || *end != '\0' || answer[0] == '-' || n > KEEPER_KEYS_MAX)
		return no_answer(err);
	for (; n > 0; n--) {
		if (coprocess_line(&k->process, &line, deadline_ms, err) != 0)
			return -1;
		each(arg, line);
	}
	return 0;
}

static int
keeper_start(struct keeper *k, char *answer, int64_t deadline_ms, struct err *err)
{
	static const char *const without[] = {"LD_PRELOAD", "WALCRYPT_KEK", "WALCRYPT_CONFIG", "PGENCRYPTIONKEY", NULL};
	const char *const argv[] = {"/bin/sh", "-c", k->command, NULL};
	char **environment = subprocess_environment(without);
	int result = -1;

	if (environment == NULL)
		return err_nomem(err);
	if ((k->buf = secmem_alloc(KEEPER_LINE_MAX, err)) != NULL &&
	    coprocess_start(&k->process, argv, environment, k->buf, KEEPER_LINE_MAX, err) == 0 &&
	    exchange(k, "init walcrypt 1", answer, NULL, NULL, deadline_ms, err) == 0) {
		if (strcmp(answer, "1") == 0 || strncmp(answer, "1 ", 2) == 0)
			result = 0;
		else
			err_set(err, ERR_FAILED, "the key keeper speaks version \"%.20s\" of the protocol, not 1", answer);
	}
	free(environment);
	return result;
}

/* What the process said on stderr, and that it was the process. */
static void
explain(struct keeper *k, struct err *err)
{
	size_t len = k->process.err_len;
	char *said = k->process.err_text;
	bool died = err->os_errno == EPIPE;

	if (died)
		err_set(err, ERR_UNREACHABLE, "the key keeper has ended");
	else if (err->os_errno == ETIMEDOUT)
		err_set(err, ERR_UNREACHABLE, "the key keeper did not answer in time");
	else if (strstr(err->text, "key keeper") == NULL)
		err_context(err, "the key keeper failed");
	err->os_errno = died ? EPIPE : 0;
	while (len > 0 && (said[len - 1] == '\n' || said[len - 1] == '\r'))
		said[--len] = '\0';
	if (len > 0 && !provider_holds_key(said))
		err_detail(err, "It said: %s", said);
}

/* Ask, in a process that is started when it has to be; as exchange. */
static int
ask_once(struct keeper *k, struct keeper_talk *talk, void (*each)(void *arg, char *line), void *arg,
         int64_t deadline_ms, struct err *err)
{
	int result = 0;

	/* what was said unasked would be taken for this answer */
	if (k->process.pid != 0 && coprocess_has_more(&k->process))
		keeper_stop(k, 0);
	if (k->process.pid == 0)
		result = keeper_start(k, talk->answer, deadline_ms, err);
	if (result == 0)
		result = exchange(k, talk->question, talk->answer, each, arg, deadline_ms, err);
	if (result >= 0)
		return result;
	if (k->process.pid != 0)
		explain(k, err);
	return -1;
}

int
keeper_ask(const char *command, struct keeper_talk *talk, void (*each)(void *arg, char *line), void *arg,
           int64_t deadline_ms, struct err *err)
{
	struct keeper *k;
	int result = -1;

	pthread_mutex_lock(&lock);
	talk->sent_twice = false;
	if ((k = keeper_find(command, err)) == NULL)
		goto done;
	for (int tries = 0; tries < 2; tries++) {
		bool was_running = k->process.pid != 0;

		result = ask_once(k, talk, each, arg, deadline_ms, err);
		if (result >= 0)
			break;
		keeper_stop(k, 0);
		if (!was_running || err->os_errno != EPIPE)
			break;
		talk->sent_twice = true;
	}
	if (k->buf != NULL)
		secmem_wipe(k->buf, k->process.taken);
done:
	pthread_mutex_unlock(&lock);
	return result == 0 ? 0 : -1;
}
