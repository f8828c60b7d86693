#include "keymgr/pkcs11.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "keymgr/pkcs11_task.h"
#include "walcrypt/secmem.h"

/* A task and whoever waits for it. Secure memory. */
struct job {
	pthread_mutex_t lock;
	pthread_cond_t done;
	bool finished, abandoned;
	int result;
	struct pkcs11_task task;
	struct err err;
};

static void
job_free(struct job *j)
{
	pthread_cond_destroy(&j->done);
	pthread_mutex_destroy(&j->lock);
	free(j->task.list);
	secmem_free(j);
}

static void *
job_thread(void *arg)
{
	struct job *j = arg;
	bool abandoned;
	int result = pkcs11_task_do(&j->task, &j->err);

	pthread_mutex_lock(&j->lock);
	j->result = result;
	j->finished = true;
	abandoned = j->abandoned;
	pthread_cond_signal(&j->done);
	pthread_mutex_unlock(&j->lock);
	if (abandoned)
		job_free(j);
	return NULL;
}

static struct job *
job_new(enum pkcs11_what what, const struct pkcs11_key *key, const uint8_t *iv, const uint8_t *in, size_t len,
        struct err *err)
{
	struct job *j = secmem_alloc(sizeof(*j), err);
	struct pkcs11_task *t = &j->task;
	pthread_condattr_t monotonic;

	if (j == NULL)
		return NULL;
	if (strlen(key->module) >= sizeof(t->module) || strlen(key->token) >= sizeof(t->token) ||
	    strlen(key->label) >= sizeof(t->label) || strlen(key->pin) >= sizeof(t->pin) || len > sizeof(t->in)) {
		secmem_free(j);
		err_set(err, ERR_USAGE, "module, token, label or PIN is too long");
		return NULL;
	}
	snprintf(t->module, sizeof(t->module), "%s", key->module);
	snprintf(t->token, sizeof(t->token), "%s", key->token);
	snprintf(t->label, sizeof(t->label), "%s", key->label);
	snprintf(t->pin, sizeof(t->pin), "%s", key->pin);
	memcpy(t->iv, iv, sizeof(t->iv));
	if (in != NULL)
		memcpy(t->in, in, len);
	t->what = what;
	t->len = len;
	pthread_mutex_init(&j->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&j->done, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return j;
}

/* Have a thread do it. 0 or -1: j is the caller's again, to be freed; 1: the deadline has passed, and it is the
 * thread's. */
static int
job_run(struct job *j, int timeout_ms, struct err *err)
{
	struct timespec until;
	sigset_t all, before;
	pthread_t thread;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, NULL, job_thread, j);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0)
		return err_os(err, rc, "could not start a thread");
	pthread_detach(thread);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000 + (until.tv_nsec + timeout_ms % 1000 * 1000000L) / 1000000000L;
	until.tv_nsec = (until.tv_nsec + timeout_ms % 1000 * 1000000L) % 1000000000L;
	pthread_mutex_lock(&j->lock);
	for (rc = 0; !j->finished && rc != ETIMEDOUT;)
		rc = pthread_cond_timedwait(&j->done, &j->lock, &until);
	if (!j->finished) {
		j->abandoned = true;
		pthread_mutex_unlock(&j->lock);
		err_set(err, ERR_UNREACHABLE, "the token did not answer within %d ms", timeout_ms);
		return 1;
	}
	pthread_mutex_unlock(&j->lock);
	if (j->result != 0)
		*err = j->err;
	return j->result;
}

int
pkcs11_run(enum pkcs11_what what, const struct pkcs11_key *key, const uint8_t iv[static PKCS11_IV_LEN],
           const uint8_t *in, size_t len, uint8_t *out, size_t *out_len, int timeout_ms, struct err *err)
{
	struct job *j = job_new(what, key, iv, in, len, err);
	int result;

	if (j == NULL)
		return -1;
	if ((result = job_run(j, timeout_ms, err)) > 0)
		return -1;
	if (result == 0 && out != NULL) {
		memcpy(out, j->task.out, j->task.out_len);
		*out_len = j->task.out_len;
	}
	job_free(j);
	return result;
}

int
pkcs11_list(const struct pkcs11_key *key, pkcs11_listed *each, void *arg, int timeout_ms, struct err *err)
{
	static const uint8_t none[PKCS11_IV_LEN];
	struct job *j = job_new(PKCS11_LIST, key, none, NULL, 0, err);
	int result;

	if (j == NULL)
		return -1;
	if ((result = job_run(j, timeout_ms, err)) > 0)
		return -1;
	for (size_t at = 0; result == 0 && at < j->task.list_len;) {
		const char *label = j->task.list + at, *state = label + strlen(label) + 1;

		each(arg, label, state);
		at += strlen(label) + strlen(state) + 2;
	}
	job_free(j);
	return result;
}
