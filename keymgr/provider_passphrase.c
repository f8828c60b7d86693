/*
 * provider_passphrase: an envelope without a server. The cluster key lies in the key directory, sealed under a
 * passphrase (walcrypt/sealed.h: scrypt, its cost and salt beside it). The passphrase comes from the terminal ("ask"),
 * a file
 * ("/PATH"), or the variable PGENCRYPTIONKEY of the environment; never from an argument.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keymgr/passphrase.h"
#include "keymgr/provider_scheme.h"
#include "walcrypt/sealed.h"
#include "walcrypt/secmem.h"

#define MAGIC "WCPK"
#define VARIABLE "PGENCRYPTIONKEY"

/* The variable's value, once taken, for the next times; kek_finish frees it. The proxy fetches in one thread at a time.
 */
static struct passphrase *kept;

static int
passphrase_uri_check(const char *rest, const struct kek_conf *conf, struct err *err)
{
	(void)conf;
	if (rest[0] == '/' || strcmp(rest, "ask") == 0 || strcmp(rest, VARIABLE) == 0)
		return 0;
	err_set(err, ERR_USAGE, "key provider does not say where the passphrase comes from");
	return err_hint(err, "passphrase:ask (the terminal), passphrase:/PATH (a file) or passphrase:" VARIABLE
	                     " (the variable).");
}

void
provider_passphrase_forget(void)
{
	passphrase_free(kept);
	kept = NULL;
}

/* The variable is overwritten where it stands, because /proc shows that memory, and unset. */
static int
variable_keep(struct err *err)
{
	char *value = getenv(VARIABLE);
	size_t len = value != NULL ? strlen(value) : 0;

	if (len > PASSPHRASE_MAX)
		return err_set(err, ERR_USAGE, VARIABLE " has more than %d bytes", PASSPHRASE_MAX);
	if (len > 0 && kept == NULL && (kept = secmem_alloc(sizeof(*kept), err)) == NULL)
		return -1;
	if (len > 0) {
		memcpy(kept->text, value, len + 1);
		kept->len = len;
		secmem_wipe(value, len);
		unsetenv(VARIABLE);
	}
	if (kept != NULL)
		return 0;
	err_set(err, ERR_UNREACHABLE, VARIABLE " is not set");
	return err_hint(err, "Set it for this program, or use passphrase:ask or passphrase:/PATH.");
}

static struct passphrase *
variable_take(bool fresh, struct err *err)
{
	struct passphrase *copy;

	if (variable_keep(err) != 0)
		return NULL;
	if (fresh && kept->len < PASSPHRASE_NEW_MIN) {
		err_set(err, ERR_USAGE, "a new passphrase must have at least %d bytes", PASSPHRASE_NEW_MIN);
		return NULL;
	}
	if ((copy = secmem_alloc(sizeof(*copy), err)) != NULL)
		*copy = *kept;
	return copy;
}

static int
passphrase_take(const char *rest, struct err *err)
{
	return strcmp(rest, VARIABLE) == 0 ? variable_keep(err) : 0;
}

static int
passphrase_lend(const char *rest, struct err *err)
{
	if (strcmp(rest, VARIABLE) != 0)
		return 0;
	if (variable_keep(err) != 0)
		return -1;
	return setenv(VARIABLE, kept->text, 1) == 0 ? 0 : err_nomem(err);
}

static struct passphrase *
take(const char *rest, const struct kek_conf *conf, bool fresh, struct err *err)
{
	const struct passphrase_source source = {.file = rest[0] == '/' ? rest : NULL,
	                                         .fd = -1,
	                                         .prompt = fresh ? "New passphrase for the cluster key: "
	                                                         : "Passphrase for the cluster key: ",
	                                         .tty = conf->terminal_fd > 0 ? conf->terminal_fd : 0,
	                                         .timeout_ms = conf->timeout_ms};
	struct passphrase *p =
	    strcmp(rest, VARIABLE) == 0 ? variable_take(fresh, err) : passphrase_get(&source, fresh, err);

	if (p != NULL)
		return p;
	/* what is missing is not the key: --create-kek would not make it */
	if (err->os_errno == ENOENT)
		err->class = ERR_UNREACHABLE;
	err->os_errno = 0;
	if (strcmp(rest, "ask") == 0 && strstr(err->text, "no terminal") != NULL) {
		err->class = ERR_UNREACHABLE;
		err_hint(err, "Start it from a terminal, or use passphrase:/PATH.");
	}
	return NULL;
}

static int
passphrase_wrap(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	struct passphrase *p = take(rest, conf, true, err);
	uint8_t *sealed;
	size_t len;

	if (p == NULL)
		return -1;
	sealed = sealed_make(MAGIC, p->text, p->len, kek->key, sizeof(kek->key), &len, err);
	passphrase_free(p);
	if (sealed == NULL)
		return -1;
	memcpy(kek->wrapped, sealed, len);
	kek->wrapped_len = len;
	free(sealed);
	return 0;
}
_Static_assert(KEK_LEN + SEALED_OVERHEAD <= KEK_WRAPPED_MAX, "a sealed key fits");

static int
passphrase_unwrap(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	struct passphrase *p = NULL;
	uint8_t *key = NULL;
	int result = -1;
	size_t len;

	if (kek->wrapped_len < sizeof(MAGIC) - 1 || memcmp(kek->wrapped, MAGIC, sizeof(MAGIC) - 1) != 0) {
		err_set(err, ERR_DAMAGED, "the wrapped cluster key is not one that a passphrase opens");
		return err_hint(err, "walcrypt-ctl key show names the provider that it came from.");
	}
	if ((p = take(rest, conf, false, err)) != NULL &&
	    (key = sealed_open(MAGIC, "the wrapped cluster key", p->text, p->len, kek->wrapped, kek->wrapped_len, &len,
	                       err)) != NULL) {
		if (len == sizeof(kek->key)) {
			memcpy(kek->key, key, len);
			result = 0;
		} else
			err_set(err, ERR_DAMAGED, "the wrapped cluster key has another length");
	}
	secmem_free(key);
	passphrase_free(p);
	return result;
}

const struct provider_scheme provider_passphrase = {.name = "passphrase",
                                                    .check = passphrase_uri_check,
                                                    .wrap = passphrase_wrap,
                                                    .unwrap = passphrase_unwrap,
                                                    .take = passphrase_take,
                                                    .lend = passphrase_lend};
