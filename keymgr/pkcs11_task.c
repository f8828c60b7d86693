#include "keymgr/pkcs11_task.h"

#include <dlfcn.h>
#include <errno.h>
#include <p11-kit/pkcs11.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS_MAX 64
#define KEYS_MAX 1024 /* in a list */

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
key_find(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, struct pkcs11_task *t, CK_OBJECT_HANDLE *key, struct err *err)
{
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &class, sizeof(class)}, {CKA_LABEL, t->label, strlen(t->label)}};
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
		err_set(err, ERR_REFUSED, "the token has several keys with the label \"%.100s\"", t->label);
		return err_hint(err, "Give labels that stand for one key each.");
	}
	*key = found[0];
	return 0;
}

/* Can it be read out of the token? *loose. */
static int
key_look(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, bool *loose, struct err *err)
{
	CK_BBOOL sensitive = CK_FALSE, extractable = CK_TRUE;
	CK_ATTRIBUTE attributes[] = {{CKA_SENSITIVE, &sensitive, sizeof(sensitive)},
	                             {CKA_EXTRACTABLE, &extractable, sizeof(extractable)}};
	CK_RV rv = f->C_GetAttributeValue(session, key, attributes, 2);

	*loose = !sensitive || extractable;
	return rv == CKR_OK ? 0 : failed(rv, "a look at the key", err);
}

static int
key_check(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, const struct pkcs11_task *t,
          struct err *err)
{
	bool loose;

	if (key_look(f, session, key, &loose, err) != 0)
		return -1;
	if (!loose)
		return 0;
	err_set(err, ERR_REFUSED, "the key \"%.100s\" could be read out of the token", t->label);
	return err_hint(err, "It must be sensitive and not extractable; --create-kek makes one that is.");
}

static int
key_generate(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, struct pkcs11_task *t, struct err *err)
{
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_AES;
	CK_ULONG len = 32;
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_ATTRIBUTE made[] = {{CKA_CLASS, &class, sizeof(class)}, {CKA_KEY_TYPE, &type, sizeof(type)},
	                       {CKA_VALUE_LEN, &len, sizeof(len)}, {CKA_LABEL, t->label, strlen(t->label)},
	                       {CKA_TOKEN, &yes, sizeof(yes)},     {CKA_PRIVATE, &yes, sizeof(yes)},
	                       {CKA_SENSITIVE, &yes, sizeof(yes)}, {CKA_EXTRACTABLE, &no, sizeof(no)},
	                       {CKA_ENCRYPT, &yes, sizeof(yes)},   {CKA_DECRYPT, &yes, sizeof(yes)}};
	CK_MECHANISM mechanism = {CKM_AES_KEY_GEN, NULL, 0};
	CK_OBJECT_HANDLE key;
	CK_RV rv = f->C_GenerateKey(session, &mechanism, made, sizeof(made) / sizeof(made[0]), &key);

	return rv == CKR_OK ? 0 : failed(rv, "the making of the key", err);
}

static int
key_use(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct pkcs11_task *t, struct err *err)
{
	CK_GCM_PARAMS gcm = {
	    .pIv = t->iv, .ulIvLen = sizeof(t->iv), .ulIvBits = 8 * sizeof(t->iv), .ulTagBits = 8 * PKCS11_TAG_LEN};
	CK_MECHANISM mechanism = {CKM_AES_GCM, &gcm, sizeof(gcm)};
	CK_ULONG out_len = sizeof(t->out);
	bool encrypt = t->what == PKCS11_ENCRYPT;
	CK_RV rv = encrypt ? f->C_EncryptInit(session, &mechanism, key) : f->C_DecryptInit(session, &mechanism, key);

	if (rv != CKR_OK)
		return failed(rv, encrypt ? "the wrapping" : "the unwrapping", err);
	rv = encrypt ? f->C_Encrypt(session, t->in, t->len, t->out, &out_len)
	             : f->C_Decrypt(session, t->in, t->len, t->out, &out_len);
	if (rv == CKR_OK) {
		t->out_len = out_len;
		return 0;
	}
	/* modules differ in what they call a tag that does not fit */
	if (encrypt || rv == CKR_DEVICE_REMOVED || rv == CKR_TOKEN_NOT_PRESENT)
		return failed(rv, encrypt ? "the wrapping" : "the unwrapping", err);
	err_set(err, ERR_DAMAGED, "the token's key \"%.100s\" does not open the wrapped cluster key", t->label);
	return err_hint(err, "Another key has the label now, or kek.wrapped in the key directory is damaged.");
}

static int
key_destroy(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, struct err *err)
{
	CK_RV rv = f->C_DestroyObject(session, key);

	return rv == CKR_OK ? 0 : failed(rv, "the destruction of the key", err);
}

/* A label and what is to be said of the key, each with its NUL, behind what t->list has. */
static int
list_add(struct pkcs11_task *t, const char *label, size_t len, const char *state, struct err *err)
{
	size_t more = len + 1 + strlen(state) + 1;
	char *longer = realloc(t->list, t->list_len + more);

	if (longer == NULL)
		return err_nomem(err);
	t->list = longer;
	memcpy(longer + t->list_len, label, len);
	longer[t->list_len + len] = '\0';
	memcpy(longer + t->list_len + len + 1, state, strlen(state) + 1);
	t->list_len += more;
	return 0;
}

/* The AES keys of the token. */
static int
keys_list(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, struct pkcs11_task *t, struct err *err)
{
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_AES;
	CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &class, sizeof(class)}, {CKA_KEY_TYPE, &type, sizeof(type)}};
	CK_OBJECT_HANDLE found[KEYS_MAX];
	CK_ULONG n = 0;
	CK_RV rv = f->C_FindObjectsInit(session, wanted, 2);

	if (rv == CKR_OK) {
		rv = f->C_FindObjects(session, found, KEYS_MAX, &n);
		f->C_FindObjectsFinal(session);
	}
	if (rv != CKR_OK)
		return failed(rv, "the search for keys", err);
	for (CK_ULONG i = 0; i < n; i++) {
		char label[sizeof(t->label)];
		CK_ATTRIBUTE attribute = {CKA_LABEL, label, sizeof(label)};
		bool loose;

		if (f->C_GetAttributeValue(session, found[i], &attribute, 1) != CKR_OK)
			continue; /* one whose label we could not have given */
		if (key_look(f, session, found[i], &loose, err) != 0 ||
		    list_add(t, label, attribute.ulValueLen, loose ? "refused: it could be read out" : "", err) != 0)
			return -1;
	}
	return 0;
}

static int
in_session(CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, struct pkcs11_task *t, struct err *err)
{
	CK_OBJECT_HANDLE key = CK_INVALID_HANDLE;
	CK_RV rv = f->C_Login(session, CKU_USER, (unsigned char *)t->pin, strlen(t->pin));
	int there;

	if (rv != CKR_OK && rv != CKR_USER_ALREADY_LOGGED_IN)
		return failed(rv, "the login", err);
	if (t->what == PKCS11_RANDOM) {
		rv = f->C_GenerateRandom(session, t->out, t->len);
		t->out_len = t->len;
		return rv == CKR_OK ? 0 : failed(rv, "the making of random bytes", err);
	}
	if (t->what == PKCS11_LIST)
		return keys_list(f, session, t, err);
	if ((there = key_find(f, session, t, &key, err)) < 0)
		return -1;
	if (t->what == PKCS11_GENERATE)
		return there == 1 ? key_generate(f, session, t, err)
		                  : err_set(err, ERR_REFUSED, "the token has a key \"%.100s\" already", t->label);
	if (there == 1) {
		err_set(err, ERR_FAILED, "the token \"%s\" has no key \"%.100s\"", t->token, t->label);
		err->os_errno = ENOENT;
		return -1;
	}
	if (t->what == PKCS11_DESTROY)
		return key_destroy(f, session, key, err);
	return key_check(f, session, key, t, err) == 0 ? key_use(f, session, key, t, err) : -1;
}

int
pkcs11_task_do(struct pkcs11_task *t, struct err *err)
{
	CK_C_INITIALIZE_ARGS threads = {.flags = CKF_OS_LOCKING_OK};
	CK_RV (*get_list)(CK_FUNCTION_LIST **);
	void *module = dlopen(t->module, RTLD_NOW | RTLD_LOCAL); /* stays: modules do not like to be unloaded */
	CK_SESSION_HANDLE session;
	CK_FUNCTION_LIST *f;
	CK_SLOT_ID slot;
	int result;
	CK_RV rv;

	if (module == NULL || (get_list = (CK_RV(*)(CK_FUNCTION_LIST **))dlsym(module, "C_GetFunctionList")) == NULL) {
		err_set(err, ERR_UNREACHABLE, "could not load the PKCS #11 module \"%.150s\"", t->module);
		return err_detail(err, "%s", module == NULL ? dlerror() : "It is no such module.");
	}
	if ((rv = get_list(&f)) != CKR_OK ||
	    ((rv = f->C_Initialize(&threads)) != CKR_OK && rv != CKR_CRYPTOKI_ALREADY_INITIALIZED))
		return failed(rv, "the module's start", err);
	if (slot_find(f, t->token, &slot, err) != 0)
		return -1;
	rv = f->C_OpenSession(
	    slot, CKF_SERIAL_SESSION | (t->what == PKCS11_GENERATE || t->what == PKCS11_DESTROY ? CKF_RW_SESSION : 0), NULL,
	    NULL, &session);
	if (rv != CKR_OK)
		return failed(rv, "a session", err);
	result = in_session(f, session, t, err);
	f->C_CloseSession(session); /* the last one logs out */
	return result;
}
