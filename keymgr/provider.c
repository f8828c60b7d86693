#include "keymgr/provider.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "common/settings.h"
#include "keymgr/provider_scheme.h"
#include "walcrypt/random.h"
#include "walcrypt/secmem.h"

#define KEK_HEX_LEN (2 * KEK_LEN)

static const struct provider_scheme *const schemes[] = {&provider_file, &provider_command, &provider_vault_kv};

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
			return NULL;
		}
	/* not quoted in full: a key given by mistake must not reach a log */
	if (colon == NULL || provider_holds_key(conf->uri))
		err_set(err, ERR_USAGE, "key provider is not of the form SCHEME:SOURCE");
	else
		err_set(err, ERR_USAGE, "key provider \"%.*s\" is not known",
		        (int)(colon - conf->uri > 32 ? 32 : colon - conf->uri), conf->uri);
	err_hint(err, "Known are file:PATH, command:COMMAND and vault-kv://HOST:PORT/PATH.");
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

static int
hex_digit(char ch)
{
	return ch >= '0' && ch <= '9'   ? ch - '0'
	       : ch >= 'a' && ch <= 'f' ? ch - 'a' + 10
	       : ch >= 'A' && ch <= 'F' ? ch - 'A' + 10
	                                : -1;
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
		return scheme->check != NULL ? scheme->check(rest, err) : 0;
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

struct kek *
kek_fetch(const struct kek_conf *conf, struct err *err)
{
	struct kek_conf full = with_defaults(conf);
	const struct provider_scheme *scheme;
	const char *rest;
	struct kek *kek;

	if (kek_check(&full, err) != 0 || (scheme = scheme_of(&full, &rest, err)) == NULL)
		return NULL;
	if ((kek = secmem_alloc(sizeof(*kek), err)) == NULL)
		return NULL;
	if (scheme->fetch(rest, &full, kek, err) != 0) {
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

int
kek_store(const struct kek_conf *conf, const struct kek *kek, struct err *err)
{
	struct kek_conf full = with_defaults(conf);
	const struct provider_scheme *scheme;
	const char *rest;

	if ((scheme = scheme_of(&full, &rest, err)) == NULL)
		return -1;
	if (scheme->create == NULL) {
		err_set(err, ERR_REFUSED, "key provider \"%s:\" cannot make a cluster key", scheme->name);
		return err_hint(err, "Make the key where the provider takes it from, and leave --create-kek away.");
	}
	return scheme->create(rest, &full, kek, err);
}

int
kek_create(const struct kek_conf *conf, struct err *err)
{
	struct kek *kek = secmem_alloc(sizeof(*kek), err);
	int result = -1;

	if (kek != NULL && random_bytes(kek->key, sizeof(kek->key), err) == 0)
		result = kek_store(conf, kek, err);
	kek_free(kek);
	return result;
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
