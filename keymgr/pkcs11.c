#include "keymgr/pkcs11.h"

#include <dlfcn.h>
#include <errno.h>
#include <p11-kit/pkcs11.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "walcrypt/secmem.h"

#define TOKENS_MAX 64

/* All that a thread needs, its own copies: whoever waited may be gone. Secure memory. */
struct job {
	pthread_mutex_t lock;
	pthread_cond_t done;
	bool finished, abandoned;
	int result;
	enum pkcs11_what what;
	char module[1024], token[64], label[300], pin[PKCS11_PIN_MAX];
	uint8_t iv[PKCS11_IV_LEN], in[PKCS11_DATA_MAX + PKCS11_TAG_LEN], out[PKCS11_DATA_MAX + PKCS11_TAG_LEN];
	size_t len, out_len;
	struct err err;
};

static const char *
reason(CK_RV rv)
{
	switch (rv) {
	case CKR_PIN_INCORRECT:
	case CKR_PIN_INVALID:
	case CKR_PIN_LEN_RANGE:
		return "the PIN is wrong";
	case CKR_PIN_LOCKED:
		return "the PIN is locked after too many wrong ones";
	case CKR_USER_PIN_NOT_INITIALIZED:
		return "the token has no user PIN yet";
	case CKR_MECHANISM_INVALID:
		return "the token has no such mechanism";
	case CKR_KEY_FUNCTION_NOT_PERMITTED:
		return "the key may not be used for this";
	case CKR_DEVICE_REMOVED:
	case CKR_TOKEN_NOT_PRESENT:
		return "the token is not there";
	default:
		return "an error of the module";
	}
}

static int
failed(CK_RV rv, const char *what, struct err *err)
{
	err_set(err, ERR_UNREACHABLE, "the token: %s failed", what);
	return err_detail(err, "It said: %s (CKR %#lx).", reason(rv), (unsigned long)rv);
}

/* Is a field of 32 bytes, padded with blanks, this text? */
static bool
is_label(const unsigned char field[static 32], const char *text)
{
	size_t len = strlen(text);

	if (len > 32 || memcmp(field, text, len) != 0)
		return false;
	for (; len < 32; len++)
		if (field[len] != ' ')
			return false;
	return true;
}

static int
slot_find(CK_FUNCTION_LIST *f, const char *token, CK_SLOT_ID *slot, struct err *err)
{
	CK_SLOT_ID slots[TOKENS_MAX];
	CK_ULONG n = TOKENS_MAX;
	CK_TOKEN_INFO info;
	int found = 0;
	CK_RV rv = f->C_GetSlotList(CK_TRUE, slots, &n);

	if (rv != CKR_OK)
		return failed(rv, "the list of tokens", err);
	for (CK_ULONG i = 0; i < n; i++)
		if (f->C_GetTokenInfo(slots[i], &info) == CKR_OK && is_label(info.label, token)) {
			*slot = slots[i];
			found++;
		}
	if (found == 1)
		return 0;
	if (found > 1)
		return err_set(err, ERR_REFUSED, "there are %d tokens with the label \"%s\"", found, token);
	err_set(err, ERR_UNREACHABLE, "there is no token with the label \"%s\"", token);
	return err_hint(err, "pkcs11-tool --module MODULE --list-slots shows what there is.");
}

/* The key with the label; 1: there is none. */
static int
key_find(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, struct job *j, CK_OBJECT_HANDLE *key, struct err *err)
{
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &class, sizeof(class)}, {CKA_LABEL, j->label, strlen(j->label)}};
	CK_OBJECT_HANDLE found[2];
	CK_ULONG n = 0;
	CK_RV rv = f->C_FindObjectsInit(session, wanted, 2);

	if (rv == CKR_OK) {
		rv = f->C_FindObjects(session, found, 2, &n);
		f->C_FindObjectsFinal(session);
	}
	if (rv != CKR_OK)
		return failed(rv, "the search for the key", err);
	if (n == 0)
		return 1;
	if (n > 1) {
		err_set(err, ERR_REFUSED, "the token has several keys with the label \"%.100s\"", j->label);
		return err_hint(err, "Give labels that stand for one key each.");
	}
	*key = found[0];
	return 0;
}

/* It must not be possible to read it out. */
static int
key_check(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, const struct job *j, struct err *err)
{
	CK_BBOOL sensitive = CK_FALSE, extractable = CK_TRUE;
	CK_ATTRIBUTE attributes[] = {{CKA_SENSITIVE, &sensitive, sizeof(sensitive)},
	                             {CKA_EXTRACTABLE, &extractable, sizeof(extractable)}};
	CK_RV rv = f->C_GetAttributeValue(session, key, attributes, 2);

	if (rv != CKR_OK)
		return failed(rv, "a look at the key", err);
	if (sensitive && !extractable)
		return 0;
	err_set(err, ERR_REFUSED, "the key \"%.100s\" could be read out of the token", j->label);
	return err_hint(err, "It must be sensitive and not extractable; --create-kek makes one that is.");
}

static int
key_generate(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, struct job *j, struct err *err)
{
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_AES;
	CK_ULONG len = 32;
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_ATTRIBUTE made[] = {{CKA_CLASS, &class, sizeof(class)}, {CKA_KEY_TYPE, &type, sizeof(type)},
	                       {CKA_VALUE_LEN, &len, sizeof(len)}, {CKA_LABEL, j->label, strlen(j->label)},
	                       {CKA_TOKEN, &yes, sizeof(yes)},     {CKA_PRIVATE, &yes, sizeof(yes)},
	                       {CKA_SENSITIVE, &yes, sizeof(yes)}, {CKA_EXTRACTABLE, &no, sizeof(no)},
	                       {CKA_ENCRYPT, &yes, sizeof(yes)},   {CKA_DECRYPT, &yes, sizeof(yes)}};
	CK_MECHANISM mechanism = {CKM_AES_KEY_GEN, NULL, 0};
	CK_OBJECT_HANDLE key;
	CK_RV rv = f->C_GenerateKey(session, &mechanism, made, sizeof(made) / sizeof(made[0]), &key);

	return rv == CKR_OK ? 0 : failed(rv, "the making of the key", err);
}

static int
key_use(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct job *j, struct err *err)
{
	CK_GCM_PARAMS gcm = {
	    .pIv = j->iv, .ulIvLen = sizeof(j->iv), .ulIvBits = 8 * sizeof(j->iv), .ulTagBits = 8 * PKCS11_TAG_LEN};
	CK_MECHANISM mechanism = {CKM_AES_GCM, &gcm, sizeof(gcm)};
	CK_ULONG out_len = sizeof(j->out);
	bool encrypt = j->what == PKCS11_ENCRYPT;
	CK_RV rv = encrypt ? f->C_EncryptInit(session, &mechanism, key) : f->C_DecryptInit(session, &mechanism, key);

	if (rv != CKR_OK)
		return failed(rv, encrypt ? "the wrapping" : "the unwrapping", err);
	rv = encrypt ? f->C_Encrypt(session, j->in, j->len, j->out, &out_len)
	             : f->C_Decrypt(session, j->in, j->len, j->out, &out_len);
	if (rv == CKR_OK) {
		j->out_len = out_len;
		return 0;
	}
	/* modules differ in what they call a tag that does not fit */
	if (encrypt || rv == CKR_DEVICE_REMOVED || rv == CKR_TOKEN_NOT_PRESENT)
		return failed(rv, encrypt ? "the wrapping" : "the unwrapping", err);
	err_set(err, ERR_DAMAGED, "the token's key \"%.100s\" does not open the wrapped cluster key", j->label);
	return err_hint(err, "Another key has the label now, or kek.wrapped in the key directory is damaged.");
}

static int
in_session(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, struct job *j, struct err *err)
{
	CK_OBJECT_HANDLE key = CK_INVALID_HANDLE;
	CK_RV rv = f->C_Login(session, CKU_USER, (unsigned char *)j->pin, strlen(j->pin));
	int there;

	if (rv != CKR_OK && rv != CKR_USER_ALREADY_LOGGED_IN)
		return failed(rv, "the login", err);
	if (j->what == PKCS11_RANDOM) {
		rv = f->C_GenerateRandom(session, j->out, j->len);
		j->out_len = j->len;
		return rv == CKR_OK ? 0 : failed(rv, "the making of random bytes", err);
	}
	if ((there = key_find(f, session, j, &key, err)) < 0)
		return -1;
	if (j->what == PKCS11_GENERATE)
		return there == 1 ? key_generate(f, session, j, err)
		                  : err_set(err, ERR_REFUSED, "the token has a key \"%.100s\" already", j->label);
	if (there == 1) {
		err_set(err, ERR_FAILED, "the token \"%s\" has no key \"%.100s\"", j->token, j->label);
		err->os_errno = ENOENT;
		return -1;
	}
	return key_check(f, session, key, j, err) == 0 ? key_use(f, session, key, j, err) : -1;
}

static int
job_do(struct job *j, struct err *err)
{
	CK_C_INITIALIZE_ARGS threads = {.flags = CKF_OS_LOCKING_OK};
	CK_RV (*get_list)(CK_FUNCTION_LIST **);
	void *module = dlopen(j->module, RTLD_NOW | RTLD_LOCAL); /* stays: modules do not like to be unloaded */
	CK_SESSION_HANDLE session;
	CK_FUNCTION_LIST *f;
	CK_SLOT_ID slot;
	int result;
	CK_RV rv;

	if (module == NULL || (get_list = (CK_RV(*)(CK_FUNCTION_LIST **))dlsym(module, "C_GetFunctionList")) == NULL) {
		err_set(err, ERR_UNREACHABLE, "could not load the PKCS #11 module \"%.150s\"", j->module);
		return err_detail(err, "%s", module == NULL ? dlerror() : "It is no such module.");
	}
	if ((rv = get_list(&f)) != CKR_OK ||
	    ((rv = f->C_Initialize(&threads)) != CKR_OK && rv != CKR_CRYPTOKI_ALREADY_INITIALIZED))
		return failed(rv, "the module's start", err);
	if (slot_find(f, j->token, &slot, err) != 0)
		return -1;
	rv = f->C_OpenSession(slot, CKF_SERIAL_SESSION | (j->what == PKCS11_GENERATE ? CKF_RW_SESSION : 0), NULL, NULL,
	                      &session);
	if (rv != CKR_OK)
		return failed(rv, "a session", err);
	result = in_session(f, session, j, err);
	f->C_CloseSession(session); /* the last one logs out */
	return result;
}

static void
job_free(struct job *j)
{
	pthread_cond_destroy(&j->done);
	pthread_mutex_destroy(&j->lock);
	secmem_free(j);
}

static void *
job_thread(void *arg)
{
	struct job *j = arg;
	bool abandoned;
	int result = job_do(j, &j->err);

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
	pthread_condattr_t monotonic;

	if (j == NULL)
		return NULL;
	if (strlen(key->module) >= sizeof(j->module) || strlen(key->token) >= sizeof(j->token) ||
	    strlen(key->label) >= sizeof(j->label) || strlen(key->pin) >= sizeof(j->pin) || len > sizeof(j->in)) {
		secmem_free(j);
		err_set(err, ERR_USAGE, "module, token, label or PIN is too long");
		return NULL;
	}
	snprintf(j->module, sizeof(j->module), "%s", key->module);
	snprintf(j->token, sizeof(j->token), "%s", key->token);
	snprintf(j->label, sizeof(j->label), "%s", key->label);
	snprintf(j->pin, sizeof(j->pin), "%s", key->pin);
	memcpy(j->iv, iv, sizeof(j->iv));
	if (in != NULL)
		memcpy(j->in, in, len);
	j->what = what;
	j->len = len;
	pthread_mutex_init(&j->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&j->done, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return j;
}

int
pkcs11_run(enum pkcs11_what what, const struct pkcs11_key *key, const uint8_t iv[static PKCS11_IV_LEN],
           const uint8_t *in, size_t len, uint8_t *out, size_t *out_len, int timeout_ms, struct err *err)
{
	struct job *j = job_new(what, key, iv, in, len, err);
	struct timespec until;
	sigset_t all, before;
	pthread_t thread;
	int rc, result;

	if (j == NULL)
		return -1;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, NULL, job_thread, j);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0) {
		job_free(j);
		return err_os(err, rc, "could not start a thread");
	}
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
		return err_set(err, ERR_UNREACHABLE, "the token did not answer within %d ms", timeout_ms);
	}
	pthread_mutex_unlock(&j->lock);
	if ((result = j->result) == 0 && out != NULL) {
		memcpy(out, j->out, j->out_len);
		*out_len = j->out_len;
	}
	if (result != 0)
		*err = j->err;
	job_free(j);
	return result;
}
