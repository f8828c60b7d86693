#include "keymgr/provider.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/hex.h"
#include "common/settings.h"
#include "keymgr/keeper.h"
#include "keymgr/kmip.h"
#include "keymgr/provider_scheme.h"
#include "walcrypt/random.h"
#include "walcrypt/secmem.h"

#define KEK_HEX_LEN (2 * KEK_LEN)
#define STIR_LEN 32

static const struct provider_scheme *const schemes[] = {&provider_file,     &provider_command,      &provider_external,
                                                        &provider_kmip,     &provider_passphrase,   &provider_pkcs11,
                                                        &provider_vault_kv, &provider_vault_transit};

static const struct provider_scheme *
scheme_of(const struct kek_conf *conf, const char **rest, struct err *err)
{
	const char *colon = strchr(conf->uri, ':');
	size_t len = strcspn(conf->uri, ":+"); /* scheme+http: is the scheme's business */

	for (size_t i = 0; colon != NULL && i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (strlen(schemes[i]->name) == len && strncmp(schemes[i]->name, conf->uri, len) == 0) {
			*rest = conf->uri[len] == '+' ? conf->uri + len : colon + 1;
			if (colon[1] != '\0')
				return schemes[i];
			err_set(err, ERR_USAGE, "key provider \"%s\" names no source after the colon", conf->uri);
			err_hint(err, "docs/providers.md says how it is written.");
			return NULL;
		}
	/* not quoted in full: a key given by mistake must not reach a log */
	if (colon == NULL || provider_holds_key(conf->uri))
		err_set(err, ERR_USAGE, "key provider is not of the form SCHEME:SOURCE");
	else
		err_set(err, ERR_USAGE, "key provider \"%.*s\" is not known",
		        (int)(colon - conf->uri > 32 ? 32 : colon - conf->uri), conf->uri);
	err_hint(err, "docs/providers.md has them all; file:PATH is one.");
	return NULL;
}

void
kek_conf_set(struct kek_conf *conf, const struct settings_kek *section)
{
	conf->uri = section->uri;
	conf->timeout_ms = section->timeout_ms;
	conf->token_file = section->token_file;
	conf->ca_file = section->ca_file;
	conf->cert_file = section->cert_file;
	conf->key_file = section->key_file;
	conf->vault_namespace = section->vault_namespace;
	conf->login = section->login;
	conf->login_mount = section->login_mount;
	conf->login_role = section->login_role;
	conf->login_file = section->login_file;
	conf->provider_random = section->provider_random;
}

bool
provider_holds_key(const char *text)
{
	size_t run = 0;

	for (; *text != '\0'; text++) {
		run = isxdigit((unsigned char)*text) ? run + 1 : 0;
		if (run >= KEK_HEX_LEN)
			return true;
	}
	return false;
}

int
provider_parse_key(const char *text, size_t len, bool allow_named, const char *what, struct kek *kek, struct err *err)
{
	static const char named[] = "encryptionkey=";
	const char *end = memchr(text, '\n', len), *rest;
	size_t digits = 0;

	end = end != NULL ? end : text + len;
	for (rest = end; rest < text + len; rest++)
		if (!isspace((unsigned char)*rest))
			return err_set(err, ERR_FAILED, "%s gave more than one line", what);
	if (allow_named && (size_t)(end - text) >= sizeof(named) - 1 && memcmp(text, named, sizeof(named) - 1) == 0)
		text += sizeof(named) - 1;
	for (; text < end; text++) {
		int digit = hex_digit(*text);

		if (*text == ' ' || *text == '\t' || *text == '\r')
			continue;
		if (digit < 0 || digits == KEK_HEX_LEN)
			goto fail;
		kek->key[digits / 2] = (uint8_t)(kek->key[digits / 2] << 4 | digit);
		digits++;
	}
	if (digits == KEK_HEX_LEN)
		return 0;
fail:
	secmem_wipe(kek->key, sizeof(kek->key));
	err_set(err, ERR_FAILED, "%s gave no cluster key", what);
	return err_hint(err, "A cluster key is one line of %d hexadecimal digits.", KEK_HEX_LEN);
}

int
kek_check(const struct kek_conf *conf, struct err *err)
{
	const struct provider_scheme *scheme;
	const char *rest;

	if ((scheme = scheme_of(conf, &rest, err)) == NULL)
		return -1;
	if (!provider_holds_key(rest))
		return scheme->check != NULL ? scheme->check(rest, conf, err) : 0;
	err_set(err, ERR_REFUSED, "key provider holds 64 hexadecimal digits: a cluster key does not belong there");
	return err_hint(
	    err, "Everybody on the machine can read options and environments. Keep the key where the provider fetches "
	         "it from.");
}

static struct kek_conf
with_defaults(const struct kek_conf *conf)
{
	struct kek_conf full = *conf;

	full.timeout_ms = conf->timeout_ms > 0 ? conf->timeout_ms : 30000;
	return full;
}

bool
kek_is_envelope(const struct kek_conf *conf)
{
	const struct provider_scheme *scheme;
	struct err ignored;
	const char *rest;

	return (scheme = scheme_of(conf, &rest, &ignored)) != NULL && scheme->unwrap != NULL;
}

/* An envelope's key out of wrapped[0..len). */
static int
unwrap(const struct provider_scheme *scheme, const char *rest, const struct kek_conf *conf, const uint8_t *wrapped,
       size_t len, struct kek *kek, struct err *err)
{
	if (wrapped == NULL) {
		err_set(err, ERR_FAILED, "the key directory holds no cluster key wrapped by \"%s:\"", scheme->name);
		return err_hint(err, "Its cluster key comes from another provider: walcrypt-ctl key show names it.");
	}
	if (len == 0 || len > sizeof(kek->wrapped))
		return err_set(err, ERR_DAMAGED, "the wrapped cluster key has %zu bytes instead of 1 to %zu", len,
		               sizeof(kek->wrapped));
	memcpy(kek->wrapped, wrapped, len);
	kek->wrapped_len = len;
	return scheme->unwrap(rest, conf, kek, err);
}

struct kek *
kek_fetch(const struct kek_conf *conf, struct err *err)
{
	struct kek_conf full = with_defaults(conf);
	const struct provider_scheme *scheme;
	const char *rest;
	struct kek *kek;
	int result;

	if (kek_check(&full, err) != 0 || (scheme = scheme_of(&full, &rest, err)) == NULL)
		return NULL;
	if ((kek = secmem_alloc(sizeof(*kek), err)) == NULL)
		return NULL;
	if (scheme->unwrap != NULL)
		result = unwrap(scheme, rest, &full, full.wrapped, full.wrapped_len, kek, err);
	else
		result = scheme->fetch(rest, &full, kek, err);
	if (result != 0) {
		kek_free(kek);
		return NULL;
	}
	kek_reference(&full, kek->source, sizeof(kek->source));
	return kek;
}

void
kek_free(struct kek *kek)
{
	secmem_free(kek);
}

/* A store's new key; ERR_REFUSED when it cannot take one. */
static int
store(const struct provider_scheme *scheme, const char *rest, const struct kek_conf *conf, const struct kek *same,
      struct err *err)
{
	struct kek *kek = secmem_alloc(sizeof(*kek), err);
	int result = -1;

	if (kek == NULL)
		return -1;
	if (scheme->create == NULL) {
		err_set(err, ERR_REFUSED, "key provider \"%s:\" cannot make a cluster key", scheme->name);
		err_hint(err, "Make the key where the provider takes it from, and leave --create-kek away.");
	} else if (same != NULL || random_bytes(kek->key, sizeof(kek->key), err) == 0)
		result = scheme->create(rest, conf, same != NULL ? same : kek, err);
	kek_free(kek);
	return result;
}

/* An envelope's key: wrapped, and opened again, because what the provider cannot open would be lost. */
static struct kek *
wrap(const struct provider_scheme *scheme, const char *rest, const struct kek_conf *conf, const struct kek *same,
     struct err *err)
{
	struct kek *kek = secmem_alloc(sizeof(*kek), err), *again = NULL;

	if (kek == NULL)
		return NULL;
	if (same != NULL)
		memcpy(kek->key, same->key, sizeof(kek->key));
	if ((same == NULL && random_bytes(kek->key, sizeof(kek->key), err) != 0) ||
	    scheme->wrap(rest, conf, kek, err) != 0 || (again = secmem_alloc(sizeof(*again), err)) == NULL ||
	    unwrap(scheme, rest, conf, kek->wrapped, kek->wrapped_len, again, err) != 0)
		goto fail;
	if (!secmem_equal(kek->key, again->key, sizeof(kek->key))) {
		err_set(err, ERR_FAILED, "key provider \"%s:\" gave back another key than it was to wrap", scheme->name);
		goto fail;
	}
	kek_free(kek);
	kek_reference(conf, again->source, sizeof(again->source));
	return again;
fail:
	kek_free(kek);
	kek_free(again);
	return NULL;
}

int
kek_stir(const struct kek_conf *conf, struct err *err)
{
	struct kek_conf full = with_defaults(conf);
	const struct provider_scheme *scheme;
	const char *rest;
	uint8_t *extra;
	int result = -1;

	if (!conf->provider_random)
		return 0;
	if (kek_check(&full, err) != 0 || (scheme = scheme_of(&full, &rest, err)) == NULL)
		return -1;
	if (scheme->random == NULL) {
		err_set(err, ERR_REFUSED, "key provider \"%s:\" gives no random bytes", scheme->name);
		return err_hint(err, "Switch provider_random off: keys are then made by OpenSSL's generator alone.");
	}
	if ((extra = secmem_alloc(STIR_LEN, err)) == NULL)
		return -1;
	if (scheme->random(rest, &full, extra, STIR_LEN, err) == 0)
		result = random_stir(extra, STIR_LEN, err);
	else {
		err->os_errno = 0; /* what is missing is not the key */
		err_context(err, "random bytes of the key provider");
	}
	secmem_free(extra);
	return result;
}

struct kek *
kek_prepare(const struct kek_conf *conf, bool create, const struct kek *same, bool *made, struct err *err)
{
	struct kek_conf full = with_defaults(conf);
	const struct provider_scheme *scheme;
	const char *rest;
	struct kek *kek;

	if (made != NULL)
		*made = false;
	if (kek_check(&full, err) != 0 || (scheme = scheme_of(&full, &rest, err)) == NULL)
		return NULL;
	if (same == NULL && kek_stir(&full, err) != 0)
		return NULL;
	kek = scheme->wrap != NULL ? wrap(scheme, rest, &full, same, err) : kek_fetch(&full, err);
	if (kek != NULL || err->os_errno != ENOENT)
		return kek;
	if (!create)
		return NULL;
	if (scheme->wrap != NULL && scheme->make_wrapping_key == NULL) {
		err_hint(err, "Make it where the provider keeps it, and leave --create-kek away.");
		return NULL;
	}
	if ((scheme->wrap != NULL ? scheme->make_wrapping_key(rest, &full, err) : store(scheme, rest, &full, same, err)) !=
	    0)
		return NULL;
	if (made != NULL)
		*made = true;
	return scheme->wrap != NULL ? wrap(scheme, rest, &full, same, err) : kek_fetch(&full, err);
}

void
kek_reference(const struct kek_conf *conf, char *out, size_t out_len)
{
	const char *colon = strchr(conf->uri, ':');

	if (colon == NULL || provider_holds_key(conf->uri))
		snprintf(out, out_len, "(not shown)");
	else
		snprintf(out, out_len, "%s", conf->uri);
}

int
kek_list(const struct kek_conf *conf, kek_listed *each, void *arg, struct err *err)
{
	struct kek_conf full = with_defaults(conf);
	const struct provider_scheme *scheme;
	const char *rest;

	if (kek_check(&full, err) != 0 || (scheme = scheme_of(&full, &rest, err)) == NULL)
		return -1;
	if (scheme->list == NULL) {
		err_set(err, ERR_REFUSED, "key provider \"%s:\" cannot list its keys", scheme->name);
		return err_hint(err, "external:, file:, kmip:, pkcs11:, vault-kv: and vault-transit: can.");
	}
	return scheme->list(rest, &full, each, arg, err);
}

int
kek_destroy_check(const struct kek_conf *conf, struct err *err)
{
	const struct provider_scheme *scheme;
	const char *rest;

	if (kek_check(conf, err) != 0 || (scheme = scheme_of(conf, &rest, err)) == NULL)
		return -1;
	if (scheme->destroy != NULL)
		return 0;
	err_set(err, ERR_REFUSED, "key provider \"%s:\" cannot destroy a cluster key", scheme->name);
	return err_hint(err, "Destroy it where it is kept.");
}

int
kek_destroy(const struct kek_conf *conf, const char *version, struct err *err)
{
	struct kek_conf full = with_defaults(conf);
	const struct provider_scheme *scheme;
	const char *rest;

	if (kek_destroy_check(&full, err) != 0 || (scheme = scheme_of(&full, &rest, err)) == NULL)
		return -1;
	return scheme->destroy(rest, &full, version, err);
}

int
kek_take(const struct kek_conf *conf, struct err *err)
{
	const struct provider_scheme *scheme;
	const char *rest;

	if (kek_check(conf, err) != 0 || (scheme = scheme_of(conf, &rest, err)) == NULL)
		return -1;
	return scheme->take != NULL ? scheme->take(rest, err) : 0;
}

int
kek_lend(const struct kek_conf *conf, struct err *err)
{
	const struct provider_scheme *scheme;
	const char *rest;

	if (kek_check(conf, err) != 0 || (scheme = scheme_of(conf, &rest, err)) == NULL)
		return -1;
	return scheme->lend != NULL ? scheme->lend(rest, err) : 0;
}

int
kek_keep(const struct kek_conf *conf, int *again_s, struct err *err)
{
	struct kek_conf full = with_defaults(conf);
	const struct provider_scheme *scheme;
	const char *rest;

	*again_s = 0;
	if (kek_check(&full, err) != 0 || (scheme = scheme_of(&full, &rest, err)) == NULL)
		return -1;
	return scheme->keep != NULL ? scheme->keep(rest, &full, again_s, err) : 0;
}

void
kek_finish(void)
{
	keeper_stop_all();
	kmip_finish();
	provider_passphrase_forget();
}
