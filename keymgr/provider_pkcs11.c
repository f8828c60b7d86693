/*
 * provider_pkcs11: an envelope. The cluster key lies in the key directory, encrypted by a key of a token (PKCS #11)
 * that never leaves it: pkcs11:token=LABEL;object=LABEL?module-path=FILE&pin-source=FILE, after RFC 7512.
 *
 * kek.wrapped: "WCP1", an initialization vector of 12 bytes, then AES-256-GCM's 32 bytes and its tag.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "keymgr/pkcs11.h"
#include "keymgr/provider_scheme.h"
#include "keymgr/secretfile.h"
#include "keymgr/uri.h"
#include "walcrypt/random.h"
#include "walcrypt/secmem.h"

#define URI_MAX 4096
#define MAGIC "WCP1"
#define MAGIC_LEN 4
#define SEALED_LEN (KEK_LEN + PKCS11_TAG_LEN)
#define WRAPPED_LEN (MAGIC_LEN + PKCS11_IV_LEN + SEALED_LEN)

struct source {
	char text[URI_MAX];
	struct pkcs11_key key;
	const char *pin_file;
};

/* NAME=VALUE of a path (separated by ;) or query (&). */
static int
attributes_parse(struct source *s, char *text, char separator, struct err *err)
{
	const struct {
		const char *name, **to;
		char separator;
	} known[] = {{"token", &s->key.token, ';'},
	             {"object", &s->key.label, ';'},
	             {"module-path", &s->key.module, '&'},
	             {"pin-source", &s->pin_file, '&'}};
	char *next;

	for (; text != NULL && *text != '\0'; text = next) {
		char *value = strchr(text, '=');
		size_t i = 0;

		if ((next = strchr(text, separator)) != NULL)
			*next++ = '\0';
		if (value == NULL || (next != NULL && value >= next))
			return err_set(err, ERR_USAGE, "key provider has a part without a value: \"%.63s\"", text);
		*value++ = '\0';
		if (strcmp(text, "pin-value") == 0) {
			err_set(err, ERR_REFUSED, "a PIN does not belong into a URI");
			return err_hint(err, "Put it into a file of mode 0600 and name that by pin-source=.");
		}
		while (i < 4 && (known[i].separator != separator || strcmp(known[i].name, text) != 0))
			i++;
		if (i == 4) {
			err_set(err, ERR_USAGE, "key provider has an unknown part \"%.63s\"", text);
			return err_hint(err, "Known are token and object, then module-path and pin-source.");
		}
		if (uri_unescape(value, err) != 0)
			return -1;
		*known[i].to = value;
	}
	return 0;
}

static int
source_parse(struct source *s, const char *rest, struct err *err)
{
	char *query;

	memset(s, 0, sizeof(*s));
	if ((size_t)snprintf(s->text, sizeof(s->text), "%s", rest) >= sizeof(s->text))
		return err_set(err, ERR_USAGE, "key provider is longer than %d bytes", URI_MAX - 1);
	if ((query = strchr(s->text, '?')) != NULL)
		*query++ = '\0';
	if (attributes_parse(s, s->text, ';', err) != 0 || attributes_parse(s, query, '&', err) != 0)
		return -1;
	if (s->pin_file != NULL && strncmp(s->pin_file, "file:", 5) == 0)
		s->pin_file += 5;
	if (s->key.token == NULL || s->key.label == NULL || s->key.module == NULL || s->pin_file == NULL ||
	    s->key.label[0] == '\0') {
		err_set(err, ERR_USAGE, "key provider lacks token, object, module-path or pin-source");
		return err_hint(err,
		                "For example: pkcs11:token=walcrypt;object=kek?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-"
		                "source=/etc/walcrypt/pin");
	}
	if (s->key.module[0] != '/')
		return err_set(err, ERR_USAGE, "module-path is not an absolute path");
	if (strlen(s->key.label) > 256)
		return err_set(err, ERR_USAGE, "the key's label is longer than 256 bytes");
	return 0;
}

static int
pkcs11_check(const char *rest, const struct kek_conf *conf, struct err *err)
{
	struct source s;

	(void)conf;
	return source_parse(&s, rest, err);
}

/* The source with its PIN, which is the caller's memory. */
static int
source_open(struct source *s, const char *rest, char *pin, struct err *err)
{
	if (pin == NULL || source_parse(s, rest, err) != 0)
		return -1;
	s->key.pin = pin;
	if (secretfile_line(s->pin_file, "PIN file", pin, PKCS11_PIN_MAX, err) == 0)
		return 0;
	err->os_errno = 0; /* what is missing is not the key */
	return -1;
}

static int
run(enum pkcs11_what what, const char *rest, const struct kek_conf *conf, const uint8_t *iv, const uint8_t *in,
    size_t len, uint8_t *out, size_t *out_len, struct err *err)
{
	char *pin = secmem_alloc(PKCS11_PIN_MAX, err);
	struct source s;
	int result = -1;

	if (source_open(&s, rest, pin, err) == 0)
		result = pkcs11_run(what, &s.key, iv, in, len, out, out_len, conf->timeout_ms, err);
	secmem_free(pin);
	return result;
}

static int
pkcs11_wrap(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	uint8_t *iv = kek->wrapped + MAGIC_LEN;
	size_t len = 0;

	memcpy(kek->wrapped, MAGIC, MAGIC_LEN);
	if (random_bytes(iv, PKCS11_IV_LEN, err) != 0 ||
	    run(PKCS11_ENCRYPT, rest, conf, iv, kek->key, KEK_LEN, iv + PKCS11_IV_LEN, &len, err) != 0)
		return -1;
	if (len != SEALED_LEN)
		return err_set(err, ERR_FAILED, "the token wrapped the key into %zu bytes instead of %d", len, SEALED_LEN);
	kek->wrapped_len = WRAPPED_LEN;
	return 0;
}
_Static_assert(PKCS11_DATA_MAX + PKCS11_TAG_LEN + MAGIC_LEN + PKCS11_IV_LEN <= KEK_WRAPPED_MAX, "whatever comes fits");

static int
pkcs11_unwrap(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err)
{
	const uint8_t *iv = kek->wrapped + MAGIC_LEN;
	uint8_t *key;
	int result = -1;
	size_t len = 0;

	if (kek->wrapped_len != WRAPPED_LEN || memcmp(kek->wrapped, MAGIC, MAGIC_LEN) != 0) {
		err_set(err, ERR_DAMAGED, "the wrapped cluster key is not one that a token opens");
		return err_hint(err, "walcrypt-ctl key show names the provider that it came from.");
	}
	if ((key = secmem_alloc(PKCS11_DATA_MAX + PKCS11_TAG_LEN, err)) == NULL)
		return -1;
	if (run(PKCS11_DECRYPT, rest, conf, iv, iv + PKCS11_IV_LEN, SEALED_LEN, key, &len, err) == 0) {
		if (len == KEK_LEN) {
			memcpy(kek->key, key, KEK_LEN);
			result = 0;
		} else
			err_set(err, ERR_DAMAGED, "the token unwrapped %zu bytes instead of %d", len, KEK_LEN);
	}
	secmem_free(key);
	return result;
}

static const uint8_t no_iv[PKCS11_IV_LEN];

static int
pkcs11_make(const char *rest, const struct kek_conf *conf, struct err *err)
{
	return run(PKCS11_GENERATE, rest, conf, no_iv, NULL, 0, NULL, NULL, err);
}

static int
pkcs11_destroy(const char *rest, const struct kek_conf *conf, const char *version, struct err *err)
{
	(void)version;
	return run(PKCS11_DESTROY, rest, conf, no_iv, NULL, 0, NULL, NULL, err);
}

struct listing {
	kek_listed *each;
	void *arg;
};

static void
listed(void *arg, const char *label, const char *state)
{
	const struct listing *l = arg;

	l->each(l->arg, label, "", state);
}

static int
pkcs11_keys(const char *rest, const struct kek_conf *conf, kek_listed *each, void *arg, struct err *err)
{
	char *pin = secmem_alloc(PKCS11_PIN_MAX, err);
	struct listing listing = {each, arg};
	struct source s;
	int result = -1;

	if (source_open(&s, rest, pin, err) == 0)
		result = pkcs11_list(&s.key, listed, &listing, conf->timeout_ms, err);
	secmem_free(pin);
	return result;
}

static int
pkcs11_random(const char *rest, const struct kek_conf *conf, uint8_t *out, size_t len, struct err *err)
{
	return run(PKCS11_RANDOM, rest, conf, no_iv, NULL, len, out, &len, err);
}

const struct provider_scheme provider_pkcs11 = {.name = "pkcs11",
                                                .check = pkcs11_check,
                                                .wrap = pkcs11_wrap,
                                                .unwrap = pkcs11_unwrap,
                                                .make_wrapping_key = pkcs11_make,
                                                .list = pkcs11_keys,
                                                .destroy = pkcs11_destroy,
                                                .random = pkcs11_random};
